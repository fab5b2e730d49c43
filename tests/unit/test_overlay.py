"""overlay over a real host directory, which must never change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from errno_check import fails
from polynix.kernelproc.fs.hostfs import new_hostfs
from polynix.kernelproc.fs.overlay import Overlay, new_overlay
from polynix.kernelproc.uapi import errno as e
from polynix.kernelproc.uapi.fcntl import O_APPEND, O_RDWR, O_TRUNC, O_WRONLY, RENAME_EXCHANGE
from polynix.kernelproc.uapi.mman import PROT_READ
from polynix.kernelproc.vfs.attributes import change_mode, change_owner, truncate_node
from polynix.kernelproc.vfs.buffers import BytesInputBuffer, BytesOutputBuffer
from vfs_world import ListSink, World, WorldKernel


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content = Path(path).read_bytes() if stat.S_ISREG(status.st_mode) else b""
            found[path] = (status.st_mode, status.st_mtime_ns, content)
    return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "d" / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "f").write_bytes(b"lower")
    (tmp_path / "d" / "big").write_bytes(b"0123456789" * 10000)
    (tmp_path / "d" / "sub" / "inner").write_bytes(b"inner")
    (tmp_path / "s").symlink_to("d/f")
    os.link(tmp_path / "d" / "f", tmp_path / "hard")
    before = snapshot(tmp_path)
    yield tmp_path
    assert snapshot(tmp_path) == before


@pytest.fixture
def world(host: Path) -> World:
    kernel = WorldKernel()
    return World(new_overlay(kernel, new_hostfs(kernel, os.fsencode(host))), kernel)  # type: ignore[arg-type]


def overlay_of(world: World) -> Overlay:
    ops = world.namespace.root.node.fs.ops
    assert isinstance(ops, Overlay)
    return ops


def test_lower_shows_through(world: World, host: Path) -> None:
    assert world.names(b"/d") == {b"sub", b"f", b"big"}
    assert world.read(b"/s") == b"lower"
    assert world.place(b"/d/f").node.ino == os.stat(host / "d/f").st_ino
    assert world.place(b"/d").node.nlink == os.stat(host / "d").st_nlink == 3


def test_copy_up(world: World, host: Path) -> None:
    node = world.place(b"/d/f").node
    reader = world.open(b"/hard")
    world.write(b"/d/f", b"+upper", O_WRONLY | O_APPEND)
    assert world.read(b"/d/f") == world.read(b"/hard") == b"lower+upper"
    out = BytesOutputBuffer(100)
    reader.ops.read(reader, 0, out)
    assert out.data == b"lower+upper"
    assert world.place(b"/d/f").node is node
    assert (node.ino, node.nlink) == (os.stat(host / "d/f").st_ino, 2)
    big = world.open(b"/d/big", O_RDWR)
    big.ops.write(big, 5, BytesInputBuffer(b"x"))
    assert world.read(b"/d/big") == b"01234x6789" + b"0123456789" * 9999
    world.write(b"/d/big", b"short", O_WRONLY | O_TRUNC)
    assert world.read(b"/d/big") == b"short"


def test_truncate_copies_what_is_left(world: World) -> None:
    node = world.place(b"/d/big").node
    truncate_node(world.task, node, 20000)
    assert world.read(b"/d/big") == b"0123456789" * 2000
    assert overlay_of(world).used_pages == 5


def test_attributes_change_without_copying(world: World) -> None:
    node = world.place(b"/d/big").node
    change_mode(world.task, node, 0o600)
    change_owner(world.task, node, 5, 6)
    assert overlay_of(world).used_pages == 0
    del node
    world.namespace.root.entry.cache.clear()
    node = world.place(b"/d/big").node
    assert (node.mode & 0o777, node.uid, node.gid) == (0o600, 5, 6)


def test_unlink_and_make_again(world: World) -> None:
    world.unlink(b"/d/f")
    with fails(e.ENOENT):
        world.place(b"/d/f")
    assert world.names(b"/d") == {b"sub", b"big"}
    assert world.place(b"/hard").node.nlink == 1
    assert world.read(b"/hard") == b"lower"
    world.write(b"/d/f", b"new")
    assert world.read(b"/d/f") == b"new"
    assert world.names(b"/d") == {b"sub", b"big", b"f"}
    world.unlink(b"/d/f")
    with fails(e.ENOENT):
        world.place(b"/d/f")
    world.unlink(b"/hard")


def test_removed_directories_come_back_empty(world: World) -> None:
    with fails(e.ENOTEMPTY):
        world.rmdir(b"/d/sub")
    world.unlink(b"/d/sub/inner")
    world.rmdir(b"/d/sub/deep")
    world.rmdir(b"/d/sub")
    assert world.place(b"/d").node.nlink == 2
    world.mkdir(b"/d/sub")
    assert world.names(b"/d/sub") == set()
    assert world.place(b"/d").node.nlink == 3


def test_rename_of_directories(world: World) -> None:
    inode = world.place(b"/d").node.ino
    world.rename(b"/d", b"/e")
    assert world.read(b"/e/sub/inner") == b"inner"
    assert world.names(b"/") == {b"e", b"s", b"hard"}
    assert world.place(b"/e").node.ino == inode
    with fails(e.ENOENT):
        world.place(b"/d/f")
    world.rename(b"/e/sub", b"/d")
    assert world.names(b"/d") == {b"inner", b"deep"}
    assert world.place(b"/e").node.nlink == 2
    world.write(b"/d/inner", b"changed")
    world.rename(b"/d", b"/e/sub")
    assert world.read(b"/e/sub/inner") == b"changed"


def test_rename_over_lower_names(world: World) -> None:
    world.write(b"/new", b"new")
    world.rename(b"/new", b"/d/f")
    assert world.read(b"/d/f") == b"new"
    assert world.place(b"/hard").node.nlink == 1
    assert [name for _, _, _, name in world.readdir(b"/d")].count(b"f") == 1
    world.rename(b"/d/f", b"/d/big", RENAME_EXCHANGE)
    assert world.read(b"/d/big") == b"new"
    assert len(world.read(b"/d/f")) == 100000
    world.rename(b"/s", b"/hard", RENAME_EXCHANGE)
    assert world.read(b"/s") == b"lower"
    assert sorted(world.names(b"/")) == [b"d", b"hard", b"s"]


def test_links_to_lower_files(world: World) -> None:
    world.link(b"/d/f", b"/third")
    assert world.place(b"/third").node is world.place(b"/hard").node
    assert world.place(b"/third").node.nlink == 3
    world.write(b"/third", b"all", O_WRONLY | O_TRUNC)
    assert world.read(b"/d/f") == b"all"


def test_maps_of_lower_files_are_read_only_descriptors(world: World) -> None:
    file = world.open(b"/d/big")
    lower, _ = file.ops.get_memory(file, world.task, 4096, 0, PROT_READ, False)
    assert not lower.writable
    world.write(b"/d/big", b"X", O_WRONLY)
    upper, _ = file.ops.get_memory(file, world.task, 4096, 0, PROT_READ, False)
    assert upper.read(0, 3) == b"X12"


def test_numbers_of_new_files_do_not_collide(world: World, host: Path) -> None:
    lower = {os.lstat(path).st_ino for path in snapshot(host)}
    for index in range(20):
        world.write(b"/n%d" % index, b"")
    mine = {world.place(b"/n%d" % index).node.ino for index in range(20)}
    assert len(mine) == 20
    assert not mine & lower


def test_readdir_agrees_with_stat_and_has_stable_offsets(world: World) -> None:
    world.write(b"/d/a", b"")
    world.unlink(b"/d/f")
    listing = list(world.readdir(b"/d", batch=1))
    assert {name for _, _, _, name in listing} == {b".", b"..", b"sub", b"big", b"a"}
    for inode, _, kind, name in listing:
        node = world.place(b"/d/" + name, follow=False).node
        assert (inode, kind) == (node.ino, node.mode >> 12)
    file = world.open(b"/d")
    sink = ListSink(3)
    file.ops.readdir(file, sink)
    world.write(b"/d/b", b"")
    world.rename(b"/d/" + listing[2][3], b"/away")  # passed already
    rest = ListSink(100)
    file.ops.readdir(file, rest)
    assert [entry[3] for entry in rest.entries] == [entry[3] for entry in listing[3:]] + [b"b"]


def test_space_comes_back(world: World) -> None:
    world.write(b"/d/big", b"x" * 50000)
    assert overlay_of(world).used_pages == 13
    world.unlink(b"/d/big")
    assert overlay_of(world).used_pages == 0
    assert not [ino for ino, node in overlay_of(world).pinned.items() if not node.nlink]


def test_nodes_without_changes_are_not_held(world: World) -> None:
    world.place(b"/d/sub/inner")
    world.namespace.root.entry.cache.clear()
    assert len(overlay_of(world)._nodes) == 1  # the root


def test_xattrs_come_up(world: World, host: Path) -> None:
    try:
        os.setxattr(host / "d/f", "user.color", b"blue")
    except OSError:
        pytest.skip("the host's file system has no extended attributes")
    node = world.place(b"/d/f").node
    assert node.ops.get_xattr(node, b"user.color") == b"blue"
    node.ops.set_xattr(node, b"user.color", b"red", 0)
    world.write(b"/d/f", b"x")
    assert node.ops.get_xattr(node, b"user.color") == b"red"
    assert os.getxattr(host / "d/f", "user.color") == b"blue"
