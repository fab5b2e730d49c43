"""Reads a trace ring: what the kernel wrote raw becomes events with names, decoded arguments and results."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from polynix.kernelproc.strace.signatures import signature
from polynix.kernelproc.syscalls import all as all_calls  # noqa: F401  # fills the table: names and kinds of arguments
from polynix.kernelproc.trace_layout import (
    CONTINUED_OFFSET,
    EVENTS_OFFSET,
    HEADER,
    HEADER_SIZE,
    NAME_SLOTS,
    NO_RESULT,
    SLOT_SIZE,
    TEXT_OFFSET,
    TEXT_SIZE,
    Kind,
    slot_dtype,
)

CHUNK = 1 << 14  # slots that are looked at together
CALL, BEGIN, END, TEXT, EXIT = (int(kind) for kind in (Kind.CALL, Kind.BEGIN, Kind.END, Kind.TEXT, Kind.EXIT))  # compared faster than members of an enum
_KINDS = frozenset(int(kind) for kind in Kind)


@dataclass(slots=True)
class Event:
    """One thing that happened; times are CLOCK_MONOTONIC. A call that was still in progress has ``end_ns`` None."""

    kind: int  # a Kind
    tid: int
    start_ns: int
    end_ns: int | None
    number: int = 0
    result: int | None = None
    arguments: Sequence[int] = ()
    memory: bytes = b""  # that was recorded with the call

    @property
    def name(self) -> str:
        """Of a system call."""
        return signature(self.number).name


@dataclass
class Thread:
    """Who a tid was."""

    tid: int
    pid: int
    name: str


class TraceReader:
    """A ring, read after the kernel has ended in whatever way. ``dropped`` is how many slots were overwritten; None: some, but the kernel could not say."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ)
        _magic, _version, slots, written = HEADER.unpack_from(self._map)
        dtype = slot_dtype()
        events: Any = numpy.frombuffer(self._map, dtype, slots, EVENTS_OFFSET)
        # The ring is filled in order. To look at memory that was never written would allocate it, gigabytes of a big buffer.
        touched = max(os.lseek(fd, EVENTS_OFFSET, os.SEEK_HOLE) - EVENTS_OFFSET, 0)
        filled = min(-(-touched // SLOT_SIZE), slots)
        events = events[:filled]
        ends = events["end_ns"]
        wrapped = filled == slots and bool(ends[-1])
        if wrapped:  # the oldest slot stands behind the newest
            backwards = numpy.flatnonzero(ends[1:] < ends[:-1])
            start = int(backwards[0]) + 1 if len(backwards) else 0
            self._pieces = [events[start:], events[:start]]
        else:
            self._pieces = [events[: int(numpy.count_nonzero(ends))]]
        self.dropped = (written - slots if written else None) if wrapped else 0
        self.threads = self._read_threads(numpy.frombuffer(self._map, dtype, NAME_SLOTS, HEADER_SIZE))

    @staticmethod
    def _read_threads(rows: Any) -> dict[int, Thread]:
        threads = {}
        for row in sorted(rows[rows["kind"] == Kind.NAME], key=lambda row: int(row["end_ns"])):
            name = bytes(row["text"])[: int(row["length"])].decode(errors="backslashreplace")
            threads[int(row["tid"])] = Thread(int(row["tid"]), int(row["arguments"][0]), name)
        return threads

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def events(self) -> Iterator[Event]:
        """All events in the order of their ends, a blocking call where it ended; calls still in progress come last."""
        blocked: dict[int, Event] = {}
        for event in self._slots_as_events():
            kind = event.kind
            if kind == CALL:
                yield event
            elif kind == BEGIN:
                event.kind, event.end_ns = CALL, None
                blocked[event.tid] = event
            elif kind == END:
                begun = blocked.pop(event.tid, None)
                if begun is not None:
                    begun.end_ns, begun.result = event.end_ns, event.result
                    begun.memory = event.memory or begun.memory
                    yield begun
            else:
                if kind == EXIT and event.tid in blocked:
                    yield blocked.pop(event.tid)
                yield event
        yield from blocked.values()

    def _slots_as_events(self) -> Iterator[Event]:
        unfinished: Event | None = None  # its text goes on in the slots behind
        text = b""
        for slots in (piece[begin : begin + CHUNK] for piece in self._pieces for begin in range(0, len(piece), CHUNK)):
            raw = slots.tobytes()
            columns = (slots[name].tolist() for name in ("start_ns", "end_ns", "tid", "number", "kind", "length", "result", "arguments"))
            place = -SLOT_SIZE
            for start, end, tid, number, kind, length, result, arguments in zip(*columns, strict=True):
                place += SLOT_SIZE
                if kind == TEXT:
                    text += raw[place + CONTINUED_OFFSET : place + CONTINUED_OFFSET + length]
                    continue
                if unfinished is not None:
                    unfinished.memory = text
                    yield unfinished
                    unfinished = None
                if kind not in _KINDS:
                    continue  # half written when the kernel died
                event = Event(kind, tid, start, end, number, None if result == NO_RESULT or kind == BEGIN else result, arguments)
                if length:
                    text = raw[place + TEXT_OFFSET : place + TEXT_OFFSET + min(length, TEXT_SIZE)]
                    if length > TEXT_SIZE:
                        unfinished = event
                        continue
                    event.memory = text
                yield event
        if unfinished is not None:
            unfinished.memory = text
            yield unfinished
