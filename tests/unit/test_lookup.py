"""Path walking: every rule of path_resolution(7) that programs lean on."""

from __future__ import annotations

import stat

import pytest
from errno_check import fails
from polynix.kernelproc.fs.tmpfs import new_tmpfs
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.uapi import errno as e
from polynix.kernelproc.uapi.fcntl import (
    AT_FDCWD,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOFOLLOW,
    O_PATH,
    O_RDONLY,
    O_RDWR,
    O_TMPFILE,
    O_TRUNC,
    O_WRONLY,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from polynix.kernelproc.uapi.mount import MS_RDONLY
from polynix.kernelproc.vfs import create, dir_entry, lookup
from polynix.kernelproc.vfs.dir_entry import NEGATIVE
from vfs_world import World


@pytest.fixture
def world() -> World:
    world = World()
    for path in (b"/a", b"/a/b", b"/a/b/c", b"/mnt"):
        world.mkdir(path)
    world.write(b"/a/file", b"data")
    world.symlink(b"b/c", b"/a/relative")
    world.symlink(b"/a/b", b"/absolute")
    world.symlink(b"loop", b"/loop")
    world.symlink(b"nowhere", b"/dangling")
    return world


def test_components(world: World) -> None:
    assert world.path(b"/") == b"/"
    assert world.path(b"//a///b/./c/") == b"/a/b/c"
    assert world.path(b"/a/b/../..") == b"/"
    assert world.path(b"/../../a") == b"/a"
    assert world.path(b"/a/relative/../..") == b"/a"
    assert world.path(b"/absolute/c") == b"/a/b/c"


def test_errors(world: World) -> None:
    with fails(e.ENOENT):
        world.place(b"")
    with fails(e.ENOENT):
        world.place(b"/a/none/x")
    with fails(e.ENOENT):
        world.place(b"/dangling")
    with fails(e.ENOTDIR):
        world.place(b"/a/file/x")
    with fails(e.ENOTDIR):
        world.place(b"/a/file/")
    with fails(e.ENOTDIR):
        world.place(b"/a/file/..")
    with fails(e.ELOOP):
        world.place(b"/loop")
    with fails(e.ENAMETOOLONG):
        world.place(b"/" + b"x" * 256)
    with fails(e.ENOENT):
        world.place(b"/" + b"x" * 255)


def test_links_are_counted_over_the_whole_walk(world: World) -> None:
    world.symlink(b"a", b"/l0")
    for index in range(45):
        world.symlink(b"l%d" % index, b"/l%d" % (index + 1))
    assert world.path(b"/l39") == b"/a"
    with fails(e.ELOOP):
        world.place(b"/l40")


def test_final_link(world: World) -> None:
    assert world.place(b"/absolute", follow=False).node.is_symlink
    assert world.place(b"/absolute/", follow=False).node.is_directory  # slashes follow all the same
    assert world.place(b"/dangling", follow=False).node.is_symlink


def test_slash_at_the_end_of_a_links_target(world: World) -> None:
    world.symlink(b"a/file/", b"/to-file")
    with fails(e.ENOTDIR):
        world.place(b"/to-file")
    world.symlink(b"a/", b"/to-directory")
    assert world.path(b"/to-directory/file") == b"/a/file"


def test_working_directory_and_its_removal(world: World) -> None:
    world.fs.cwd = world.place(b"/a/b/c")
    assert world.path(b"../../file") == b"/a/file"
    world.rmdir(b"/a/b/c")
    assert world.fs.cwd.path(world.fs) == b"/a/b/c (deleted)"
    assert world.path(b"..") == b"/a/b"
    with fails(e.ENOENT):
        world.mkdir(b"x")


def test_rename_moves_who_stands_inside(world: World) -> None:
    world.fs.cwd = world.place(b"/a/b/c")
    world.rename(b"/a/b", b"/moved")
    assert world.fs.cwd.path(world.fs) == b"/moved/c"
    assert world.path(b"..") == b"/moved"


def test_chroot_holds(world: World) -> None:
    world.fs.root = world.place(b"/a")
    assert world.path(b"/../../b") == b"/b"
    assert world.path(b"/b/../../..") == b"/"
    with fails(e.ENOENT):
        world.place(b"/absolute")
    world.symlink(b"/b", b"/inside")
    assert world.path(b"/inside/c") == b"/b/c"


def test_missing_names_are_remembered_and_forgotten(world: World) -> None:
    with fails(e.ENOENT):
        world.place(b"/a/new")
    directory = world.place(b"/a").entry
    assert directory.children[b"new"] is NEGATIVE
    world.write(b"/a/new", b"")
    assert world.place(b"/a/new").node.is_regular
    world.unlink(b"/a/new")
    assert directory.children[b"new"] is NEGATIVE


# mounts ---------------------------------------------------------------------------------------------------------------------


def test_mounts_are_crossed_both_ways(world: World) -> None:
    other = new_tmpfs(world.kernel)
    mount = world.namespace.mount(other, world.place(b"/mnt"))
    world.mkdir(b"/mnt/x")
    assert world.place(b"/mnt").node is other.root
    assert world.path(b"/mnt/x/../..") == b"/"
    assert world.path(b"/mnt/x") == b"/mnt/x"
    with fails(e.EBUSY):
        world.rmdir(b"/mnt")
    with fails(e.EXDEV):
        world.rename(b"/a/file", b"/mnt/file")
    with fails(e.EXDEV):
        world.link(b"/a/file", b"/mnt/file")
    world.namespace.unmount(mount)
    assert world.names(b"/mnt") == set()


def test_mounts_stack(world: World) -> None:
    first, second = new_tmpfs(world.kernel), new_tmpfs(world.kernel)
    world.namespace.mount(first, world.place(b"/mnt"))
    top = world.namespace.mount(second, world.place(b"/mnt"))
    assert world.place(b"/mnt").node is second.root
    assert world.path(b"/mnt/..") == b"/"
    assert world.path(b"/mnt") == b"/mnt"
    world.namespace.unmount(top)
    assert world.place(b"/mnt").node is first.root


def test_bind_shows_the_same_nodes(world: World) -> None:
    world.namespace.bind(world.place(b"/a/b"), world.place(b"/mnt"))
    assert world.place(b"/mnt/c").node is world.place(b"/a/b/c").node
    assert world.path(b"/mnt/c/../..") == b"/"
    world.mkdir(b"/mnt/d")
    assert world.names(b"/a/b") == {b"c", b"d"}


def test_recursive_bind_takes_mounts_along(world: World) -> None:
    inner = new_tmpfs(world.kernel)
    world.namespace.mount(inner, world.place(b"/a/b/c"))
    world.namespace.bind(world.place(b"/a"), world.place(b"/mnt"), recursive=True)
    assert world.place(b"/mnt/b/c").node is inner.root
    tree = world.namespace.subtree(world.place(b"/mnt").mount)
    assert len(tree) == 2
    with fails(e.EBUSY):
        world.namespace.unmount(tree[0])
    world.namespace.unmount(tree[0], detach=True)
    assert world.place(b"/a/b/c").node is inner.root


def test_copied_namespace_is_apart(world: World) -> None:
    world.namespace.mount(new_tmpfs(world.kernel), world.place(b"/mnt"))
    world.fs.cwd = world.place(b"/mnt")
    other = world.fs.fork()
    other.unshare_namespace()
    assert other.cwd.path(other) == b"/mnt"
    assert other.cwd.mount is not world.fs.cwd.mount
    world.namespace.unmount(world.fs.cwd.mount)
    assert len(other.namespace.mounts) == 2


def test_read_only_mounts(world: World) -> None:
    world.namespace.bind(world.place(b"/a"), world.place(b"/mnt")).flags |= MS_RDONLY
    for attempt in (
        lambda: world.open(b"/mnt/file", O_WRONLY),
        lambda: world.open(b"/mnt/new", O_CREAT | O_WRONLY),
        lambda: world.mkdir(b"/mnt/d"),
        lambda: world.unlink(b"/mnt/file"),
        lambda: world.rename(b"/mnt/file", b"/mnt/g"),
    ):
        with fails(e.EROFS):
            attempt()
    with fails(e.EEXIST):
        world.mkdir(b"/mnt/b")
    assert world.read(b"/mnt/file") == b"data"
    world.open(b"/mnt/file", O_CREAT).release()


# permissions ----------------------------------------------------------------------------------------------------------------


def test_search_permission(world: World) -> None:
    node = world.place(b"/a").node
    node.mode = stat.S_IFDIR | 0o750
    node.gid = 7
    world.credentials = Credentials.user(1000, 1000)
    with fails(e.EACCES):
        world.place(b"/a/file")
    with fails(e.EACCES):
        world.place(b"/a/..")
    assert world.place(b"/a").node is node
    world.credentials = Credentials.user(1000, 1000, (7,))
    assert world.read(b"/a/file") == b"data"
    with fails(e.EACCES):
        world.write(b"/a/new", b"")
    node.uid = 1000
    node.mode = stat.S_IFDIR | 0o077  # the owner's class decides alone
    with fails(e.EACCES):
        world.place(b"/a/file")


def test_open_permission(world: World) -> None:
    node = world.place(b"/a/file").node
    node.mode = stat.S_IFREG | 0o644
    world.credentials = Credentials.user(1000, 1000)
    world.open(b"/a/file").release()
    for flags in (O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_CREAT):
        with fails(e.EACCES):
            world.open(b"/a/file", flags)
    world.credentials = Credentials.root()
    node.mode = stat.S_IFREG
    world.open(b"/a/file", O_RDWR).release()
    with fails(e.EACCES):
        lookup.open_exec(world.task, AT_FDCWD, b"/a/file")
    node.mode = stat.S_IFREG | 0o100
    assert lookup.open_exec(world.task, AT_FDCWD, b"/a/file").node is node


def test_sticky_directories(world: World) -> None:
    world.place(b"/a").node.mode = stat.S_IFDIR | 0o1777
    world.place(b"/a/file").node.uid = 1
    world.credentials = Credentials.user(1000, 1000)
    with fails(e.EPERM):
        world.unlink(b"/a/file")
    with fails(e.EPERM):
        world.rename(b"/a/file", b"/a/g")
    world.write(b"/a/mine", b"")
    with fails(e.EPERM):
        world.rename(b"/a/mine", b"/a/file")
    world.unlink(b"/a/mine")


def test_set_group_id_directories_hand_down_their_group(world: World) -> None:
    node = world.place(b"/a").node
    node.gid, node.mode = 50, stat.S_IFDIR | 0o2777
    world.credentials = Credentials.user(1000, 1000)
    world.mkdir(b"/a/d", 0o700)
    world.write(b"/a/f", b"")
    assert (world.place(b"/a/d").node.gid, world.place(b"/a/d").node.mode & 0o7777) == (50, 0o2700)
    assert world.place(b"/a/f").node.gid == 50
    assert world.place(b"/a/f").node.uid == 1000


# open -----------------------------------------------------------------------------------------------------------------------


def test_create(world: World) -> None:
    world.fs.umask = 0o027
    world.open(b"/new", O_CREAT | O_WRONLY, 0o6777).release()
    assert world.place(b"/new").node.mode == stat.S_IFREG | 0o6750
    with fails(e.EEXIST):
        world.open(b"/new", O_CREAT | O_EXCL)
    with fails(e.EISDIR):
        world.open(b"/a", O_CREAT)
    with fails(e.EISDIR):
        world.open(b"/other/", O_CREAT)
    with fails(e.EISDIR):
        world.open(b"/a/.", O_CREAT)
    with fails(e.ENOENT):
        world.open(b"/none/x", O_CREAT)


def test_create_through_links(world: World) -> None:
    with fails(e.EEXIST):
        world.open(b"/dangling", O_CREAT | O_EXCL)
    with fails(e.ELOOP):
        world.open(b"/dangling", O_CREAT | O_NOFOLLOW)
    world.open(b"/dangling", O_CREAT).release()
    assert world.place(b"/nowhere").node.is_regular
    with fails(e.ELOOP):
        world.open(b"/loop", O_CREAT)
    world.symlink(b"../made", b"/a/up")
    world.open(b"/a/up", O_CREAT).release()
    assert world.place(b"/made").node.is_regular


def test_a_created_file_is_writable_whatever_its_mode(world: World) -> None:
    world.credentials = Credentials.user(1000, 1000)
    world.namespace.root.node.mode |= 0o777
    file = world.open(b"/readonly", O_CREAT | O_RDWR, 0o400)
    assert file.writable
    with fails(e.EACCES):
        world.open(b"/readonly", O_RDWR)


def test_open_kinds(world: World) -> None:
    with fails(e.EISDIR):
        world.open(b"/a", O_WRONLY)
    with fails(e.ENOTDIR):
        world.open(b"/a/file", O_DIRECTORY)
    with fails(e.ELOOP):
        world.open(b"/absolute", O_NOFOLLOW)
    with fails(e.ENOTDIR):
        world.open(b"/absolute", O_NOFOLLOW | O_DIRECTORY)
    assert world.open(b"/absolute", O_NOFOLLOW | O_PATH).node.is_symlink
    world.mknod(b"/socket", stat.S_IFSOCK | 0o666)
    with fails(e.ENXIO):
        world.open(b"/socket")
    world.mknod(b"/device", stat.S_IFCHR | 0o666, 0x1234)
    with fails(e.ENXIO):
        world.open(b"/device")


def test_tmpfile(world: World) -> None:
    file = world.open(b"/a", O_TMPFILE | O_RDWR)
    assert file.node.nlink == 0
    assert file.name is not None
    assert file.name.path(world.fs) == b"/a/#%d (deleted)" % file.node.ino
    place = file.name
    parent, name, _ = lookup.lookup_parent(world.task, AT_FDCWD, b"/a/named")
    create.make_link(world.task, place, parent, name)
    assert world.place(b"/a/named").node is file.node
    assert file.node.nlink == 1
    unlinkable = world.open(b"/a", O_TMPFILE | O_RDWR | O_EXCL).name
    assert unlinkable is not None
    with fails(e.ENOENT):
        create.make_link(world.task, unlinkable, parent, b"other")
    with fails(e.EINVAL):
        world.open(b"/a", O_TMPFILE | O_RDONLY)


def test_resolve_flags(world: World) -> None:
    world.fs.cwd = world.place(b"/a")
    assert world.place(b"b/../file", resolve=RESOLVE_BENEATH).node.is_regular
    for path in (b"..", b"b/../..", b"/a", b"b/../../a"):
        with fails(e.EXDEV):
            world.place(path, resolve=RESOLVE_BENEATH)
    world.symlink(b"/b/c", b"/a/escape")
    with fails(e.EXDEV):
        world.place(b"escape", resolve=RESOLVE_BENEATH)
    assert world.path(b"/a/b/c") == world.place(b"escape", resolve=RESOLVE_IN_ROOT).path(world.fs)
    assert world.place(b"../../..", resolve=RESOLVE_IN_ROOT).node is world.place(b"/a").node
    with fails(e.ELOOP):
        world.place(b"relative", resolve=RESOLVE_NO_SYMLINKS)
    world.namespace.mount(new_tmpfs(world.kernel), world.place(b"/a/b/c"))
    with fails(e.EXDEV):
        world.place(b"b/c", resolve=RESOLVE_NO_XDEV)


# names ----------------------------------------------------------------------------------------------------------------------


def test_names_that_are_no_names(world: World) -> None:
    for path in (b"/", b"/a/.", b"/a/.."):
        with fails(e.EEXIST):
            world.mkdir(path)
        with fails(e.EISDIR):
            world.unlink(path)
        with fails(e.EBUSY):
            world.rename(path, b"/x")
    with fails(e.EBUSY):
        world.rmdir(b"/")
    with fails(e.EINVAL):
        world.rmdir(b"/a/.")
    with fails(e.ENOTEMPTY):
        world.rmdir(b"/a/b/..")
    world.mkdir(b"/slashed//")
    world.rmdir(b"/slashed/")


def test_unlink_and_rmdir_kinds(world: World) -> None:
    with fails(e.EISDIR):
        world.unlink(b"/a")
    with fails(e.ENOTDIR):
        world.rmdir(b"/a/file")
    with fails(e.ENOTEMPTY):
        world.rmdir(b"/a")
    with fails(e.ENOTDIR):
        world.unlink(b"/a/file/")
    with fails(e.ENOTDIR):
        world.rmdir(b"/absolute")
    with fails(e.ENOENT):
        world.unlink(b"/none")


def test_rename_rules(world: World) -> None:
    world.write(b"/other", b"other")
    world.mkdir(b"/empty")
    with fails(e.EINVAL):
        world.rename(b"/a", b"/a/b/x")
    with fails(e.ENOTEMPTY):
        world.rename(b"/empty", b"/a")
    with fails(e.EISDIR):
        world.rename(b"/other", b"/empty")
    with fails(e.ENOTDIR):
        world.rename(b"/empty", b"/other")
    with fails(e.ENOTDIR):
        world.rename(b"/other", b"/x/")
    with fails(e.ENOTEMPTY):
        world.rename(b"/a/b", b"/a")
    with fails(e.EEXIST):
        world.rename(b"/other", b"/a/file", RENAME_NOREPLACE)
    with fails(e.ENOENT):
        world.rename(b"/other", b"/none", RENAME_EXCHANGE)
    world.rename(b"/other", b"/a/file", RENAME_EXCHANGE)
    assert (world.read(b"/other"), world.read(b"/a/file")) == (b"data", b"other")
    world.link(b"/other", b"/same")
    world.rename(b"/other", b"/same")  # two names of one file: nothing happens
    assert world.place(b"/other").node.nlink == 2
    world.rename(b"/other", b"/a/file")
    assert world.read(b"/a/file") == b"data"
    world.rename(b"/a/b/", b"/empty")
    assert world.path(b"/empty/c") == b"/empty/c"


def test_the_cache_is_bounded_and_drops_only_what_nobody_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dir_entry, "CACHE_MAX", 100)
    cache = world.namespace.root.entry.cache
    cache.limit = 100
    world.mkdir(b"/held")
    world.fs.cwd = world.place(b"/held")
    opened = []
    for index in range(3000):
        world.write(b"/f%d" % index, b"%d" % index)
        if index % 500 == 0:
            opened.append(world.open(b"/f%d" % index))
    root = world.namespace.root.entry
    assert len(cache.entries) < 2000
    cache.clear()
    for file in opened:
        assert file.name is not None
        assert root.children[file.name.entry.name] is file.name.entry
    assert root.children[b"held"] is world.fs.cwd.entry
    assert world.names(b"/") >= {b"f%d" % index for index in range(3000)}
    assert world.read(b"/f1") == b"1"
