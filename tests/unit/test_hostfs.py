"""hostfs and binds, against a real directory of the host."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from errno_check import fails
from polynix.kernelproc.fs.hostfs import DIRECTORY_FDS_MAX, HostFs, new_hostfs
from polynix.kernelproc.fs.hostfs_bind import new_bind
from polynix.kernelproc.uapi import errno as e
from polynix.kernelproc.uapi.fcntl import O_APPEND, O_CREAT, O_RDWR, O_WRONLY, RENAME_EXCHANGE, RENAME_NOREPLACE, SEEK_DATA, SEEK_HOLE
from polynix.kernelproc.uapi.mman import PROT_READ, PROT_WRITE
from polynix.kernelproc.vfs.attributes import change_mode, change_owner, change_times, truncate_node
from polynix.kernelproc.vfs.buffers import BytesInputBuffer
from vfs_world import World, WorldKernel


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "f").write_bytes(b"content")
    (tmp_path / "link").symlink_to("d/f")
    (tmp_path / "out").symlink_to("/etc/passwd")
    os.link(tmp_path / "d" / "f", tmp_path / "hard")
    os.mkfifo(tmp_path / "fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(tmp_path / "socket"))
    server.close()
    return tmp_path


def frozen(host: Path) -> World:
    kernel = WorldKernel()
    return World(new_hostfs(kernel, os.fsencode(host)), kernel)


def bound(host: Path) -> World:
    kernel = WorldKernel()
    fs, _ = new_bind(kernel, os.fsencode(host), read_only=False)
    return World(fs, kernel)


@pytest.mark.parametrize("make", [frozen, bound])
def test_what_the_host_has(make, host: Path) -> None:  # type: ignore[no-untyped-def]
    world = make(host)
    assert world.names(b"/") == {b"d", b"link", b"out", b"hard", b"fifo", b"socket"}
    assert world.read(b"/link") == b"content"
    assert world.read(b"/d/f", offset=3) == b"tent"
    assert world.place(b"/hard").node is world.place(b"/d/f").node
    node, real = world.place(b"/d/f").node, os.stat(host / "d/f")
    assert (node.ino, node.nlink, node.size, node.mtime_ns) == (real.st_ino, 2, 7, real.st_mtime_ns)
    assert {name: inode for name, (inode, _) in world.entries(b"/d").items()} == {name: world.place(b"/d/" + name).node.ino for name in (b"e", b"f")}
    assert stat.S_ISFIFO(world.place(b"/fifo").node.mode)
    with fails(e.ENXIO):
        world.open(b"/socket")


def test_links_lead_to_guest_paths(host: Path) -> None:
    with fails(e.ENOENT):
        frozen(host).place(b"/out")


def test_dots_do_not_lead_out(host: Path) -> None:
    world = frozen(host)
    assert world.place(b"/../..").node is world.place(b"/").node


@pytest.mark.parametrize("make", [frozen, bound])
def test_a_directory_replaced_by_a_link_does_not_lead_out(make, host: Path) -> None:  # type: ignore[no-untyped-def]
    world = make(host)
    directory = world.place(b"/d/e").node
    os.rmdir(host / "d" / "e")
    os.symlink("/etc", host / "d" / "e")
    for error in (e.ENOTDIR, e.ELOOP, e.ESTALE):
        try:
            with fails(error):
                directory.ops.lookup(directory, b"passwd")
            return
        except AssertionError:
            continue
    raise AssertionError("walked out of the root")


def test_a_file_replaced_under_an_immutable_tree_is_stale(host: Path) -> None:
    world = frozen(host)
    world.place(b"/d/f")
    os.unlink(host / "d/f")
    (host / "d/f").write_bytes(b"another")
    with fails(e.ESTALE):
        world.open(b"/d/f")


def test_read_only(host: Path) -> None:
    world = frozen(host)
    with fails(e.EROFS):
        world.open(b"/d/f", O_WRONLY)
    with fails(e.EROFS):
        world.write(b"/new", b"")


def test_immutable_trees_are_asked_once(host: Path) -> None:
    world = frozen(host)
    with fails(e.ENOENT):
        world.place(b"/later")
    (host / "later").write_bytes(b"")
    with fails(e.ENOENT):
        world.place(b"/later")


def test_descriptors_are_bounded(tmp_path: Path) -> None:
    for index in range(DIRECTORY_FDS_MAX + 50):
        (tmp_path / f"d{index}" / "x").mkdir(parents=True)
    world = frozen(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for index in range(DIRECTORY_FDS_MAX + 50):
        world.place(b"/d%d/x" % index)
    assert len(os.listdir("/proc/self/fd")) - before <= DIRECTORY_FDS_MAX
    world.place(b"/d0/x")
    ops = world.namespace.root.node.fs.ops
    assert isinstance(ops, HostFs)
    ops.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_sparse_files(host: Path) -> None:
    with open(host / "sparse", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
    opened = frozen(host).open(b"/sparse")
    assert opened.ops.seek(opened, 0, SEEK_DATA) == 1 << 19
    assert opened.ops.seek(opened, 0, SEEK_HOLE) == 0


# writable binds -------------------------------------------------------------------------------------------------------------


def test_changes_reach_the_host(host: Path) -> None:
    world = bound(host)
    world.mkdir(b"/new", 0o750)
    world.write(b"/new/f", b"one")
    world.write(b"/new/f", b"two", O_WRONLY | O_APPEND)
    world.symlink(b"f", b"/new/s")
    world.link(b"/new/f", b"/new/g")
    assert (host / "new/f").read_bytes() == b"onetwo"
    assert os.readlink(host / "new/s") == "f"
    assert os.stat(host / "new").st_mode == stat.S_IFDIR | 0o750
    assert world.place(b"/new/g").node.nlink == os.stat(host / "new/g").st_nlink == 2
    world.rename(b"/new", b"/moved")
    assert world.read(b"/moved/s") == b"onetwo"
    world.unlink(b"/moved/f")
    assert sorted(os.listdir(host / "moved")) == ["g", "s"]
    with fails(e.ENOTEMPTY):
        world.rmdir(b"/moved")
    world.unlink(b"/moved/g")
    world.unlink(b"/moved/s")
    world.rmdir(b"/moved")
    assert not (host / "moved").exists()


def test_the_hosts_changes_are_seen(host: Path) -> None:
    world = bound(host)
    with fails(e.ENOENT):
        world.place(b"/d/later")
    (host / "d/later").write_bytes(b"1")
    assert world.read(b"/d/later") == b"1"
    node = world.place(b"/d/later").node
    (host / "d/later").write_bytes(b"22")
    assert world.place(b"/d/later").node is node
    assert node.size == 2
    os.rename(host / "d", host / "elsewhere")
    assert world.read(b"/elsewhere/later") == b"22"
    with fails(e.ENOENT):
        world.place(b"/d")
    os.unlink(host / "elsewhere/later")
    (host / "elsewhere/later").mkdir()
    assert world.place(b"/elsewhere/later").node.is_directory


def test_owners_and_set_id_bits_stay_here(host: Path) -> None:
    world = bound(host)
    node = world.place(b"/d/f").node
    before = os.stat(host / "d/f")
    change_owner(world.task, node, 1234, 5678)
    change_mode(world.task, node, 0o6711)
    after = os.stat(host / "d/f")
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, stat.S_IFREG | 0o711)
    node = world.place(b"/d/f").node
    node.ops.refresh(node)
    assert (node.uid, node.gid, node.mode) == (1234, 5678, stat.S_IFREG | 0o6711)
    world.open(b"/suid", O_CREAT | O_RDWR, 0o4755).release()
    assert os.stat(host / "suid").st_mode & 0o7000 == 0
    assert world.place(b"/suid").node.mode & 0o7777 == 0o4755


def test_special_files_stay_here(host: Path) -> None:
    world = bound(host)
    world.mknod(b"/d/p", stat.S_IFIFO | 0o600)
    world.mknod(b"/d/null", stat.S_IFCHR | 0o666, 0x103)
    assert sorted(os.listdir(host / "d")) == ["e", "f"]
    assert world.names(b"/d") == {b"e", b"f", b"p", b"null"}
    with fails(e.EEXIST):
        world.mknod(b"/d/p", stat.S_IFIFO | 0o600)
    world.rename(b"/d/p", b"/p")
    assert stat.S_ISFIFO(world.place(b"/p").node.mode)
    world.rename(b"/d/f", b"/p")
    assert world.read(b"/p") == b"content"
    assert (host / "p").read_bytes() == b"content"
    with fails(e.ENOENT):
        world.place(b"/d/p")
    world.unlink(b"/d/null")
    assert world.names(b"/d") == {b"e"}


def test_rename_flags(host: Path) -> None:
    world = bound(host)
    world.write(b"/x", b"x")
    with fails(e.EEXIST):
        world.rename(b"/x", b"/hard", RENAME_NOREPLACE)
    world.rename(b"/x", b"/hard", RENAME_EXCHANGE)
    assert (world.read(b"/x"), world.read(b"/hard")) == (b"content", b"x")
    assert (host / "hard").read_bytes() == b"x"


def test_attributes_and_content(host: Path) -> None:
    world = bound(host)
    node = world.place(b"/d/f").node
    change_times(world.task, node, 1_000_000_001, 2_000_000_002)
    assert (os.stat(host / "d/f").st_atime_ns, os.stat(host / "d/f").st_mtime_ns) == (1_000_000_001, 2_000_000_002)
    truncate_node(world.task, node, 3)
    assert (host / "d/f").read_bytes() == b"con"
    link = world.place(b"/link", follow=False).node
    change_times(world.task, link, 5, 6)
    assert os.lstat(host / "link").st_mtime_ns == 6


def test_unlinked_but_open(host: Path) -> None:
    world = bound(host)
    file = world.open(b"/d/f", O_RDWR)
    world.unlink(b"/d/f")
    world.write(b"/d/f", b"another file")
    assert file.ops.write(file, 0, BytesInputBuffer(b"longer content")) == 14
    file.node.ops.refresh(file.node)
    assert file.node.size == 14
    assert world.read(b"/d/f") == b"another file"


def test_memory_objects_have_the_rights_that_were_asked_for(host: Path) -> None:
    world = bound(host)
    file = world.open(b"/d/f", O_RDWR)
    writable, _ = file.ops.get_memory(file, world.task, 4096, 0, PROT_READ | PROT_WRITE, True)
    private, _ = file.ops.get_memory(file, world.task, 4096, 0, PROT_READ | PROT_WRITE, False)
    assert writable.writable
    assert not private.writable
    with pytest.raises(OSError):
        os.pwrite(private.fd, b"x", 0)
    second = world.open(b"/d/f", O_RDWR)
    assert second.ops.get_memory(second, world.task, 4096, 0, PROT_WRITE, True)[0] is writable


def test_bind_of_a_file(host: Path) -> None:
    _, entry = new_bind(WorldKernel(), os.fsencode(host / "d/f"), read_only=False)  # type: ignore[arg-type]
    assert entry.node.is_regular
    with fails(e.ENOENT):
        new_bind(WorldKernel(), os.fsencode(host / "absent"), read_only=False)  # type: ignore[arg-type]
