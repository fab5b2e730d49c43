"""The records of a container's log: what was read from one of its streams at a time (:mod:`polynix.runner.container_log` keeps them)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

HEADER = struct.Struct("<qBI")
"""CLOCK_REALTIME in ns, OUTPUT or ERRORS, length; the bytes follow."""
OUTPUT, ERRORS = 1, 2


class Record(NamedTuple):
    """What was written to one of the streams."""

    time_ns: int
    stream: int
    data: bytes


def parse_records(data: bytes) -> Iterator[Record]:
    """The records in ``data``, which are whole. Errors: ValueError."""
    offset = 0
    while offset < len(data):
        if offset + HEADER.size > len(data):
            raise ValueError("half a record")
        when, stream, length = HEADER.unpack_from(data, offset)
        offset += HEADER.size
        if offset + length > len(data):
            raise ValueError("half a record")
        yield Record(when, stream, data[offset : offset + length])
        offset += length
