"""kthreads: work of the kernel itself, in the initial process, so that it outlives the guest process that caused it.

Cooperative ones are routines of the engine. What would block the loop (slow disks, fsync) runs on a small pool of real threads; results come back to the
loop as messages.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from polynix.kernelproc.engine import Engine, Routine, park

T = TypeVar("T")

POOL_SIZE = 4
_CPUS = os.sched_getaffinity(0)


class KernelThreads:
    """Starts kthreads. Threads of the pool are made at first use, never before a fork."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.routines: dict[str, Routine] = {}
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> Routine:
        """A cooperative kthread; it must never block outside ``await``."""
        routine = self.engine.spawn(coroutine, name)
        self.routines[name] = routine
        return routine

    async def run_in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run ``function`` on the pool and await its result (not interruptible by signals, like disk sleep). Exceptions pass through."""
        engine = self.engine
        routine = engine.current
        outcome: list[Any] = []

        def work() -> None:
            try:
                outcome.append((function(*arguments), None))
            except BaseException as error:
                outcome.append((None, error))
            engine.call_from_thread(engine.wake, routine, None)

        self._submit(work)
        while not outcome:
            await park(False)
        value, error = outcome[0]
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def _submit(self, work: Callable[[], None]) -> None:
        if len(self._threads) < POOL_SIZE and self._work.qsize() >= self._idle:
            thread = threading.Thread(target=self._serve, name=f"kworker/{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._work.put(work)

    def _serve(self) -> None:
        os.sched_setaffinity(0, _CPUS)  # the loop's thread, whose affinity this one inherits, may be pinned at the moment
        while True:
            self._idle += 1
            work = self._work.get()
            self._idle -= 1
            if work is None:
                return
            work()

    def close(self) -> None:
        """End the pool's threads; running work is finished first."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join(timeout=2)
        self._threads.clear()
