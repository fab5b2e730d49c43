"""The lock of all kernel objects of this process: what must happen outside it happens when it is released.

There is one, because a message can carry any object into any other, and two locks would have no order.

Observers and the closing of queued handles may touch other objects. They are noted while the lock is held and run after its last
release, one after another for each thread, so that a chain of closings neither nests nor meets another object's lock.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)


class _Running(threading.local):
    """The callbacks that this thread has yet to run; None when it isn't running any."""

    due: deque[Callable[[], None]] | None = None


_running = _Running()


class ObjectLock:
    """A re-entrant lock (a finaliser may run anywhere) with callbacks due at its release."""

    __slots__ = ("_depth", "_due", "_left", "_let_go", "_take")

    def __init__(self) -> None:
        lock = threading.RLock()
        self._take, self._let_go = lock.acquire, lock.release
        self._depth = 0
        self._due: list[Callable[[], None]] = []
        self._left: deque[Callable[[], None]] = deque()  # by finalisers

    def after(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` once the lock, which the caller holds, is free."""
        self._due.append(callback)

    def finalise(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` when the lock is free, now or later, without waiting for it: a finaliser runs in the middle of anything, and
        who has the lock may be waiting for just that.
        """
        self._left.append(callback)
        if self._take(blocking=False):
            self._depth += 1
            self.release()

    def acquire(self) -> None:
        self._take()
        self._depth += 1

    def release(self) -> None:
        self._depth -= 1
        if self._depth:
            self._let_go()
            return
        if not self._due:
            self._let_go()
            if not self._left or not self._take(blocking=False):  # who has it now finds them
                return
        self._run_due()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()

    def _run_due(self) -> None:
        due, self._due = self._due, []
        while self._left:
            due.append(self._left.popleft())
        self._let_go()
        if _running.due is not None:
            _running.due.extend(due)
            return
        queue = _running.due = deque(due)
        try:
            while queue:
                try:
                    queue.popleft()()
                except Exception:  # one observer's mistake must not cost another its wake-up
                    log.exception("an observer failed")
        finally:
            _running.due = None


OBJECTS = ObjectLock()
