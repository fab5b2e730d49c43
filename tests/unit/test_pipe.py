"""Pipes and fifos: capacity, merging, atomicity, packets, ends."""

from __future__ import annotations

import pytest
from event_world import Running, new_kernel, read, run, settle, write
from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EAGAIN, EBUSY, EINVAL, ENXIO, EPERM, EPIPE
from polynix.kernelproc.uapi.fcntl import F_GETPIPE_SZ, F_SETPIPE_SZ, O_DIRECT, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT
from polynix.kernelproc.uapi.stat import S_IFIFO
from polynix.kernelproc.vfs.anon import AnonFileSystems
from polynix.kernelproc.vfs.file_object import FileObject, blocking_operation
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.ops import FileOps, FsNodeOps
from polynix.kernelproc.vfs.pipe import Pipe, new_pipe, open_fifo

kernel = new_kernel()


def pipe(flags: int = 0) -> tuple[FileObject, FileObject]:
    ends = new_pipe(kernel, flags)
    return ends[0].retain(), ends[1].retain()


def fcntl(file: FileObject, command: int, argument: int, privileged: bool = True) -> int:
    class Credentials:
        def has_capability(self, _capability: int) -> bool:
            return privileged

    class Task:
        def __init__(self) -> None:
            self.credentials = Credentials()
            self.kernel = kernel

    result = file.ops.fcntl(file, Task(), command, argument)  # type: ignore[arg-type]
    assert isinstance(result, int)
    return result


def test_holds_64_kib_then_eagain() -> None:
    reader, writer = pipe()
    assert write(writer, b"x" * 100_000) == 65536
    assert write(writer, b"y") == -EAGAIN
    assert not writer.ops.query_events(writer) & POLLOUT
    assert read(reader, 4095) == b"x" * 4095
    assert write(writer, b"y") == -EAGAIN, "the first page still has a byte in it"
    assert read(reader, 1) == b"x"
    assert write(writer, b"y" * 4097) == 4096


def test_small_writes_merge_into_the_last_page() -> None:
    reader, writer = pipe()
    for _ in range(65536 // 16):
        assert write(writer, b"0123456789abcdef") == 16
    assert write(writer, b"z") == -EAGAIN
    assert read(reader, 100_000) == b"0123456789abcdef" * 4096


def test_writes_that_do_not_fit_the_last_page_take_a_new_one() -> None:
    _reader, writer = pipe()
    for _ in range(16):
        assert write(writer, b"x" * 2049) == 2049
    assert write(writer, b"x" * 2049) == -EAGAIN, "sixteen pages are taken, and 2049 more bytes fit none"
    assert write(writer, b"x" * 2047) == 2047, "but these fit the last page"


def test_up_to_pipe_buf_is_all_or_nothing() -> None:
    _reader, writer = pipe()
    assert write(writer, b"x" * 65536) == 65536
    assert write(writer, b"x" * 4096) == -EAGAIN


def test_packet_mode_keeps_boundaries_and_drops_the_rest() -> None:
    reader, writer = pipe(O_DIRECT)
    assert write(writer, b"hello") == 5
    assert write(writer, b"world!") == 6
    assert write(writer, b"p" * 5000) == 5000
    assert read(reader, 3) == b"hel"
    assert read(reader, 100) == b"world!"
    assert read(reader, 10_000) == b"p" * 4096
    assert read(reader, 10_000) == b"p" * 904


def test_end_of_file_and_broken_pipe() -> None:
    reader, writer = pipe()
    write(writer, b"last")
    writer.release()
    assert reader.ops.query_events(reader) & (POLLIN | POLLHUP) == POLLIN | POLLHUP
    assert read(reader, 10) == b"last"
    assert read(reader, 10) == b""
    reader, writer = pipe()
    reader.release()
    assert write(writer, b"") == 0
    assert write(writer, b"x") == -EPIPE
    assert writer.ops.query_events(writer) & (POLLERR | POLLOUT) == POLLERR | POLLOUT


def test_capacity_can_be_changed() -> None:
    _reader, writer = pipe()
    assert fcntl(writer, F_GETPIPE_SZ, 0) == 65536
    assert fcntl(writer, F_SETPIPE_SZ, 5000) == 8192
    assert write(writer, b"x" * 10_000) == 8192
    with pytest.raises(Errno) as caught:
        fcntl(writer, F_SETPIPE_SZ, 4096)
    assert caught.value.errno == EBUSY
    with pytest.raises(Errno) as caught:
        fcntl(writer, F_SETPIPE_SZ, (1 << 20) + 1, privileged=False)
    assert caught.value.errno == EPERM
    with pytest.raises(Errno) as caught:
        fcntl(writer, F_SETPIPE_SZ, (1 << 31) + 1)
    assert caught.value.errno == EINVAL


def test_blocked_reader_and_writer_wake() -> None:
    reader, writer = pipe()

    def attempt() -> int:
        outcome = read(reader, 10)
        return outcome if isinstance(outcome, int) else len(outcome)

    waiting = Running(kernel, blocking_operation(reader, POLLIN, attempt))
    settle(kernel)
    assert not waiting.done
    write(writer, b"abc")
    assert waiting.result() == 3
    write(writer, b"x" * 65536)
    waiting = Running(kernel, blocking_operation(writer, POLLOUT, lambda: write(writer, b"y")))
    settle(kernel)
    assert not waiting.done
    read(reader, 4096)
    assert waiting.result() == 1
    waiting = Running(kernel, blocking_operation(writer, POLLOUT, lambda: write(writer, b"y" * 4096)))
    reader.release()
    assert waiting.result() == -EPIPE


# -- fifos ---------------------------------------------------------------------------------------------------------------


def fifo() -> FsNode:
    fs = kernel.expando.get(AnonFileSystems).pipes
    return FsNode(fs, fs.new_ino(), S_IFIFO | 0o644, FsNodeOps())


def open_end(node: FsNode, flags: int) -> FileObject | Running:
    """The opened file, or the open that waits for its partner."""
    ops = open_fifo(None, node, flags)  # type: ignore[arg-type]
    if isinstance(ops, FileOps):
        return FileObject(ops, node, flags).retain()

    async def finish() -> FileObject:
        return FileObject(await ops, node, flags).retain()

    return Running(kernel, finish())


def opened(node: FsNode, flags: int) -> FileObject:
    file = open_end(node, flags)
    assert isinstance(file, FileObject)
    return file


def test_fifo_opens_wait_for_each_other() -> None:
    node = fifo()
    opening = open_end(node, O_RDONLY)
    assert isinstance(opening, Running)
    settle(kernel)
    assert not opening.done
    writer = opened(node, O_WRONLY)
    reader = opening.result()
    write(writer, b"through")
    writer.release()
    assert read(reader, 10) == b"through"
    assert read(reader, 10) == b""
    reader.release()
    assert node.slot(Pipe, Pipe).used == 0


def test_fifo_open_sees_a_partner_that_came_and_went() -> None:
    node = fifo()
    opening = open_end(node, O_WRONLY)
    assert isinstance(opening, Running)
    opened(node, O_RDONLY).release()
    assert write(opening.result(), b"x") == -EPIPE


def test_interrupted_fifo_open_leaves_no_end_behind() -> None:
    node = fifo()
    opening = open_end(node, O_RDONLY)
    assert isinstance(opening, Running)
    kernel.engine.interrupt(opening.routine)
    with pytest.raises(Interrupted):
        opening.result()
    with pytest.raises(Errno) as caught:
        opened(node, O_WRONLY | O_NONBLOCK)
    assert caught.value.errno == ENXIO


def test_nonblocking_fifo_opens() -> None:
    node = fifo()
    with pytest.raises(Errno) as caught:
        opened(node, O_WRONLY | O_NONBLOCK)
    assert caught.value.errno == ENXIO
    reader = opened(node, O_RDONLY | O_NONBLOCK)
    assert read(reader, 1) == b""
    assert reader.ops.query_events(reader) == 0, "no hang-up before a writer has come and gone"
    writer = opened(node, O_WRONLY | O_NONBLOCK)
    assert read(reader, 1) == -EAGAIN
    writer.release()
    assert reader.ops.query_events(reader) == POLLHUP
    both = opened(node, O_RDWR)
    assert run(kernel, blocking_operation(both, POLLOUT, lambda: write(both, b"self"))) == 4
    assert read(both, 9) == b"self"
