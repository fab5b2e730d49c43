"""Marks each missing branch where it is met (Starnix's ``track_stub!``): nothing unimplemented is silent.

Counts are kept per place, message, flags and process name; ``polynix stubs`` shows them.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

log = logging.getLogger("polynix.track_stub")


class StubPlace(NamedTuple):
    """Where a missing branch was met."""

    message: str
    file: str
    line: int
    flags: int | None
    process: str


counts: Counter[StubPlace] = Counter()
listeners: list[Callable[[], None]] = []  # called when a place is met for the first time
loop: Any = None  # the system call loop, whose ``current`` is the task on whose behalf the kernel runs


def process_name() -> str:
    """The name of the guest process on whose behalf the kernel runs."""
    current = None if loop is None else loop.current
    return "kernel" if current is None else str(current.comm.decode(errors="replace"))


def track_stub(message: str, flags: int | None = None) -> None:
    """Count one meeting of a branch that polynix does not implement yet."""
    frame = sys._getframe(1)
    place = StubPlace(message, frame.f_code.co_filename.rsplit("/", 1)[-1], frame.f_lineno, flags, process_name())
    counts[place] += 1
    if counts[place] == 1:
        for listener in listeners:
            listener()
        log.debug("%s flags=%s at %s:%d in %s", message, None if flags is None else hex(flags), place.file, place.line, place.process)


def summary() -> list[dict[str, str | int | None]]:
    """All places met, most frequent first."""
    return [{**place._asdict(), "count": count} for place, count in counts.most_common()]
