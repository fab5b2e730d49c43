"""Zircon's status codes, and the exception that carries one.

Source: ``zircon/errors.h``; negative numbers are errors, positive ones belong to protocols.
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """The codes that this project's objects return."""

    OK = 0
    INTERNAL = -1
    NOT_SUPPORTED = -2
    NO_RESOURCES = -3
    NO_MEMORY = -4
    INVALID_ARGS = -10
    BAD_HANDLE = -11
    WRONG_TYPE = -12
    OUT_OF_RANGE = -14
    BUFFER_TOO_SMALL = -15
    BAD_STATE = -20
    TIMED_OUT = -21
    SHOULD_WAIT = -22
    CANCELED = -23
    PEER_CLOSED = -24
    NOT_FOUND = -25
    ALREADY_EXISTS = -26
    ALREADY_BOUND = -27
    UNAVAILABLE = -28
    ACCESS_DENIED = -30
    IO = -40
    IO_REFUSED = -41
    IO_DATA_INTEGRITY = -42
    NO_SPACE = -54


class ZxStatus(Exception):
    """A failed operation on a kernel object. ``status`` is a :class:`Status` where the number has a name."""

    def __init__(self, status: int, message: str = "") -> None:
        try:
            self.status: int = Status(status)
            name = Status(status).name
        except ValueError:
            self.status = status
            name = str(status)
        super().__init__(f"{name}: {message}" if message else name)
