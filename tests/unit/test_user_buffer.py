"""Ranges of guest memory that reads fill and writes empty: one range (usercopy's), and the iovec that must behave as it does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from polynix.addrspace._usercopy import Fault, MemoryObject, UserAddress, UserInput, UserMap, UserOutput
from polynix.kernelproc.uapi.errno import EBADF, EFAULT
from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer, UserInputBuffer, UserOutputBuffer

LAST = (1 << 47) - 2 * 4096  # the last page that a guest may have
START, END, READ_ONLY_END = 0x10000, 0x12000, 0x13000  # two writable pages, one to be read only, then nothing
A = UserAddress

Output = Callable[[UserMap, UserAddress, int], OutputBuffer]
Input = Callable[[UserMap, UserAddress, int], InputBuffer]
outputs = pytest.mark.parametrize("output", [UserOutput, lambda user, address, length: UserOutputBuffer(user, [(address, length)])], ids=["range", "iovec"])
inputs = pytest.mark.parametrize("source", [UserInput, lambda user, address, length: UserInputBuffer(user, [(address, length)])], ids=["range", "iovec"])


@pytest.fixture
def user() -> UserMap:
    fd = os.memfd_create("test")
    os.ftruncate(fd, 1 << 20)
    user, memory = UserMap(), MemoryObject(fd)
    user.map(START, END, 3, memory, START)
    user.map(END, READ_ONLY_END, 1, memory, END)
    memory.write(START, bytes(range(256)) * 48)
    return user


@outputs
def test_output_takes_what_fits(user: UserMap, output: Output) -> None:
    out = output(user, A(START), 10)
    assert [out.write(data) for data in (b"abc", bytearray(b"def"), b"", memoryview(b"ghijklmn"), b"more")] == [3, 3, 0, 4, 0]
    assert out.remaining == 0
    assert user.copy_in(A(START), 11) == b"abcdefghij\x0a"


@outputs
def test_output_stops_at_a_fault(user: UserMap, output: Output) -> None:
    out = output(user, A(END - 4), 100)
    assert out.write(b"x" * 8) == 4
    assert out.remaining == 96
    for attempt in (lambda: out.write(b"y"), lambda: out.zero(1)):
        with pytest.raises(Fault) as fault:
            attempt()
        assert fault.value.errno == EFAULT
    assert out.write(b"") == 0
    assert output(user, A(READ_ONLY_END), 0).write(b"nothing is asked of guest memory") == 0


@outputs
def test_output_zeros(user: UserMap, output: Output) -> None:
    out = output(user, A(START + 1), 5)
    assert (out.zero(2), out.remaining, out.zero(100), out.zero(1)) == (2, 3, 3, 0)
    assert user.copy_in(A(START), 7) == b"\0\0\0\0\0\0\x06"
    assert output(user, A(END - 3), 8).zero(8) == 3


@outputs
def test_output_from_a_host_descriptor(user: UserMap, output: Output, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDONLY)
    out = output(user, A(START), 6)
    assert (out.write_from_fd(fd, 2, 4), out.remaining) == (4, 2)
    assert (out.write_from_fd(fd, -1, 100), out.remaining) == (2, 0), "at the descriptor's position, at most what remains"
    assert user.copy_in(A(START), 7) == b"234501\x06"
    out = output(user, A(END), 4)
    assert (out.write_from_fd(fd, 0, 4), out.remaining) == (-EFAULT, 4)
    os.close(fd)
    assert output(user, A(START), 4).write_from_fd(fd, 0, 4) == -EBADF


@inputs
def test_input_gives_what_there_is(user: UserMap, source: Input) -> None:
    data = source(user, A(START), 10)
    assert (data.read(3), data.peek(2), data.peek(), data.read(0), data.remaining) == (b"\0\1\2", b"\3\4", bytes(range(3, 10)), b"", 7)
    data.skip(2)
    data.truncate(4)
    assert (data.remaining, data.read(100), data.read(), data.remaining) == (4, b"\5\6\7\x08", b"", 0)


@inputs
def test_input_stops_at_a_fault(user: UserMap, source: Input) -> None:
    data = source(user, A(READ_ONLY_END - 2), 10)
    assert (data.read(), data.remaining) == (b"\xfe\xff", 8)
    for attempt in (data.read, data.peek):
        with pytest.raises(Fault) as fault:
            attempt()
        assert fault.value.errno == EFAULT
    assert data.remaining == 8


@inputs
def test_input_to_a_host_descriptor(user: UserMap, source: Input, tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    data = source(user, A(START + 65), 6)
    assert (data.read_to_fd(fd, 2, 4), data.remaining, data.read_to_fd(fd, -1, 100), data.remaining) == (4, 2, 2, 0)
    assert path.read_bytes() == b"EFABCD"
    assert source(user, A(READ_ONLY_END), 4).read_to_fd(fd, 0, 4) == -EFAULT
    os.close(fd)


def test_a_range_wants_sound_arguments(user: UserMap) -> None:
    for kind in (UserOutput, UserInput):
        for arguments in ((), (user, A(START)), (user, START, 1), (None, A(START), 1), (user, A(START), "1")):
            with pytest.raises(TypeError):
                kind(*arguments)
        with pytest.raises(TypeError):
            kind(user, A(START), length=1)  # type: ignore[call-arg,misc]
        with pytest.raises(OverflowError):
            kind(user, A(START), -1)
    assert UserInput(user, A(START), 1 << 40).remaining == 0x7FFFF000
    assert UserInput(user, A(LAST), 4096).remaining == 4096
    for address, length in ((LAST, 4097), (LAST + 4096, 1), (START, (1 << 64) - 1), ((1 << 64) - 1, 1), (0xFFFF800000000000, 0)):
        with pytest.raises(Fault):
            UserOutput(user, A(address), length)
    data = UserInput(user, A(START), 4)
    for attempt in (data.skip, data.truncate):
        with pytest.raises(ValueError, match="remains"):
            attempt(5)
    assert data.remaining == 4


def test_a_range_keeps_its_map_alive_and_no_longer(user: UserMap) -> None:
    before = sys.getrefcount(user)
    ranges = [UserInput(user, A(START), 1), UserOutput(user, A(START), 1)]
    assert sys.getrefcount(user) == before + 2
    del ranges
    assert sys.getrefcount(user) == before
