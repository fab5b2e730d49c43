"""Readers of file system images, compared with the host's tree that the image was made of; and damaged images, which must only ever give clean errors."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from event_world import new_kernel
from harness import directory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polynix.addrspace.paged_memory import PagedMemory
from polynix.ipc.objects import Channel
from polynix.ipc.protocols.component import ComponentNamespaceEntry
from polynix.ipc.protocols.manager import Manager
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.image import ImageDirectory, ImageFile, ask, new_image, open_reader
from polynix.kernelproc.fs.image_cache import LOOK_BYTES, ImageCache
from polynix.kernelproc.fs.image_ext4 import decode_time
from polynix.kernelproc.fs.image_format import ImageError, ImageReader
from polynix.kernelproc.incoming_directory import SERVICES, IncomingDirectory
from polynix.kernelproc.uapi.errno import EIO, EUCLEAN
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.runner.manager import ContainerManager, ManagerThreads
from polynix.runner.service_directory import ServiceDirectory

PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
MKE2FS = ["mke2fs", "-q", "-E", f"root_owner={os.geteuid()}:{os.getegid()}"]
MAKERS: dict[str, list[str]] = {
    "ext4": [*MKE2FS, "-t", "ext4", "-d", "TREE", "IMAGE", "12M"],
    "ext4-1k": [*MKE2FS, "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit", "-d", "TREE", "IMAGE", "12M"],
    "ext3": [*MKE2FS, "-t", "ext3", "-d", "TREE", "IMAGE", "12M"],
    "ext2": [*MKE2FS, "-t", "ext2", "-b", "1024", "-I", "128", "-d", "TREE", "IMAGE", "12M"],
    "gzip": ["mksquashfs", "TREE", "IMAGE", "-comp", "gzip"],
    "xz": ["mksquashfs", "TREE", "IMAGE", "-comp", "xz", "-b", "16K"],
    "zstd": ["mksquashfs", "TREE", "IMAGE", "-comp", "zstd", "-b", "1M"],
    "lz4": ["mksquashfs", "TREE", "IMAGE", "-comp", "lz4"],
    "plain": ["mksquashfs", "TREE", "IMAGE", "-noI", "-noD", "-noF", "-noX", "-no-fragments"],
}


INLINE = [*MKE2FS, "-t", "ext4", "-O", "inline_data", "-I", "512", "-d", "TREE", "IMAGE", "12M"]


def make(kind: str, tree: Path, image: Path) -> Path:
    command = [str(tree) if word == "TREE" else str(image) if word == "IMAGE" else word for word in {**MAKERS, "ext4-inline": INLINE}[kind]]
    subprocess.run(command, check=True, env={"PATH": PATH}, stdout=subprocess.DEVNULL)
    return image


def grow(tree: Path) -> None:
    """Something of everything."""
    (tree / "empty").mkdir()
    (tree / "many").mkdir(mode=0o1777)
    for number in range(700):
        (tree / "many" / f"{number:0{1 + number % 120}}").write_bytes(b"%d" % number)
    (tree / "a").write_bytes(b"small")
    (tree / "nothing").touch()
    (tree / "big").write_bytes(os.urandom(700_000) + bytes(300_000) + b"x" * 123_457)
    with open(tree / "sparse", "wb") as file:
        for position in (0, 5_000_000, 20_000_000, 70_000_001):
            file.seek(position)
            file.write(b"data at %d" % position)
        file.truncate(90_000_000)
    os.link(tree / "a", tree / "link")
    (tree / "short").symlink_to("a")
    (tree / "long").symlink_to("x/" * 100 + "end")
    os.mkfifo(tree / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
    os.chmod(tree / "a", 0o4751)
    os.utime(tree / "a", ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321))
    os.utime(tree / "empty", (5, 4_000_000_000))
    os.setxattr(tree / "a", "user.colour", b"green")
    os.setxattr(tree / "big", "user.long", b"v" * 700)
    if os.geteuid() == 0:
        os.mknod(tree / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(tree / "disk", 0o660 | stat.S_IFBLK, os.makedev(259, 70_000))
        os.chown(tree / "big", 70_000, 80_000)


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    with directory("images") as root:
        tree = root / "tree"
        tree.mkdir()
        grow(tree)
        yield tree


class Mounted:
    """An image mounted in a kernel without guests, whose runner is a thread."""

    def __init__(self, path: Path) -> None:
        self.threads = ManagerThreads()
        services = ServiceDirectory({Manager.__fidl_protocol__.name: ContainerManager(self.threads).serve})
        self._ours, theirs = Channel.create()
        self._thread = threading.Thread(target=lambda: asyncio.run(services.serve(theirs)), daemon=True)
        self._thread.start()
        kernel = self.kernel = new_kernel()
        kernel.expando.remove(IncomingDirectory)
        kernel.expando.get(IncomingDirectory).enter(kernel.engine, [ComponentNamespaceEntry(path=SERVICES, directory=self._ours)])
        self.fs = new_image(kernel, os.fsencode(path))

    def close(self) -> None:
        self.fs.ops.unmount(self.fs)
        self._ours.close()
        self._thread.join()
        self.threads.close()


def compare(host: Path, node: FsNode) -> int:
    """Compare a tree; how many files there were."""
    status = os.lstat(host)
    assert (node.mode, node.uid, node.gid) == (status.st_mode, status.st_uid, status.st_gid), host
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISSOCK(status.st_mode)):
        assert node.nlink == status.st_nlink and node.rdev == status.st_rdev
    if node.ino != node.fs.root.ino:  # mke2fs makes the root directory itself, and keeps 32 bits of a time
        assert node.mtime_ns // 1_000_000_000 & 0xFFFFFFFF == int(status.st_mtime), host
    names = {os.fsencode(name): os.getxattr(host, name, follow_symlinks=False) for name in os.listxattr(host, follow_symlinks=False)}
    assert {name: node.ops.get_xattr(node, name) for name in node.ops.list_xattrs(node)} == names, host
    if stat.S_ISLNK(status.st_mode):
        assert node.ops.readlink(node, None) == os.fsencode(os.readlink(host))  # type: ignore[arg-type]
    elif stat.S_ISREG(status.st_mode):
        assert isinstance(node.ops, ImageFile) and node.size == status.st_size
        assert node.ops.memory().read(0, node.size) == host.read_bytes(), host
    elif stat.S_ISDIR(status.st_mode):
        assert isinstance(node.ops, ImageDirectory)
        found = {item.name: item for item in node.ops.list(node) if item.name != b"lost+found"}
        assert set(found) == {os.fsencode(name) for name in os.listdir(host)}
        for name, item in found.items():
            child = node.ops.lookup(node, name)
            assert (item.inode, item.kind) == (child.ino, stat.S_IFMT(child.mode) >> 12)
        return 1 + sum(compare(host / os.fsdecode(name), node.ops.lookup(node, name)) for name in found)
    return 1


@pytest.mark.parametrize("kind", MAKERS)
def test_an_image_shows_the_tree_that_it_was_made_of(kind: str, tree: Path) -> None:
    mounted = Mounted(make(kind, tree, tree.parent / kind))
    try:
        assert compare(tree, mounted.fs.root) > 710
        links = [mounted.fs.root.ops.lookup(mounted.fs.root, name) for name in (b"a", b"link")]
        assert links[0].ino == links[1].ino
        assert mounted.fs.ops.statfs(mounted.fs)["f_blocks"] > 0
        with pytest.raises(Errno):
            mounted.fs.root.ops.lookup(mounted.fs.root, b"missing")
    finally:
        mounted.close()


def test_content_that_lies_in_inodes(tmp_path: Path) -> None:
    """Of every size around the two places where it may lie; not all of these files fit."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for size in (0, 1, 59, 60, 61, 150, 280, 400, 5000):
        (tree / f"file{size}").write_bytes(os.urandom(size))
        if size:
            (tree / f"link{size}").symlink_to("x" * min(size, 1000))
        (tree / f"directory{size}").mkdir()
        for number in range(size // 12):
            (tree / f"directory{size}" / f"{number}").write_bytes(b"%d" % number)
        os.setxattr(tree / f"file{size}", "user.colour", b"green")
    image = make("ext4-inline", tree, tmp_path / "image")
    mounted = Mounted(image)
    try:
        assert compare(tree, mounted.fs.root) > 500
        reader = mounted.fs.ops.reader  # type: ignore[attr-defined]
        inline = {entry.name for entry in reader.directory(reader.inode(reader.root_reference)) if reader.inline(reader.inode(entry.reference)) is not None}
        assert {b"file1", b"file60", b"file150", b"directory1", b"directory59", b"link61"} <= inline and b"file5000" not in inline
    finally:
        mounted.close()


def test_a_directory_in_both_places_of_its_inode(tmp_path: Path) -> None:
    """mke2fs makes none, but Linux does; so a file becomes one."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "target").touch()
    entries = [
        struct.pack("<IHBB", 2, length, len(name), 1) + name.ljust(length - 8, b"\0") for name, length in ((b"first", 56), (b"second", 16), (b"third", 24))
    ]
    (tree / "directory").write_bytes(struct.pack("<I", 2) + b"".join(entries))
    image = make("ext4-inline", tree, tmp_path / "image")
    subprocess.run(["debugfs", "-w", "-R", "set_inode_field directory mode 040755", str(image)], check=True, env={"PATH": PATH}, capture_output=True)
    reader = open_reader(os.fsencode(image))
    try:
        (reference,) = (entry.reference for entry in reader.directory(reader.inode(reader.root_reference)) if entry.name == b"directory")
        assert [entry.name for entry in reader.directory(reader.inode(reference))] == [b"first", b"second", b"third"]
    finally:
        os.close(reader.fd)


def test_holes_of_a_sparse_file_take_no_memory(tree: Path) -> None:
    mounted = Mounted(make("ext4", tree, tree.parent / "sparse-image"))
    try:
        ops = mounted.fs.root.ops.lookup(mounted.fs.root, b"sparse").ops
        assert isinstance(ops, ImageFile)
        memory = ops.memory()
        memory.require(0, 90_000_000)
        assert memory.absent(0, 90_000_000) == [] and memory.resident() < 1_000_000
        assert memory.read(5_000_000, 15) == b"data at 5000000"
    finally:
        mounted.close()


def test_files_that_nobody_uses_make_room(tmp_path: Path) -> None:
    """Cached files take what the guests' memory leaves free; the longest unused go first, and none that is in use."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(8):
        (tree / f"{number}").write_bytes(os.urandom(1 << 20))
    mounted = Mounted(make("ext4", tree, tmp_path / "image"))
    cache = mounted.kernel.expando.get(ImageCache)

    def read(number: int) -> PagedMemory:
        ops = mounted.fs.root.ops.lookup(mounted.fs.root, b"%d" % number).ops
        assert isinstance(ops, ImageFile)
        memory = ops.memory()
        memory.require(0, 1 << 20)
        return memory

    try:
        mounted.kernel.memory = SimpleNamespace(bound=64 << 20, used_bytes=lambda: 1 << 20)
        kept = read(0)
        for number in range(1, 8):
            read(number)
        assert cache.resident_bytes() == 8 << 20
        mounted.kernel.memory.bound = 4 << 20
        for _ in range(LOOK_BYTES >> 20):  # of bytes that come in
            cache.came_in(mounted.kernel, 1 << 20)
        assert cache.resident_bytes() == 3 << 20
        assert kept.resident() == 1 << 20
        for number in (6, 7):
            assert read(number).resident() == 1 << 20
        assert cache.resident_bytes() == 3 << 20  # they were there
        assert read(1).read(0, 1 << 20) == (tree / "1").read_bytes()  # and what went comes again
        del kept
        cache.shrink(0)
        assert cache.resident_bytes() == 0
    finally:
        mounted.close()


@pytest.mark.parametrize(
    ("seconds", "extra", "expected"),
    [(5, 0, 5_000_000_000), (0xFFFFFFFF, 0, -1_000_000_000), (4_000_000_000, 1, 4_000_000_000 * 10**9), (7, 123_456_789 << 2, 7_123_456_789)],
)
def test_times_of_ext4(seconds: int, extra: int, expected: int) -> None:
    assert decode_time(seconds, extra) == expected


def test_an_image_whose_journal_was_not_replayed(tree: Path) -> None:
    image = make("ext4", tree, tree.parent / "dirty")
    with open(image, "r+b") as file:
        file.seek(1024 + 0x60)
        features = int.from_bytes(file.read(4), "little")
        file.seek(1024 + 0x60)
        file.write((features | 4).to_bytes(4, "little"))
    with pytest.raises(ImageError, match="journal"):
        open_reader(os.fsencode(image))


# -- damage ----------------------------------------------------------------------------------------------------------------------


def visit(reader: ImageReader, reference: int, depth: int, left: list[int]) -> None:
    """Look at everything, a bounded time: what is damaged says so."""
    if depth > 6 or left[0] <= 0:
        return
    left[0] -= 1
    inode = ask(reader.inode, reference)
    look: list[Callable[[], object]] = [lambda: ask(reader.xattrs, inode)]
    if stat.S_ISLNK(inode.mode):
        look.append(lambda: ask(reader.readlink, inode))
    if stat.S_ISREG(inode.mode):
        look.append(lambda: ask(reader.inline, inode))
        look.append(lambda: ask(reader.extents if reader.compression is None else reader.compressed_blocks, inode))
    if stat.S_ISDIR(inode.mode):
        look.append(lambda: [clean(visit, reader, entry.reference, depth + 1, left) for entry in ask(reader.directory, inode)])
    for each in look:
        clean(each)


def clean(function: Callable[..., object], *arguments: object) -> None:
    try:
        function(*arguments)
    except Errno as error:
        assert error.errno in (EUCLEAN, EIO)


@pytest.fixture(scope="module")
def small_images() -> Iterator[dict[str, bytes]]:
    """Images of a few dozen KiB, with little in them that is no metadata."""
    with directory("small") as root:
        tree = root / "tree"
        (tree / "d" / "e").mkdir(parents=True)
        for number in range(20):
            (tree / "d" / f"file-{number}").write_bytes(b"x" * number * 300)
        (tree / "d" / "soft").symlink_to("y" * 90)
        (tree / "fragmented").write_bytes(b"1" * 40_000)
        os.setxattr(tree / "d", "user.name", b"value" * 30)
        makers = {"ext4": ["-t", "ext4", "-b", "1024", "-N", "48", "-O", "^has_journal"], "ext2": ["-t", "ext2", "-b", "1024", "-N", "48"]}
        for kind, flags in makers.items():
            subprocess.run([*MKE2FS, *flags, "-d", tree, root / kind, "256K"], check=True, env={"PATH": PATH})
        for kind in ("gzip", "plain"):
            make(kind, tree, root / kind)
        yield {kind: (root / kind).read_bytes() for kind in ("ext4", "ext2", "gzip", "plain")}


EXAMPLES = 3000 if os.environ.get("POLYNIX_SOAK") else 150


@pytest.mark.parametrize("kind", ["ext4", "ext2", "gzip", "plain"])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_a_clean_error(small_images: dict[str, bytes], kind: str, data: st.DataObject) -> None:
    image = bytearray(small_images[kind])
    used = [position for position in range(0, len(image), 16) if any(image[position : position + 16])]
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.sampled_from(used)) + data.draw(st.integers(0, 15))
        damage = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff" * 8, b"\xff\x7f"])))
        image[position : position + len(damage)] = damage
    with tempfile.NamedTemporaryFile() as file:
        file.write(image[: len(small_images[kind])])
        file.flush()
        try:
            reader = open_reader(os.fsencode(file.name))
        except ImageError as error:
            assert "\n" not in str(error)
            return
        try:
            clean(visit, reader, reader.root_reference, 0, [300])
        finally:
            os.close(reader.fd)
