"""Which memory of a call is recorded with it, when its arguments are recorded raw: at most one small argument, of calls without paths."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from polynix.kernelproc.hooks.call import shape_of
from polynix.kernelproc.strace.arguments import STRING_LIMIT
from polynix.kernelproc.strace.signatures import words_of

MAX_ADDRESS = 128  # bytes of a socket's address
_SIZES = {
    "timespec": 16, "timeval": 16, "itimerspec": 32, "itimerval": 32, "sigset": 8, "sigaction": 32, "sigstack": 24, "rlimit": 16, "status": 4, "intpair": 8,
    "int32": 4, "off64": 8, "epoll_event": 12,
}  # fmt: skip


class RecordedMemory(NamedTuple):
    """``argument`` points to ``size`` bytes, or as many as argument ``length`` says (of an output without one, the result) and at most so many. An
    output is recorded at the end of the call.
    """

    argument: int  # its index
    size: int
    fixed: bool
    length: int | None
    output: bool


@cache
def recorded_memory(name: str) -> RecordedMemory | None:
    """What is recorded of system call ``name``: the first argument that is small."""
    if shape_of(name).paths:
        return None
    for index, word in enumerate(words_of(name)):
        output, kind = word.startswith(">"), word.removeprefix(">")
        if kind in _SIZES:
            return RecordedMemory(index, _SIZES[kind], True, None, output)
        if word == ">int":
            return RecordedMemory(index, 4, True, None, output)
        if word == ">buf":
            return RecordedMemory(index, STRING_LIMIT, False, None, output)
        if word.startswith("buf"):
            return RecordedMemory(index, STRING_LIMIT, False, int(word[3:]), output)
        if word in ("sockaddr", "sockaddr5"):
            return RecordedMemory(index, MAX_ADDRESS, False, 5 if word.endswith("5") else 2, output)
    return None
