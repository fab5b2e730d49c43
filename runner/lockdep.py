"""Locks with names and levels, whose order is checked: LockDepMutex, and the levels that runner threads use.

With ``POLYNIX_LOCKDEP`` set, or under pytest, each thread remembers what it holds; taking a lock at the same or a lower level than one
that is held raises :class:`LockOrderError`. A terminal lock is a leaf: nothing may be taken after it. Source: Starnix's
``lib/starnix_sync`` (run-time lock order).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Generic, TypeVar

Value = TypeVar("Value")

CHECKED = "POLYNIX_LOCKDEP" in os.environ or "pytest" in sys.modules


class LockLevel(IntEnum):
    """The order in which locks may be taken, lowest first."""

    KERNELS = 10
    TERMINAL = 100


class LockOrderError(Exception):
    """A lock was taken out of order: a deadlock, or one in waiting."""


class _Held(threading.local):
    def __init__(self) -> None:
        self.stack: list[tuple[LockLevel, str]] = []


_held = _Held()


class LockDepMutex(Generic[Value]):
    """A value that is reached only with its lock held: ``with mutex.lock() as value``."""

    def __init__(self, value: Value, name: str, level: LockLevel = LockLevel.TERMINAL) -> None:
        self.name = name
        self.level = level
        self._value = value
        self._lock = threading.Lock()

    @contextmanager
    def lock(self) -> Iterator[Value]:
        """Errors: :class:`LockOrderError` where order is checked."""
        if not CHECKED:
            with self._lock:
                yield self._value
            return
        stack = _held.stack
        if stack and stack[-1][0] >= self.level:
            raise LockOrderError(f"{self.name} ({self.level.name}) after {stack[-1][1]} ({stack[-1][0].name})")
        with self._lock:
            stack.append((self.level, self.name))
            try:
                yield self._value
            finally:
                stack.pop()
