"""read, write and their families on real tmpfs files and pipes, as man 2 read, write, readv and preadv2 tell."""

from __future__ import annotations

import os
import struct

from event_world import Running, settle
from hypothesis import given, settings
from hypothesis import strategies as st
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.uapi.errno import (
    EAGAIN,
    EBADF,
    EFAULT,
    EFBIG,
    EINVAL,
    EISDIR,
    ENOENT,
    ENOTDIR,
    EOPNOTSUPP,
    EPIPE,
    ESPIPE,
    EXDEV,
)
from polynix.kernelproc.uapi.fcntl import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    O_APPEND,
    O_CREAT,
    O_DIRECTORY,
    O_NONBLOCK,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
    RWF_APPEND,
    RWF_NOWAIT,
    SEEK_CUR,
    SEEK_DATA,
    SEEK_END,
    SEEK_HOLE,
    SEEK_SET,
)
from polynix.kernelproc.uapi.resource import RLIMIT_FSIZE
from polynix.kernelproc.uapi.signal import SIGPIPE, SIGXFSZ
from task_world import BASE, SIZE, TaskWorld


def pending(world: TaskWorld) -> int:
    task = world.task
    return sum(1 << signo - 1 for signo in (SIGPIPE, SIGXFSZ) if task.signals.pending.mask >> signo - 1 & 1)


def iovec(world: TaskWorld, *parts: tuple[int, int]) -> int:
    return world.put(b"".join(struct.pack("<QQ", *part) for part in parts))


def pipe(world: TaskWorld, flags: int = 0) -> tuple[int, int]:
    address = world.put(bytes(8))
    assert world.call("pipe2", address, flags) == 0
    return struct.unpack("<ii", world.get(address, 8))  # type: ignore[return-value]


def test_offsets() -> None:
    world = TaskWorld()
    fd = world.open(b"/f", O_CREAT | O_RDWR)
    text = world.put(b"0123456789")
    out = world.put(bytes(16))
    assert world.call("write", fd, text, 10) == 10
    assert world.call("read", fd, out, 16) == 0
    assert world.call("lseek", fd, 2, SEEK_SET) == 2
    assert world.call("read", fd, out, 3) == 3
    assert world.get(out, 3) == b"234"
    assert world.call("lseek", fd, 0, SEEK_CUR) == 5
    assert world.call("pread64", fd, out, 16, 8) == 2
    assert world.call("pwrite64", fd, text, 4, 20) == 4
    assert world.call("lseek", fd, 0, SEEK_CUR) == 5
    assert world.call("lseek", fd, -4, SEEK_END) == 20
    assert world.call("lseek", fd, -30, SEEK_END) == -EINVAL
    assert world.call("lseek", fd, 0, 9) == -EINVAL
    assert world.call("pread64", fd, out, 1, -1) == -EINVAL
    assert world.call("read", fd, out, 1 << 63) == -EFAULT


def test_holes() -> None:
    world = TaskWorld()
    fd = world.open(b"/f", O_CREAT | O_RDWR)
    assert world.call("pwrite64", fd, world.put(b"x"), 1, 1 << 20) == 1
    assert world.call("lseek", fd, 0, SEEK_HOLE) == 0
    assert world.call("lseek", fd, 0, SEEK_DATA) == 1 << 20
    assert world.call("fallocate", fd, FALLOC_FL_PUNCH_HOLE, 0, 4096) == -EOPNOTSUPP
    assert world.call("fallocate", fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0
    assert world.call("fallocate", fd, 0, 0, 0) == -EINVAL


def test_access_modes() -> None:
    world = TaskWorld()
    reader = world.open(b"/f", O_CREAT | O_RDONLY)
    writer = world.open(b"/f", O_WRONLY)
    buffer = world.put(bytes(8))
    iov = iovec(world, (buffer, 8))
    assert world.call("write", reader, buffer, 8) == -EBADF
    assert world.call("read", writer, buffer, 8) == -EBADF
    assert world.call("readv", writer, iov, 1) == -EBADF
    assert world.call("writev", reader, iov, 1) == -EBADF
    assert world.call("read", 77, buffer, 8) == -EBADF
    assert world.call("ftruncate", reader, 0) == -EINVAL
    assert world.call("ftruncate", writer, -1) == -EINVAL
    assert world.call("fallocate", reader, 0, 0, 10) == -EBADF


def test_pipes_have_no_position() -> None:
    world = TaskWorld()
    reader, writer = pipe(world)
    buffer = world.put(bytes(8))
    assert world.call("lseek", reader, 0, SEEK_SET) == -ESPIPE
    assert world.call("lseek", reader, 0, 9) == -EINVAL
    assert world.call("pread64", reader, buffer, 8, 0) == -ESPIPE
    assert world.call("pwrite64", writer, buffer, 8, 0) == -ESPIPE
    assert world.call("fallocate", writer, 0, 0, 8) == -ESPIPE


def test_directories() -> None:
    world = TaskWorld()
    fd = world.open(b"/", O_RDONLY | O_DIRECTORY)
    buffer = world.put(bytes(64))
    assert world.call("read", fd, buffer, 8) == -EISDIR
    for name in (b"/one", b"/two", b"/three"):
        world.open(name, O_CREAT | O_RDWR)
    names, offsets = [], []
    while (count := world.call("getdents64", fd, buffer, 64)) > 0:
        data = world.get(buffer, count)
        while data:
            _inode, offset, length, _kind = struct.unpack_from("<QqHB", data)
            names.append(data[19 : data.index(b"\0", 19)])
            offsets.append(offset)
            assert length % 8 == 0
            data = data[length:]
    assert sorted(names) == [b".", b"..", b"one", b"three", b"two"]
    # seekdir: any offset leads on to the entry behind it
    for position, offset in enumerate(offsets[:-1]):
        assert world.call("lseek", fd, offset, SEEK_SET) == offset
        assert world.call("getdents64", fd, buffer, 64) > 0
        data = world.get(buffer, 64)
        assert data[19 : data.index(b"\0", 19)] == names[position + 1]
    world.call("lseek", fd, 0, SEEK_SET)
    assert world.call("getdents64", fd, buffer, 8) == -EINVAL
    assert world.call("getdents64", fd, 8, 64) == -EFAULT
    assert world.call("getdents64", fd, buffer, 64) > 0
    assert world.call("getdents64", world.open(b"/one", O_RDONLY), buffer, 64) == -ENOTDIR


def test_append() -> None:
    world = TaskWorld()
    plain = world.open(b"/f", O_CREAT | O_RDWR)
    append = world.open(b"/f", O_WRONLY | O_APPEND)
    text = world.put(b"abcdef")
    assert world.call("write", plain, text, 6) == 6
    assert world.call("write", append, text, 3) == 3
    assert world.call("lseek", append, 0, SEEK_CUR) == 9
    assert world.call("pwrite64", append, text, 1, 0) == 1  # Linux appends all the same
    assert world.call("lseek", plain, 0, SEEK_END) == 10
    world.call("lseek", plain, 0, SEEK_SET)
    assert world.call("pwritev2", plain, iovec(world, (text, 2)), 1, -1, 0, RWF_APPEND) == 2
    assert world.call("lseek", plain, 0, SEEK_CUR) == 12


def test_vectors() -> None:
    world = TaskWorld()
    fd = world.open(b"/f", O_CREAT | O_RDWR)
    first, second, out = world.put(b"hello "), world.put(b"world"), world.put(bytes(16))
    assert world.call("writev", fd, iovec(world, (first, 6), (0, 0), (second, 5)), 3) == 11
    assert world.call("preadv", fd, iovec(world, (out, 4), (out + 4, 12)), 2, 0) == 11
    assert world.get(out, 11) == b"hello world"
    assert world.call("preadv2", fd, iovec(world, (out, 4)), 1, 6, 0, RWF_NOWAIT) == 4
    assert world.call("preadv2", fd, iovec(world, (out, 4)), 1, 6, 0, 1 << 30) == -EOPNOTSUPP
    assert world.call("preadv", fd, iovec(world, (out, 4)), 1, -1) == -EINVAL
    assert world.call("writev", fd, iovec(world, (first, 6)), 1025) == -EINVAL
    assert world.call("writev", fd, iovec(world, (first, 1 << 63)), 1) == -EINVAL
    assert world.call("writev", fd, 8, 1) == -EFAULT
    assert world.call("writev", fd, 0, 0) == 0


def test_faults_give_partial_counts() -> None:
    world = TaskWorld()
    fd = world.open(b"/f", O_CREAT | O_RDWR)
    end = BASE + SIZE
    assert world.call("write", fd, end - 100, 200) == 100
    assert world.call("write", fd, end, 10) == -EFAULT
    assert world.call("pwrite64", fd, world.put(bytes(4096)), 4096, 0) == 4096
    assert world.call("pread64", fd, end - 100, 200, 0) == 100
    assert world.call("pread64", fd, 16, 200, 0) == -EFAULT
    assert world.call("pread64", fd, 16, 200, 1 << 20) == 0
    reader, writer = pipe(world)
    assert world.call("write", writer, end - 100, 200) == -EFAULT  # a pipe takes no page that it could not fill
    assert world.call("write", writer, end - 100, 100) == 100
    assert world.call("read", reader, end, 200) == -EFAULT
    assert world.call("read", reader, end - 50, 200) == 50


def test_file_size_limit() -> None:
    world = TaskWorld()
    fd = world.open(b"/f", O_CREAT | O_RDWR)
    world.task.group.limits.set(RLIMIT_FSIZE, 100, 100)
    text = world.put(bytes(200))
    assert world.call("write", fd, text, 200) == 100
    assert pending(world) == 0
    assert world.call("write", fd, text, 1) == -EFBIG
    assert pending(world) == 1 << SIGXFSZ - 1
    assert world.call("write", fd, text, 0) == 0
    assert world.call("ftruncate", fd, 100) == 0
    assert world.call("ftruncate", fd, 101) == -EFBIG
    assert world.call("fallocate", fd, 0, 50, 100) == -EFBIG
    _reader, writer = pipe(world)
    assert world.call("write", writer, text, 200) == 200


def test_blocking_pipe() -> None:
    world = TaskWorld()
    reader, writer = pipe(world)
    out = world.put(bytes(8))
    waiting = world.start("read", reader, out, 8)
    assert isinstance(waiting, Running)
    assert not waiting.done
    assert world.call("write", writer, world.put(b"abc"), 3) == 3
    assert world.finish(waiting) == 3
    assert world.get(out, 3) == b"abc"
    world.call("fcntl", reader, 4, O_NONBLOCK)
    assert world.call("read", reader, out, 8) == -EAGAIN


def test_blocking_write_is_whole() -> None:
    world = TaskWorld()
    reader, writer = pipe(world)
    size = 300_000
    data = os.urandom(size)
    waiting = world.start("write", writer, world.put(data), size)
    assert isinstance(waiting, Running)
    out = world.put(bytes(size))
    got = 0
    while got < size:
        got += world.call("read", reader, out + got, size - got)
        settle(world.kernel)
    assert world.finish(waiting) == size
    assert world.get(out, size) == data


def test_broken_pipe() -> None:
    world = TaskWorld()
    reader, writer = pipe(world)
    big = world.put(bytes(200_000))
    waiting = world.start("write", writer, big, 200_000)
    world.call("close", reader)
    assert 0 < world.finish(waiting) < 200_000
    assert pending(world) == 1 << SIGPIPE - 1
    assert world.call("write", writer, big, 1) == -EPIPE


def test_descriptor_closed_while_reading() -> None:
    world = TaskWorld()
    reader, writer = pipe(world)
    out = world.put(bytes(8))
    waiting = world.start("read", reader, out, 8)
    assert world.call("close", reader, task=world.thread(world.task)) == 0
    assert world.call("write", writer, world.put(b"x"), 1) == 1  # the reader still holds the pipe open
    assert world.finish(waiting) == 1
    assert world.call("write", writer, world.put(b"x"), 1) == -EPIPE


def test_copy_file_range() -> None:
    world = TaskWorld()
    source = world.open(b"/a", O_CREAT | O_RDWR)
    target = world.open(b"/b", O_CREAT | O_RDWR)
    data = os.urandom(3 << 20)
    assert world.call("write", source, world.put(data[: 1 << 20]), 1 << 20) == 1 << 20
    offset = world.put(struct.pack("<q", 100))
    assert world.call("copy_file_range", source, offset, target, 0, 1 << 30, 0) == (1 << 20) - 100
    assert struct.unpack("<q", world.get(offset, 8))[0] == 1 << 20
    assert world.call("lseek", target, 0, SEEK_CUR) == (1 << 20) - 100
    out = world.put(bytes(4096))
    assert world.call("pread64", target, out, 4096, 0) == 4096
    assert world.get(out, 4096) == data[100:4196]
    assert world.call("copy_file_range", source, world.put(bytes(8)), source, world.put(bytes(8)), 100, 0) == -EINVAL
    assert world.call("copy_file_range", source, 0, target, 0, 100, 1) == -EINVAL
    reader, _writer = pipe(world)
    assert world.call("copy_file_range", reader, 0, target, 0, 100, 0) == -EINVAL
    other = TaskWorld()
    stranger = other.open(b"/c", O_CREAT | O_RDWR)
    fd = world.task.files.install(other.task.files.get(stranger))
    world.call("lseek", source, 0, SEEK_SET)
    assert world.call("copy_file_range", source, 0, fd, 0, 100, 0) == -EXDEV


def test_writing_drops_set_id_bits() -> None:
    world = TaskWorld()
    fd = world.open(b"/f", O_CREAT | O_RDWR, 0o6777)
    node = world.task.files.get(fd).node
    node.mode |= 0o6000
    assert world.call("write", fd, world.put(b"x"), 1) == 1
    assert node.mode & 0o6000 == 0o6000  # root keeps them
    world.task.credentials = Credentials.user(1000, 1000)
    assert world.call("write", fd, world.put(b"x"), 1) == 1
    assert node.mode & 0o6000 == 0


def test_removed_directory() -> None:
    world = TaskWorld()
    fd = world.open(b"/", O_RDONLY | O_DIRECTORY)
    world.task.files.get(fd).node.nlink = 0
    assert world.call("getdents64", fd, world.put(bytes(64)), 64) == -ENOENT
    world.task.files.get(fd).node.nlink = 2


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.binary(min_size=0, max_size=300)),
        st.tuples(st.just("pwrite"), st.tuples(st.integers(0, 20_000), st.binary(max_size=300))),
        st.tuples(st.just("read"), st.integers(0, 400)),
        st.tuples(st.just("pread"), st.tuples(st.integers(0, 21_000), st.integers(0, 400))),
        st.tuples(st.just("seek"), st.tuples(st.integers(-400, 21_000), st.sampled_from((SEEK_SET, SEEK_CUR, SEEK_END)))),
        st.tuples(st.just("truncate"), st.integers(0, 21_000)),
    ),
    max_size=30,
)


@given(OPERATIONS)
@settings(max_examples=40, deadline=None)
def test_against_host_file(operations: list[tuple[str, object]]) -> None:
    world = TaskWorld()
    fd = world.open(b"/f", O_CREAT | O_RDWR)
    host = os.memfd_create("model")
    buffer = world.put(bytes(512))
    try:
        for kind, argument in operations:
            if kind == "write":
                assert isinstance(argument, bytes)
                assert world.call("write", fd, world.put(argument), len(argument)) == os.write(host, argument)
            elif kind == "pwrite":
                offset, data = argument  # type: ignore[misc]
                assert world.call("pwrite64", fd, world.put(data), len(data), offset) == os.pwrite(host, data, offset)
            elif kind in ("read", "pread"):
                if kind == "read":
                    expected = os.read(host, argument)  # type: ignore[arg-type]
                    count = world.call("read", fd, buffer, argument)  # type: ignore[arg-type]
                else:
                    offset, length = argument  # type: ignore[misc]
                    expected = os.pread(host, length, offset)
                    count = world.call("pread64", fd, buffer, length, offset)
                assert count == len(expected)
                assert world.get(buffer, count) == expected
            elif kind == "seek":
                offset, whence = argument  # type: ignore[misc]
                try:
                    wanted = os.lseek(host, offset, whence)
                except OSError as error:
                    wanted = -(error.errno or 0)
                assert world.call("lseek", fd, offset, whence) == wanted
            else:
                os.ftruncate(host, argument)  # type: ignore[arg-type]
                assert world.call("ftruncate", fd, argument) == 0  # type: ignore[arg-type]
            assert world.task.files.get(fd).node.refreshed_size() == os.fstat(host).st_size
    finally:
        os.close(host)
