"""Reads a trace ring: what the kernel wrote raw becomes events with names, decoded arguments and results."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from polynix.kernelproc.strace.recorded import decode_arguments, decode_result
from polynix.kernelproc.strace.signatures import signature
from polynix.kernelproc.syscalls import all as all_calls  # noqa: F401  # fills the table: names and kinds of arguments
from polynix.kernelproc.trace_layout import EVENTS_OFFSET, HEADER, HEADER_SIZE, NAME_SLOTS, NO_RESULT, SLOT_SIZE, Kind, slot_dtype

_KINDS = frozenset(int(kind) for kind in Kind)


@dataclass(slots=True)
class Event:
    """One thing that happened; times are CLOCK_MONOTONIC. A call that was still in progress has ``end_ns`` None."""

    kind: Kind
    tid: int
    start_ns: int
    end_ns: int | None
    number: int = 0
    result: int | None = None
    arguments: tuple[int, ...] = ()
    paths: tuple[bytes, ...] = ()

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
        import numpy

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
            if event.kind == Kind.BEGIN:
                event.kind, event.end_ns = Kind.CALL, None
                blocked[event.tid] = event
            elif event.kind == Kind.END:
                begun = blocked.pop(event.tid, None)
                if begun is not None:
                    begun.end_ns, begun.result = event.end_ns, event.result
                    yield begun
            else:
                if event.kind == Kind.EXIT and event.tid in blocked:
                    yield blocked.pop(event.tid)
                yield event
        yield from blocked.values()

    def _slots_as_events(self) -> Iterator[Event]:
        pending: Event | None = None
        text = b""
        for row in (row for piece in self._pieces for row in piece):
            start, end, tid, number, kind, length, result, arguments, inline, continued = row.item()
            if kind == Kind.TEXT:
                text += continued[:length]
                continue
            if pending is not None:
                pending.paths = tuple(text.split(b"\0")) if text else ()
                yield pending
                pending = None
            if kind not in _KINDS:
                continue  # half written when the kernel died
            known = result != NO_RESULT if kind != Kind.BEGIN else False
            pending = Event(Kind(kind), tid, start, end, number, result if known else None, tuple(int(value) for value in arguments))
            text = inline[:length]
        if pending is not None:
            pending.paths = tuple(text.split(b"\0")) if text else ()
            yield pending


def decoded_arguments(event: Event) -> list[tuple[str, str]]:
    """(name, value) of each argument of a call."""
    return decode_arguments(event.number, event.arguments, event.paths, event.result)


def decoded_result(event: Event) -> str:
    """The result of a call."""
    return decode_result(event.number, event.result)


def line_of(event: Event) -> str:
    """A call as one line, as strace shows it."""
    return f"{event.name}({', '.join(value for _, value in decoded_arguments(event))}) = {decoded_result(event)}"
