"""Service: who serves a session or a broker: whoever waits for something anyway, or a thread of its own.

A message costs least if the thread that wants it fetches it: waking another one costs more than all the rest. So a thread that is about to
sleep in :func:`sleep` *leads*: it polls and serves until what it waits for has come. If another one that waits leads already, it
sleeps, and leads when that one is done. The service's own thread leads only while nobody waits, or has waited for :data:`_ASIDE_NS`, and
gives way to who comes: it isn't woken, and doesn't ask for the GIL, between one wait and the next. When nothing happens, one thread
sleeps in one poll.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import ClassVar, Protocol

from polynix.ipc._atomics import Words

_ASIDE_NS = 2_000_000


class Served(Protocol):
    """What a service serves."""

    ended: bool
    leader: int
    """The thread that serves it now, 0 for none."""

    def serve(self, timeout: float) -> None:
        """Sleep until something comes, for ``timeout`` seconds or (-1) without end, and handle it. One thread at a time calls this."""

    def interrupt(self) -> None:
        """Have :meth:`serve` return soon; from any thread."""


class Sleeper:
    """A thread that waits for :meth:`wake`, and may lead meanwhile. It belongs to one thread, and can be used again and again."""

    __slots__ = ("_lock", "leading", "woken")

    def __init__(self) -> None:
        self.woken = False
        self.leading: Served | None = None
        self._lock = threading.Lock()  # free: roused
        self._lock.acquire()

    def wake(self) -> None:
        """From any thread: what was waited for has come."""
        self.woken = True
        leading = self.leading
        if leading is None:
            self.rouse()
        elif threading.get_ident() != leading.leader:
            leading.interrupt()

    def rouse(self) -> None:
        """End the sleep, or the next one, so that the thread looks again."""
        with contextlib.suppress(RuntimeError):  # it was roused already
            self._lock.release()

    def sleep(self, timeout: float) -> None:
        """Without leading; may return early."""
        if not self.woken:
            self._lock.acquire(timeout=timeout if timeout >= 0 else -1)


class Service:
    """Serves one :class:`Served` until it has ended. The latest one of a process that wants it (``helped``) is what waiting threads help."""

    current: ClassVar[Service | None] = None
    pid: ClassVar[int] = 0

    def __init__(self, served: Served, name: str, *, helped: bool = True) -> None:
        self.served = served
        self._lead = threading.Lock()
        self._turns = Words(bytearray(8))  # a word that counts when the lead is taken and given up: odd while somebody leads
        self._sleepers: list[Sleeper] = []  # that wait while somebody else leads
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        if helped:
            Service.current, Service.pid = self, os.getpid()
        self._thread.start()

    def _run(self) -> None:
        served = self.served
        while not served.ended:
            if self._lead.acquire(blocking=False):
                self._begin()
                try:
                    while not served.ended and not self._sleepers:
                        served.serve(-1)
                finally:
                    self._give_up()
            self._turns.wait_still(0, _ASIDE_NS)
        for sleeper in list(self._sleepers):
            sleeper.rouse()

    def sleep(self, sleeper: Sleeper, timeout: float) -> None:
        """See :func:`sleep`."""
        if not self._lead.acquire(blocking=False):
            self._follow(sleeper, timeout)
            return
        self._begin()
        sleeper.leading = served = self.served
        try:
            deadline = time.monotonic() + timeout if timeout >= 0 else None
            while not sleeper.woken and not served.ended:
                served.serve(timeout)
                if deadline is not None:
                    timeout = deadline - time.monotonic()
                    if timeout <= 0:
                        break
        finally:
            sleeper.leading = None
            self._give_up()

    def _follow(self, sleeper: Sleeper, timeout: float) -> None:
        served = self.served
        self._sleepers.append(sleeper)
        try:
            if served.leader == self._thread.ident:
                served.interrupt()  # it gives way
            if served.ended or not self._lead.locked():  # given up before it could see this one
                return
            sleeper.sleep(timeout)
        finally:
            self._sleepers.remove(sleeper)

    def _begin(self) -> None:
        self.served.leader = threading.get_ident()
        self._turns.add(0, 1)  # nobody waits for odd

    def _give_up(self) -> None:
        """Another one that sleeps leads now; or, in a while, the service's thread."""
        self.served.leader = 0
        self._turns.wake(0)
        self._lead.release()
        if self._sleepers:
            for other in list(self._sleepers):
                if not other.woken:
                    other.rouse()
                    break

    def join(self) -> None:
        """Once it has ended: wait for the thread, unless the caller is what it waits for."""
        if self.served.leader != threading.get_ident():
            self.served.interrupt()
            self._thread.join()
        if Service.current is self:
            Service.current = None


def sleep(sleeper: Sleeper, timeout: float) -> None:
    """Sleep until ``sleeper`` is woken, for ``timeout`` seconds at most or (-1) without end, and serve meanwhile if nobody else does; with 0, serve
    what has come. May return early.
    """
    service = Service.current
    if service is not None and Service.pid == os.getpid() and not service.served.ended:
        service.sleep(sleeper, timeout)
    else:
        sleeper.sleep(timeout)


def sleep_until(sleeper: Sleeper, deadline: float | None) -> bool:
    """Sleep until ``sleeper`` is woken or ``deadline`` (time.monotonic()) has passed; False then."""
    while not sleeper.woken:
        timeout = -1.0
        if deadline is not None:
            timeout = deadline - time.monotonic()
            if timeout <= 0:
                return False
            timeout = min(timeout, threading.TIMEOUT_MAX)
        sleep(sleeper, timeout)
    return True
