"""Recorded calls are shown as if each were formatted by itself, however much of others before it is remembered."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polynix.addrspace._usercopy import Fault, UserAddress
from polynix.kernelproc.strace import recorded
from polynix.kernelproc.strace.arguments import Call
from polynix.kernelproc.strace.recorded import RecordedCalls
from polynix.kernelproc.strace.signatures import signature
from polynix.kernelproc.syscalls import all as all_calls  # noqa: F401  # fills the table
from polynix.kernelproc.syscalls import table
from polynix.kernelproc.uapi.unistd import SYSCALLS

# Few values, so that they come again: addresses, counts, flags, commands of fcntl and ioctl, descriptors, negative numbers.
words = st.sampled_from([0, 1, 2, 3, 4, 0o102, 0o2000000, 0x5413, 0x5421, 1030, 4096, 0x7FFF00001000, (1 << 64) - 100, (1 << 32) - 1, (1 << 64) - 1])
results = st.one_of(st.none(), st.sampled_from([0, 1, 3, 4096, -2, -9, -512]))
calls = st.tuples(st.sampled_from(sorted({*SYSCALLS.values(), 999})), st.lists(words, min_size=6, max_size=6), results)


class Nowhere:
    """The guest is gone; nothing can be read but no bytes at all."""

    def __init__(self) -> None:
        self.user = self

    def copy_in(self, _address: UserAddress, count: int) -> bytes:
        if count:
            raise Fault
        return b""

    def read_cstring(self, _address: UserAddress, _limit: int) -> bytes:
        raise Fault


def by_itself(number: int, arguments: list[int], result: int | None) -> list[str]:
    call = Call(Nowhere(), number, tuple(arguments))  # type: ignore[arg-type]
    call.result = result
    return [text for index, show in enumerate(signature(number).formatters) if (text := show(call, index))]


@settings(deadline=None)
@given(st.lists(calls, max_size=60))
def test_what_is_remembered_is_what_would_be_formatted(made: list[tuple[int, list[int], int | None]]) -> None:
    shown = RecordedCalls(lambda _name, value: value)
    for number, arguments, result in made:
        assert shown.arguments(number, arguments, b"", result) == by_itself(number, arguments, result), table.names.get(number)


def test_an_argument_that_depends_on_another_is_not_mixed_up() -> None:
    """fcntl's third argument: a number, flags or nothing, as the second says."""
    shown = RecordedCalls(lambda name, value: f"{name}={value}")
    fcntl = SYSCALLS["fcntl"]
    for _ in range(2):
        assert shown.arguments(fcntl, [3, 1030, 1, 0, 0, 0], b"", 4) == ["fd=3", "command=F_DUPFD_CLOEXEC", "argument=1"]
        assert shown.arguments(fcntl, [3, 2, 1, 0, 0, 0], b"", 0) == ["fd=3", "command=F_SETFD", "argument=FD_CLOEXEC"]
        assert shown.arguments(fcntl, [3, 1, 1, 0, 0, 0], b"", 0) == ["fd=3", "command=F_GETFD"]


def test_paths_are_those_of_the_call() -> None:
    shown = RecordedCalls(lambda _name, value: value)
    rename = SYSCALLS["rename"]
    assert shown.arguments(rename, [0x1000, 0x2000, 0, 0, 0, 0], b'a\0b"c\n', 0) == ['"a"', '"b\\"c\\n"']
    assert shown.arguments(rename, [0x1000, 0x2000, 0, 0, 0, 0], b"d\0e", 0) == ['"d"', '"e"']
    assert shown.arguments(rename, [0x1000, 0, 0, 0, 0, 0], b"", -14) == ["0x1000", "NULL"]


def test_memory_is_that_of_the_call() -> None:
    shown = RecordedCalls(lambda _name, value: value)
    write, read, pipe2 = (SYSCALLS[name] for name in ("write", "read", "pipe2"))
    for data, text in ((b"one", '"one"'), (b"two\n", '"two\\n"'), (b"x" * 32, '"' + "x" * 32 + '"...')):
        size = 100 if len(data) == 32 else len(data)
        assert shown.arguments(write, [1, 0x1000, size, 0, 0, 0], data, size) == ["1", text, str(size)]
        assert shown.arguments(read, [0, 0x1000, 4096, 0, 0, 0], data, size) == ["0", text, "4096"]
    assert shown.arguments(read, [0, 0x1000, 4096, 0, 0, 0], b"", -9) == ["0", "0x1000", "4096"]
    assert shown.arguments(read, [0, 0x1000, 4096, 0, 0, 0], b"", 0) == ["0", '""', "4096"]
    assert shown.arguments(write, [1, 0x1000, 9, 0, 0, 0], b"", -14) == ["1", "0x1000", "9"]  # it could not be read
    assert shown.arguments(pipe2, [0x1000, 0, 0, 0, 0, 0], b"\3\0\0\0\4\0\0\0", 0) == ["[3, 4]", "O_RDONLY"]


@pytest.mark.parametrize(
    ("call", "result", "text"), [("mmap", 0x1000, "0x1000"), ("read", 17, "17"), ("read", -9, "-1 EBADF"), ("read", -512, "? ERESTARTSYS"), ("exit", None, "?")]
)
def test_results(call: str, result: int | None, text: str) -> None:
    shown = RecordedCalls(lambda name, value: (name, value))
    assert [shown.result(SYSCALLS[call], result) for _ in range(2)] == [("result", text)] * 2


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "MAX_REMEMBERED", 10)
    made: list[str] = []
    shown = RecordedCalls(lambda _name, value: made.append(value) or value)  # type: ignore[func-returns-value]
    for number in (*range(1, 25), 24):
        assert shown.arguments(SYSCALLS["close"], [number, 0, 0, 0, 0, 0], b"", 0) == [str(number)]
        assert shown.result(SYSCALLS["close"], number) == str(number)
    assert made.count("24") == 2  # once as an argument, once as a result
    assert sum(len(argument.known) for argument in shown._arguments[SYSCALLS["close"]]) <= 10
