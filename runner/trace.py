"""Trace events: durations and instants of a category, sent to whoever listens.

Names follow Starnix's (category ``power``). Without a listener an event costs one comparison. ``polynix trace`` names a file in the environment, to which every
process of the runner then appends its events.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple


class TraceEvent(NamedTuple):
    """``duration_ns`` is None for an instant; times are CLOCK_MONOTONIC."""

    category: str
    event: str
    name: str
    start_ns: int
    duration_ns: int | None


class _Tracer:
    listener: Callable[[TraceEvent], None] | None = None


_tracer = _Tracer()


def set_listener(listener: Callable[[TraceEvent], None] | None) -> None:
    """Have ``listener`` called with every event, from the thread that it happens in; None stops that."""
    _tracer.listener = listener


def is_traced() -> bool:
    """Whether somebody listens."""
    return _tracer.listener is not None


def trace_instant(category: str, event: str, name: str) -> None:
    """Something happened."""
    if _tracer.listener is not None:
        _tracer.listener(TraceEvent(category, event, name, time.monotonic_ns(), None))


def trace_ended(category: str, event: str, name: str, start_ns: int) -> None:
    """A duration that began at ``start_ns`` (CLOCK_MONOTONIC) is over."""
    if _tracer.listener is not None:
        _tracer.listener(TraceEvent(category, event, name, start_ns, time.monotonic_ns() - start_ns))


LOG_VARIABLE = "POLYNIX_TRACE_LOG"
LOG_MAX = 64 << 20  # bytes of the log; what comes later is left out


def log_to(path: str) -> None:
    """Append every event to a file as a line of JSON, whole lines even when several processes write; nothing once it is gone. This process's forks do so
    too, whatever descriptors they keep.
    """

    def append(event: TraceEvent) -> None:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            return  # whoever wanted it is gone
        try:
            if os.fstat(fd).st_size < LOG_MAX:
                os.write(fd, json.dumps(event).encode() + b"\n")
        finally:
            os.close(fd)

    set_listener(append)


def read_log(fd: int) -> list[TraceEvent]:
    """What :func:`log_to` wrote; a line that a dying process left unfinished is skipped."""
    events = []
    for line in os.pread(fd, os.fstat(fd).st_size, 0).splitlines():
        try:
            events.append(TraceEvent(*json.loads(line)))
        except (ValueError, TypeError):
            continue
    return events


if LOG_VARIABLE in os.environ:
    log_to(os.environ[LOG_VARIABLE])


class trace_duration:
    """A context manager: what is inside took so long."""

    __slots__ = ("_category", "_event", "_name", "_start")

    def __init__(self, category: str, event: str, name: str) -> None:
        self._category = category
        self._event = event
        self._name = name

    def __enter__(self) -> None:
        self._start = time.monotonic_ns() if _tracer.listener is not None else 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if _tracer.listener is not None and self._start:
            now = time.monotonic_ns()
            _tracer.listener(TraceEvent(self._category, self._event, self._name, self._start, now - self._start))
