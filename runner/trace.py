"""Trace events: durations and instants of a category, sent to whoever listens.

Names follow Starnix's (category ``power``). Without a listener an event costs one comparison.
"""

from __future__ import annotations

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


def trace_instant(category: str, event: str, name: str) -> None:
    """Something happened."""
    if _tracer.listener is not None:
        _tracer.listener(TraceEvent(category, event, name, time.monotonic_ns(), None))


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
