"""tmpfs: content that moves from inline bytes to a memory object, holes, limits, seals, listings that are stable."""

from __future__ import annotations

import os
import stat

import pytest
from errno_check import fails
from polynix.kernelproc.fs.tmpfs import make_tmpfs, new_memfd_node, new_tmpfs
from polynix.kernelproc.fs.tmpfs_file import INLINE_MAX
from polynix.kernelproc.uapi import errno as e
from polynix.kernelproc.uapi.fcntl import (
    F_ADD_SEALS,
    F_GET_SEALS,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    O_CREAT,
    O_RDWR,
    SEEK_DATA,
    SEEK_END,
    SEEK_HOLE,
)
from polynix.kernelproc.uapi.mman import PROT_READ, PROT_WRITE
from polynix.kernelproc.vfs.attributes import truncate_node
from polynix.kernelproc.vfs.buffers import BytesInputBuffer, BytesOutputBuffer
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.stat import stat_bytes
from vfs_world import ListSink, World, WorldKernel


@pytest.fixture
def world() -> World:
    return World()


def write(file: FileObject, offset: int, data: bytes) -> int:
    return file.ops.write(file, offset, BytesInputBuffer(data))  # type: ignore[return-value]


def read(file: FileObject, offset: int, count: int) -> bytes:
    out = BytesOutputBuffer(count)
    file.ops.read(file, offset, out)
    return bytes(out.data)


def test_content_grows_out_of_the_kernel(world: World) -> None:
    file = world.open(b"/f", O_CREAT | O_RDWR)
    model = bytearray()
    for offset, data in ((0, b"abc"), (2, b"xyz"), (100, b"hole"), (INLINE_MAX - 4, b"over the edge"), (3, b"again")):
        assert write(file, offset, data) == len(data)
        model.extend(bytes(max(0, offset + len(data) - len(model))))
        model[offset : offset + len(data)] = data
        assert read(file, 0, 1 << 20) == model
        assert file.node.size == len(model)
        assert file.ops.seek(file, 0, SEEK_END) == len(model)
    assert read(file, len(model), 10) == b""
    assert read(file, len(model) - 3, 10) == model[-3:]


def test_maps_share_pages_with_read_and_write(world: World) -> None:
    file = world.open(b"/f", O_CREAT | O_RDWR)
    write(file, 0, b"small")
    memory, offset = file.ops.get_memory(file, world.task, 4096, 0, PROT_READ | PROT_WRITE, True)
    assert offset == 0
    assert memory.read(0, 10) == b"small"
    memory.write(1, b"MALL")
    assert read(file, 0, 10) == b"sMALL"
    write(file, 0, b"S")
    assert memory.read(0, 1) == b"S"
    assert file.ops.get_memory(file, world.task, 4096, 0, PROT_READ, False)[0] is memory


def test_truncate(world: World) -> None:
    file = world.open(b"/f", O_CREAT | O_RDWR)
    write(file, 0, b"0123456789")
    truncate_node(world.task, file.node, 4)
    truncate_node(world.task, file.node, 6)
    assert read(file, 0, 10) == b"0123\0\0"
    truncate_node(world.task, file.node, 1 << 30)
    stat_bytes(file.node)
    assert (file.node.size, file.node.blocks) == (1 << 30, 8)
    truncate_node(world.task, file.node, 2)
    assert read(file, 0, 10) == b"01"
    with fails(e.EFBIG):
        write(file, (1 << 63) - 1, b"x")


def test_holes(world: World) -> None:
    file = world.open(b"/f", O_CREAT | O_RDWR)
    write(file, 1 << 20, b"x")
    assert file.ops.seek(file, 0, SEEK_DATA) == 1 << 20
    assert file.ops.seek(file, 0, SEEK_HOLE) == 0
    assert file.ops.seek(file, 1 << 20, SEEK_HOLE) == (1 << 20) + 1
    with fails(e.ENXIO):
        file.ops.seek(file, 2 << 20, SEEK_DATA)
    file.node.ops.allocate(file.node, 0, 0, 8192)
    assert file.node.blocks == 24
    file.node.ops.allocate(file.node, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 21)
    assert (file.node.blocks, file.node.size) == (0, (1 << 20) + 1)
    with fails(e.EOPNOTSUPP):
        file.node.ops.allocate(file.node, 0x20, 0, 4096)


def test_size_limit() -> None:
    kernel = WorldKernel()
    world = World(new_tmpfs(kernel, size=8 * 4096), kernel)
    file = world.open(b"/f", O_CREAT | O_RDWR)
    assert write(file, 0, b"x" * 40000) == 8 * 4096
    with fails(e.ENOSPC):
        write(file, 8 * 4096, b"y")
    assert write(file, 4096, b"z" * 4096) == 4096  # pages that are there cost nothing
    other = world.open(b"/g", O_CREAT | O_RDWR)
    with fails(e.ENOSPC):
        write(other, 0, b"y")
    fields = file.node.fs.ops.statfs(file.node.fs)
    assert (fields["f_blocks"], fields["f_bfree"]) == (8, 0)
    world.unlink(b"/f")
    with fails(e.ENOSPC):
        write(other, 0, b"y")  # still open
    file.release()
    assert write(other, 0, b"y") == 1
    with fails(e.ENOSPC):
        other.node.ops.allocate(other.node, 0, 0, 9 * 4096)


def test_sparse_writes_below_a_limit() -> None:
    kernel = WorldKernel()
    world = World(new_tmpfs(kernel, size=4 * 4096), kernel)
    file = world.open(b"/f", O_CREAT | O_RDWR)
    assert write(file, 1 << 20, b"x") == 1
    assert write(file, 1 << 22, b"x") == 1
    assert write(file, 0, b"x" * 4096 * 3) == 4096 * 2
    assert file.node.fs.ops.used_pages == 4  # type: ignore[attr-defined]


def test_inode_limit() -> None:
    kernel = WorldKernel()
    world = World(new_tmpfs(kernel, inodes=3), kernel)
    world.mkdir(b"/d")
    world.write(b"/f", b"")
    with fails(e.ENOSPC):
        world.write(b"/g", b"")
    world.unlink(b"/f")
    world.write(b"/g", b"")


def test_mount_options() -> None:
    kernel = WorldKernel()
    kernel.memory_limit = 1 << 30
    fs = make_tmpfs(kernel, None, b"x", 0, b"size=10%,mode=0750,uid=5,gid=6,nr_inodes=1k")  # type: ignore[arg-type]
    assert fs.ops.page_limit == -(-((1 << 30) // 10) // 4096)  # type: ignore[attr-defined]
    assert (fs.root.mode, fs.root.uid, fs.root.gid) == (stat.S_IFDIR | 0o750, 5, 6)
    for bad in (b"size=x", b"nonsense", b"mode=9"):
        with fails(e.EINVAL):
            make_tmpfs(kernel, None, b"x", 0, bad)  # type: ignore[arg-type]


def test_storage_goes_with_the_last_reference(world: World) -> None:
    file = world.open(b"/f", O_CREAT | O_RDWR)
    write(file, 0, b"x" * 100000)
    memory, _ = file.ops.get_memory(file, world.task, 4096, 0, PROT_READ, True)
    world.link(b"/f", b"/g")
    world.unlink(b"/f")
    world.unlink(b"/g")
    assert file.node.nlink == 0
    assert read(file, 0, 3) == b"xxx"
    fd = memory.fd
    file.release()
    assert memory.read(0, 3) == b"xxx"  # a map still holds it
    del memory
    with pytest.raises(OSError):
        os.fstat(fd)


def test_unmounting_frees(world: World) -> None:
    world.mkdir(b"/mnt")
    fs = new_tmpfs(world.kernel)
    mount = world.namespace.mount(fs, world.place(b"/mnt"))
    world.write(b"/mnt/f", b"x" * 100000)
    file = world.open(b"/mnt/f")
    memory, _ = file.ops.get_memory(file, world.task, 4096, 0, PROT_READ, True)
    fd = memory.fd
    del memory
    file.release()
    del file
    world.namespace.unmount(mount)
    with pytest.raises(OSError):
        os.fstat(fd)


def test_link_counts(world: World) -> None:
    root = world.place(b"/").node
    assert root.nlink == 2
    world.mkdir(b"/a")
    world.mkdir(b"/b")
    world.mkdir(b"/a/sub")
    assert (root.nlink, world.place(b"/a").node.nlink) == (4, 3)
    world.rename(b"/a/sub", b"/b/sub")
    assert (world.place(b"/a").node.nlink, world.place(b"/b").node.nlink) == (2, 3)
    world.rename(b"/a", b"/b/sub")
    assert (root.nlink, world.place(b"/b").node.nlink) == (3, 3)
    world.rmdir(b"/b/sub")
    assert world.place(b"/b").node.nlink == 2


def test_times(world: World) -> None:
    world.write(b"/f", b"x")
    root, file = world.place(b"/").node, world.place(b"/f").node
    before = root.mtime_ns, file.mtime_ns
    world.write(b"/f", b"y", O_RDWR)
    assert (root.mtime_ns, file.mtime_ns > before[1]) == (before[0], True)
    ctime = file.ctime_ns
    world.link(b"/f", b"/g")
    assert root.mtime_ns > before[0]
    assert file.ctime_ns > ctime
    assert file.mtime_ns < root.mtime_ns


def test_seals(world: World) -> None:
    place = new_memfd_node(world.kernel, b"x", 0)
    node = place.node
    assert place.path() == b"/memfd:x (deleted)"
    file = FileObject(node.ops.create_file_ops(node, world.task, O_RDWR), node, O_RDWR, place).retain()

    def seal(seals: int) -> None:
        assert file.ops.fcntl(file, world.task, F_ADD_SEALS, seals) == 0

    write(file, 0, b"12345678")
    seal(F_SEAL_GROW)
    with fails(e.EPERM):
        write(file, 4, b"56789")
    assert write(file, 4, b"5678") == 4
    seal(F_SEAL_SHRINK)
    with fails(e.EPERM):
        node.ops.truncate(node, 3)
    with fails(e.EINVAL):
        seal(0x4000)
    seal(F_SEAL_WRITE | F_SEAL_SEAL)
    with fails(e.EPERM):
        write(file, 0, b"x")
    with fails(e.EPERM):
        file.ops.get_memory(file, world.task, 4096, 0, PROT_READ | PROT_WRITE, True)
    file.ops.get_memory(file, world.task, 4096, 0, PROT_READ | PROT_WRITE, False)
    with fails(e.EPERM):
        seal(F_SEAL_GROW)
    assert file.ops.fcntl(file, world.task, F_GET_SEALS, 0) == F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE | F_SEAL_SEAL


# listings -------------------------------------------------------------------------------------------------------------------


def test_offsets_stay_while_names_come_and_go(world: World) -> None:
    names = [b"f%03d" % index for index in range(100)]
    for name in names:
        world.write(b"/" + name, b"")
    seen = []
    file = world.open(b"/")
    while True:
        sink = ListSink(7)
        file.ops.readdir(file, sink)
        if not sink.entries:
            break
        for _, _, _, name in sink.entries:
            if name not in (b".", b".."):
                seen.append(name)
                world.unlink(b"/" + name)  # as rm -r does
    assert seen == names
    assert world.names(b"/") == set()


def test_seekdir(world: World) -> None:
    for index in range(20):
        world.write(b"/f%d" % index, b"")
    listing = list(world.readdir(b"/"))
    file = world.open(b"/")
    for index, (_, next_offset, _, _) in enumerate(listing[:-1]):
        file.offset = next_offset
        sink = ListSink(1)
        file.ops.readdir(file, sink)
        assert sink.entries == [listing[index + 1]]


def test_rewinding_shows_new_names(world: World) -> None:
    file = world.open(b"/")
    file.ops.readdir(file, ListSink(100))
    world.write(b"/late", b"")
    file.offset = 0
    sink = ListSink(100)
    file.ops.readdir(file, sink)
    assert [name for _, _, _, name in sink.entries] == [b".", b"..", b"late"]


def test_xattrs(world: World) -> None:
    world.write(b"/f", b"")
    node = world.place(b"/f").node
    with fails(e.ENODATA):
        node.ops.get_xattr(node, b"user.x")
    node.ops.set_xattr(node, b"user.x", b"1", 1)
    with fails(e.EEXIST):
        node.ops.set_xattr(node, b"user.x", b"2", 1)
    with fails(e.ENODATA):
        node.ops.set_xattr(node, b"user.y", b"2", 2)
    assert node.ops.list_xattrs(node) == [b"user.x"]
    node.ops.remove_xattr(node, b"user.x")
    with fails(e.ENODATA):
        node.ops.remove_xattr(node, b"user.x")
