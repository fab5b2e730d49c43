"""The records of a container's log: what was read from one of its streams at a time (:mod:`polynix.runner.container_log` keeps them)."""

from __future__ import annotations

import io
import struct
from collections import deque
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


class LastLines:
    """The last lines of a log. One that was written in pieces counts once, and comes whole where text of the other stream stands in between."""

    def __init__(self, limit: int) -> None:
        self._lines: deque[list[Record]] = deque(maxlen=limit)
        self._unended: dict[int, list[Record]] = {}  # by stream

    def add(self, record: Record) -> None:
        """What was written next."""
        for piece in io.BytesIO(record.data):
            line = self._unended.pop(record.stream, None)
            if line is None:
                line = []
                self._lines.append(line)
            line.append(record._replace(data=piece))
            if not piece.endswith(b"\n"):
                self._unended[record.stream] = line

    def __iter__(self) -> Iterator[Record]:
        """A record a line, at the time of its beginning."""
        for line in self._lines:
            yield line[0]._replace(data=b"".join(piece.data for piece in line))
