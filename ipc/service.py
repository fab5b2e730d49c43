"""Service: who serves a session or a broker: whoever waits for something anyway, or a thread of its own.

A message costs least if the thread that wants it fetches it: waking another one costs more than all the rest. So a thread that is about to
sleep in :func:`sleep_until` *leads* if nobody does: it polls and serves until what it waits for has come. The service's own thread leads
when nobody waits; having fetched something for a thread that sleeps, it steps aside for a moment, so that the sleeper leads next time.
When nothing happens, one thread sleeps in one poll.
"""

from __future__ import annotations

import os
import threading
import time
from typing import ClassVar, Protocol

_ASIDE_SECONDS = 0.002


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

    __slots__ = ("_lock", "_waiting", "leading", "woken")

    def __init__(self) -> None:
        self.woken = False
        self.leading: Served | None = None
        self._lock = threading.Lock()
        self._lock.acquire()
        self._waiting = False

    def wake(self) -> None:
        """From any thread: what was waited for has come."""
        self.woken = True
        leading = self.leading
        if leading is not None:
            if threading.get_ident() != leading.leader:
                leading.interrupt()
        else:
            self.rouse()

    def rouse(self) -> None:
        """End the sleep, so that the thread looks again."""
        if self._waiting:
            self._waiting = False
            try:
                self._lock.release()
            except RuntimeError:
                pass  # somebody else did

    def sleep(self, timeout: float) -> None:
        """Without leading; may return early."""
        self._waiting = True
        if not self.woken:
            self._lock.acquire(timeout=timeout if timeout >= 0 else -1)
        self._waiting = False


class Service:
    """Serves one :class:`Served` until it has ended. The latest one of a process that wants it (``helped``) is what waiting threads help."""

    current: ClassVar[Service | None] = None
    pid: ClassVar[int] = 0

    def __init__(self, served: Served, name: str, *, helped: bool = True) -> None:
        self.served = served
        self._lead = threading.Lock()
        self._sleepers: list[Sleeper] = []  # that wait while somebody else leads
        self._leads = self._seen = 0  # how often others have led
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        if helped:
            Service.current, Service.pid = self, os.getpid()
        self._thread.start()

    def _run(self) -> None:
        served = self.served
        aside = False
        while not served.ended:
            if aside:
                time.sleep(_ASIDE_SECONDS)
                leads = self._leads
                with self._lead:  # blocks while another leads
                    aside = leads != self._leads or leads != self._seen
                    self._seen = self._leads
                continue
            with self._lead:
                served.leader = threading.get_ident()
                served.serve(-1)
                served.leader = 0
                aside = any(sleeper.woken for sleeper in list(self._sleepers))  # who sleeps again, leads
        for sleeper in list(self._sleepers):
            sleeper.rouse()

    def sleep(self, sleeper: Sleeper, timeout: float) -> None:
        """Sleep until ``sleeper`` is woken, for ``timeout`` seconds at most; lead if nobody does."""
        deadline = time.monotonic() + timeout if timeout >= 0 else None
        served = self.served
        if served.ended or not self._lead.acquire(blocking=False):
            self._sleepers.append(sleeper)
            try:
                sleeper.sleep(timeout)
            finally:
                self._sleepers.remove(sleeper)
            return
        try:
            self._leads += 1
            served.leader = threading.get_ident()
            sleeper.leading = served
            while not sleeper.woken and not served.ended:
                served.serve(timeout)
                if deadline is not None:
                    timeout = max(0.0, deadline - time.monotonic())
                    if timeout == 0:
                        break
        finally:
            served.leader = 0
            sleeper.leading = None
            self._lead.release()
            if self._sleepers:  # one of them leads now
                for other in list(self._sleepers):
                    if not other.woken:
                        other.rouse()
                        break

    def join(self) -> None:
        """Once it has ended: wait for the thread."""
        self.served.interrupt()
        if self._thread is not threading.current_thread():
            self._thread.join()
        if Service.current is self:
            Service.current = None


def sleep_until(sleeper: Sleeper, deadline: float | None) -> bool:
    """Sleep until ``sleeper`` is woken or ``deadline`` (time.monotonic()) has passed; False then."""
    while not sleeper.woken:
        timeout = -1.0
        if deadline is not None:
            timeout = deadline - time.monotonic()
            if timeout <= 0:
                return False
            timeout = min(timeout, threading.TIMEOUT_MAX)
        service = Service.current
        if service is not None and Service.pid == os.getpid() and not service.served.ended:
            service.sleep(sleeper, timeout)
        else:
            sleeper.sleep(timeout)
    return True
