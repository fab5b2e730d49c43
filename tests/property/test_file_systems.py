"""tmpfs, overlay and binds do what the host's kernel does: the same random calls on all of them and on a real directory, same results, same trees."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from polynix.kernelproc.errno import Errno, errno_name
from polynix.kernelproc.fs.host_call import rename_at
from polynix.kernelproc.fs.hostfs import new_hostfs
from polynix.kernelproc.fs.hostfs_bind import new_bind
from polynix.kernelproc.fs.overlay import new_overlay
from polynix.kernelproc.uapi.fcntl import (
    O_APPEND,
    O_CREAT,
    O_EXCL,
    O_NOFOLLOW,
    O_TRUNC,
    O_WRONLY,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
)
from polynix.kernelproc.vfs.attributes import change_mode, truncate_node
from vfs_world import World, WorldKernel

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="random modes lock everyone but root out of the host's tree")

BASE = b"top/work"  # the calls happen two directories down, so that a link may lead up once without leaving the tree

names = st.sampled_from([b"a", b"b", b"c"])
paths = st.builds(
    lambda parts, suffix: b"/".join(parts) + suffix,
    st.lists(names, min_size=1, max_size=3),
    st.sampled_from([b"", b"", b"", b"", b"/", b"/.", b"/..", b"/../a"]),
)
targets = st.sampled_from([b"a", b"b", b"c", b"a/b", b"b/c", b"../work/a", b"a/", b"."])
contents = st.sampled_from([b"", b"x", b"hello", b"z" * 5000, b"big" * 8000])
flags = st.sampled_from([O_CREAT, O_CREAT | O_EXCL, O_CREAT | O_TRUNC, O_CREAT | O_APPEND, 0, O_APPEND, O_TRUNC, O_CREAT | O_NOFOLLOW])

calls = st.one_of(
    st.tuples(st.just("mkdir"), paths, st.sampled_from([0o755, 0o700, 0o1777])),
    st.tuples(st.just("write"), paths, contents, flags),
    st.tuples(st.just("read"), paths),
    st.tuples(st.just("unlink"), paths),
    st.tuples(st.just("rmdir"), paths),
    st.tuples(st.just("rename"), paths, paths, st.sampled_from([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE])),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("symlink"), targets, paths),
    st.tuples(st.just("readlink"), paths),
    st.tuples(st.just("truncate"), paths, st.sampled_from([0, 3, 6000, 40000])),
    st.tuples(st.just("chmod"), paths, st.sampled_from([0o644, 0o600, 0o755])),
    st.tuples(st.just("list"), paths),
)


class Host:
    """The reference: the host's kernel on a directory."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.base = os.path.join(root, BASE)

    def call(self, name: str, *arguments: Any) -> Any:
        return getattr(self, name)(*arguments)

    def at(self, path: bytes) -> bytes:
        return self.base + b"/" + path

    def mkdir(self, path: bytes, mode: int) -> None:
        os.mkdir(self.at(path), mode)

    def write(self, path: bytes, data: bytes, open_flags: int) -> None:
        fd = os.open(self.at(path), open_flags | O_WRONLY, 0o644)
        try:
            if data:
                os.write(fd, data)
        finally:
            os.close(fd)

    def read(self, path: bytes) -> bytes | None:
        fd = os.open(self.at(path), os.O_RDONLY)
        try:
            return None if stat.S_ISDIR(os.fstat(fd).st_mode) else os.read(fd, 1 << 20)
        finally:
            os.close(fd)

    def unlink(self, path: bytes) -> None:
        os.unlink(self.at(path))

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self.at(path))

    def rename(self, old: bytes, new: bytes, rename_flags: int) -> None:
        rename_at(-100, self.at(old), -100, self.at(new), rename_flags)

    def link(self, old: bytes, new: bytes) -> None:
        os.link(self.at(old), self.at(new), follow_symlinks=False)

    def symlink(self, target: bytes, path: bytes) -> None:
        os.symlink(target, self.at(path))

    def readlink(self, path: bytes) -> bytes:
        return os.readlink(self.at(path))

    def truncate(self, path: bytes, length: int) -> None:
        os.truncate(self.at(path), length)

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def list(self, path: bytes) -> list[bytes]:
        return sorted(os.listdir(self.at(path)))

    def tree(self) -> dict[bytes, tuple[Any, ...]]:
        found = {}
        for directory, directories, files in os.walk(self.root):
            for name in directories + files:
                path = os.path.join(directory, name)
                status = os.lstat(path)
                found[os.path.relpath(path, self.root)] = self.describe(path, status)
        return found

    def describe(self, path: bytes, status: os.stat_result) -> tuple[Any, ...]:
        if stat.S_ISLNK(status.st_mode):
            return status.st_mode, status.st_nlink, os.readlink(path)
        if stat.S_ISDIR(status.st_mode):
            return status.st_mode, status.st_nlink, b""
        return status.st_mode, status.st_nlink, Path(os.fsdecode(path)).read_bytes()


class Guest(Host):
    """A polynix file system, asked through the VFS."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.base = b"/" + BASE
        world.fs.umask = 0o022

    def mkdir(self, path: bytes, mode: int) -> None:
        self.world.mkdir(self.at(path), mode)

    def write(self, path: bytes, data: bytes, open_flags: int) -> None:
        self.world.write(self.at(path), data, open_flags | O_WRONLY)

    def read(self, path: bytes) -> bytes | None:
        place = self.world.place(self.at(path))
        return None if place.node.is_directory else self.world.read(self.at(path))

    def unlink(self, path: bytes) -> None:
        self.world.unlink(self.at(path))

    def rmdir(self, path: bytes) -> None:
        self.world.rmdir(self.at(path))

    def rename(self, old: bytes, new: bytes, rename_flags: int) -> None:
        self.world.rename(self.at(old), self.at(new), rename_flags)

    def link(self, old: bytes, new: bytes) -> None:
        self.world.link(self.at(old), self.at(new))

    def symlink(self, target: bytes, path: bytes) -> None:
        self.world.symlink(target, self.at(path))

    def readlink(self, path: bytes) -> bytes:
        return self.world.readlink(self.at(path))

    def truncate(self, path: bytes, length: int) -> None:
        truncate_node(self.world.task, self.world.place(self.at(path)).node, length)

    def chmod(self, path: bytes, mode: int) -> None:
        change_mode(self.world.task, self.world.place(self.at(path)).node, mode)

    def list(self, path: bytes) -> list[bytes]:
        return sorted(self.world.names(self.at(path)))

    def tree(self) -> dict[bytes, tuple[Any, ...]]:
        found: dict[bytes, tuple[Any, ...]] = {}
        self.walk(b"", found)
        return found

    def walk(self, directory: bytes, found: dict[bytes, tuple[Any, ...]]) -> None:
        for name, (inode, kind) in self.world.entries(b"/" + directory).items():
            path = directory + b"/" + name if directory else name
            node = self.world.place(b"/" + path, follow=False).node
            node.ops.refresh(node)
            assert (inode, kind) == (node.ino, node.mode >> 12)
            if node.is_symlink:
                content = self.world.readlink(b"/" + path)
            else:
                content = b"" if node.is_directory else self.world.read(b"/" + path)
                assert node.is_directory or node.size == len(content)
            found[path] = (node.mode, node.nlink, content)
            if node.is_directory:
                self.walk(path, found)


def outcome(system: Host, call: tuple[Any, ...]) -> Any:
    try:
        return system.call(*call)
    except OSError as error:
        return errno_name(error.errno or 0)
    except Errno as error:
        return errno_name(error.errno)


def tmpfs_guest(_directory: str) -> Guest:
    world = World()
    world.mkdir(b"/top")
    world.mkdir(b"/top/work")
    return Guest(world)


def overlay_guest(directory: str) -> Guest:
    kernel = WorldKernel()
    return Guest(World(new_overlay(kernel, new_hostfs(kernel, os.fsencode(directory))), kernel))  # type: ignore[arg-type]


def bind_guest(directory: str) -> Guest:
    kernel = WorldKernel()
    return Guest(World(new_bind(kernel, os.fsencode(directory), read_only=False)[0], kernel))  # type: ignore[arg-type]


def check(make: Callable[[str], Guest], before: list[tuple[Any, ...]], after: list[tuple[Any, ...]], *, replay: bool) -> None:
    """Do ``before`` on the host to make the lower tree (again in the guest if ``replay``), then ``after`` on both sides."""
    old_umask = os.umask(0o022)
    scratch = tempfile.mkdtemp()
    try:
        reference, lower = os.path.join(scratch, "reference"), os.path.join(scratch, "lower")
        os.makedirs(os.path.join(reference, os.fsdecode(BASE)))
        host = Host(os.fsencode(reference))
        for call in before:
            outcome(host, call)
        os.mkdir(lower)
        os.system(f"cp -a {reference}/. {lower}/")
        frozen = Host(os.fsencode(lower)).tree()
        guest = make(lower)
        if replay:
            for call in before:
                outcome(guest, call)
        for call in after:
            expected, found = outcome(host, call), outcome(guest, call)
            assert found == expected, f"{call}: {found!r}, the host says {expected!r}"
        assert guest.tree() == host.tree()
        assert Host(os.fsencode(lower)).tree() == (host.tree() if make is bind_guest else frozen)
    finally:
        os.umask(old_umask)
        shutil.rmtree(scratch)


COMMON = dict(deadline=None, max_examples=int(os.environ.get("POLYNIX_EXAMPLES", "100")), suppress_health_check=[HealthCheck.too_slow])
sequences = st.lists(calls, max_size=12)


@settings(**COMMON)
@given(sequences)
def test_tmpfs_is_like_the_host(after: list[tuple[Any, ...]]) -> None:
    check(tmpfs_guest, [], after, replay=False)


@settings(**COMMON)
@given(sequences, sequences)
def test_overlay_is_like_the_host(before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]) -> None:
    check(overlay_guest, before, after, replay=False)


@settings(**COMMON)
@given(sequences, sequences)
def test_binds_are_like_the_host(before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]) -> None:
    check(bind_guest, before, after, replay=False)
