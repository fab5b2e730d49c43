"""Signals and rights of kernel objects, in Zircon's numbers (``zircon/types.h``, ``zircon/rights.h``)."""

from __future__ import annotations

from enum import IntFlag
from functools import lru_cache


class Signals(IntFlag):
    """What an object tells to those who wait for it; each type of object gives the lower bits a meaning of its own."""

    NONE = 0
    READABLE = 1 << 0
    WRITABLE = 1 << 1
    PEER_CLOSED = 1 << 2
    EVENT_SIGNALED = 1 << 3
    COUNTER_NON_POSITIVE = 1 << 4
    COUNTER_POSITIVE = 1 << 5
    VMO_ZERO_CHILDREN = 1 << 3
    CHANNEL_READABLE = READABLE
    CHANNEL_WRITABLE = WRITABLE
    CHANNEL_PEER_CLOSED = PEER_CLOSED
    EVENTPAIR_PEER_CLOSED = PEER_CLOSED
    EVENTPAIR_SIGNALED = EVENT_SIGNALED
    COUNTER_SIGNALED = EVENT_SIGNALED
    USER_0 = 1 << 24
    USER_1 = 1 << 25
    USER_2 = 1 << 26
    USER_3 = 1 << 27
    USER_4 = 1 << 28
    USER_5 = 1 << 29
    USER_6 = 1 << 30
    USER_7 = 1 << 31
    USER_ALL = 0xFF << 24


@lru_cache(maxsize=256)
def signals_of(bits: int) -> Signals:
    """The signals of a plain number. The class itself takes twenty times as long."""
    return Signals(bits)


class Rights(IntFlag):
    """What the holder of a handle may do."""

    NONE = 0
    DUPLICATE = 1 << 0
    TRANSFER = 1 << 1
    READ = 1 << 2
    WRITE = 1 << 3
    EXECUTE = 1 << 4
    MAP = 1 << 5
    GET_PROPERTY = 1 << 6
    SET_PROPERTY = 1 << 7
    ENUMERATE = 1 << 8
    DESTROY = 1 << 9
    SET_POLICY = 1 << 10
    GET_POLICY = 1 << 11
    SIGNAL = 1 << 12
    SIGNAL_PEER = 1 << 13
    WAIT = 1 << 14
    INSPECT = 1 << 15
    MANAGE_JOB = 1 << 16
    MANAGE_PROCESS = 1 << 17
    MANAGE_THREAD = 1 << 18
    RESIZE = 1 << 22
    SAME_RIGHTS = 1 << 31

    BASIC = TRANSFER | DUPLICATE | WAIT | INSPECT
    IO = READ | WRITE
    PROPERTY = GET_PROPERTY | SET_PROPERTY
