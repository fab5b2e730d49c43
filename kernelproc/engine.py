"""The engine that drives everything that can block: coroutines of guest threads and kthreads, timers, and the one ``epoll_wait``.

Three principles, and nothing else is built in:

1. One thread owns kernel state. The engine runs one routine at a time until it parks; there are no locks because there is nothing to race with.
2. A routine has one trap, :func:`park`. Whoever wants it to go on calls :meth:`Engine.wake`; a signal calls :meth:`Engine.interrupt`. Wait queues, futexes,
   sleeping and child waiting are built on these, outside the engine.
3. The engine sleeps in one place, ``Monitor.wait`` of restricted mode (an ``epoll_wait`` with the GIL released), for guest exits, host descriptors and
   the next timer alike. What real threads finish arrives there as messages.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, ClassVar

from polynix.kernelproc.clock import AlarmDeadline
from polynix.kernelproc.errno import ERESTARTSYS, Errno
from polynix.kernelproc.spin_policy import SpinPolicy

if TYPE_CHECKING:
    from polynix.addrspace._restricted import Monitor, Slot
    from polynix.kernelproc.clock import Clock

log = logging.getLogger(__name__)

SWEEP_TIMERS = 1024  # from so many timers on, cancelled ones are taken out of the heap when their number may have doubled
LONGEST_SLEEP_NS = 1 << 60  # 36 years: a guest may name any time, a host call not


class Interrupted(Errno):
    """A signal ended an interruptible wait; ERESTARTSYS until the signal code decides between EINTR and a restart."""

    def __init__(self) -> None:
        super().__init__(ERESTARTSYS)


class Killed(BaseException):
    """Thrown into the parked routine of a task that must die; only ``finally`` blocks may run."""


Done = Callable[["Routine", Any, BaseException | None], None]


class Routine:
    """One coroutine in the kernel: a guest thread's blocked system call, or a kthread.

    ``owner`` is the Task (or None for a kthread), ``done`` is called with (routine, value, None) or (routine, None, exception) when the coroutine ends.
    """

    __slots__ = ("coroutine", "done", "interruptible", "name", "owner", "parked", "queued")

    def __init__(self, coroutine: Coroutine[Any, Any, Any] | None, name: str, owner: Any, done: Done) -> None:
        self.coroutine = coroutine
        self.name = name
        self.owner = owner
        self.done = done
        self.parked = False
        self.queued = False  # in the ready queue: a wake-up is on its way
        self.interruptible = False

    @classmethod
    def of(cls, result: Any, name: str, owner: Any, done: Done) -> Routine:
        """The routine of a system call that returned ``result``: a coroutine, or a routine that it has made itself."""
        if not isinstance(result, Routine):
            return Routine(result, name, owner, done)
        result.name = name
        result.owner = owner
        result.done = done
        return result

    def begin(self, engine: Engine) -> None:
        """Run for the first time."""
        self.step(engine, None, None)

    def step(self, engine: Engine, value: Any, error: BaseException | None) -> None:
        """Go on until the next park, or the end, with what the waker gave."""
        self.queued = False
        previous, engine.current = engine.current, self
        coroutine = self.coroutine
        assert coroutine is not None
        try:
            self.interruptible = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            engine.current = previous
            self.done(self, stop.value, None)
            return
        except (Exception, Killed) as failure:
            engine.current = previous
            self.done(self, None, failure)
            return
        engine.current = previous
        self.parked = True
        # A signal that came before the park must not be lost.
        if self.interruptible and self.owner is not None and self.owner.interrupt_pending():
            engine.interrupt(self)

    def __repr__(self) -> str:
        return f"<Routine {self.name} {'parked' if self.parked else 'ready' if self.queued else 'running'}>"


class Timer:
    """A call at a time; ``cancel`` is O(1) and leaves the heap entry to expire unseen, or to be swept when there are many."""

    __slots__ = ("arguments", "callback", "deadline_ns")

    def __init__(self, deadline_ns: int, callback: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
        self.deadline_ns = deadline_ns
        self.callback = callback
        self.arguments = arguments

    @property
    def active(self) -> bool:
        return self.callback is not None

    def cancel(self) -> None:
        self.callback = None
        self.arguments = ()


@types.coroutine
def park(interruptible: bool) -> Generator[bool, Any, Any]:
    """The only trap: give up the CPU until woken; returns the waker's value, raises what the waker threw."""
    return (yield interruptible)


class Engine:
    """Runs routines, timers and the wait; see the module's principles."""

    running: ClassVar[Engine]

    def __init__(self, monitor: Monitor, clock: Clock) -> None:
        Engine.running = self
        self.monitor = monitor
        self.clock = clock
        self.current: Routine = None  # type: ignore[assignment]  # only read while a routine runs
        self.handle_exit: Callable[[Slot], None] = _no_exit_handler
        self.spin = SpinPolicy(monitor)
        self._ready: deque[tuple[Routine, Any, BaseException | None]] = deque()
        self._timers: list[tuple[int, int, Timer]] = []  # of CLOCK_MONOTONIC
        self._boottime_timers: list[tuple[int, int, Timer]] = []
        self._sweep_at = SWEEP_TIMERS
        self.on_alarm: Callable[[], None] = _no_alarm  # an AlarmDeadline passed while the clock was stopped
        self._sequence = itertools.count()
        self._events: dict[int, Callable[[int], None]] = {}
        self._messages: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()  # from other threads
        self.on_awake: Callable[[], None] = _nothing  # after a sleep of the loop, before it handles what came
        self.on_wake: Callable[[Routine, bool], None] | None = None  # told of each wake-up (True: by a signal) before it happens; a profiler's
        self._stopped = False
        self._failure: Exception | None = None

    # -- routines ---------------------------------------------------------------------------------------------------------------------------

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str, owner: Any = None, done: Done | None = None) -> Routine:
        """Start a routine on the next turn of the loop."""
        routine = Routine(coroutine, name, owner, done or _log_failure)
        routine.queued = True
        self._ready.append((routine, None, None))
        return routine

    def start(self, routine: Routine) -> None:
        """Run a fresh routine now, until it parks or ends."""
        routine.begin(self)

    def wake(self, routine: Routine, value: Any = None) -> bool:
        """Let a parked routine go on with ``value``; False if it was not parked (someone else woke it first)."""
        if not routine.parked:
            return False
        if self.on_wake is not None:
            self.on_wake(routine, False)
        routine.parked = False
        routine.queued = True
        self._ready.append((routine, value, None))
        return True

    def interrupt(self, routine: Routine) -> bool:
        """Throw ``Interrupted`` into a routine parked interruptibly; False if it was not."""
        if not (routine.parked and routine.interruptible):
            return False
        if self.on_wake is not None:
            self.on_wake(routine, True)
        routine.parked = False
        routine.queued = True
        self._ready.append((routine, None, Interrupted()))
        return True

    def kill(self, routine: Routine) -> None:
        """Throw ``Killed`` into a parked or queued routine, at once; its ``finally`` blocks run before this returns."""
        if routine.queued:
            self._ready = deque(item for item in self._ready if item[0] is not routine)
        if routine.parked or routine.queued:
            routine.parked = False
            routine.step(self, None, Killed())

    # -- timers -----------------------------------------------------------------------------------------------------------------------------

    def call_at(self, deadline_ns: int, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Call ``callback(*arguments)`` when the monotonic clock reaches ``deadline_ns``, or CLOCK_BOOTTIME a ``BoottimeDeadline``."""
        timer = Timer(deadline_ns, callback, arguments)
        timers = self._timers if type(deadline_ns) is int else self._boottime_timers
        if len(timers) >= self._sweep_at:
            # In place: a callback of _expire_timers may be the caller.
            timers[:] = [entry for entry in timers if entry[2].callback is not None]
            heapq.heapify(timers)
            self._sweep_at = max(SWEEP_TIMERS, 2 * len(timers))
        heapq.heappush(timers, (deadline_ns, next(self._sequence), timer))
        return timer

    def call_later(self, delay_ns: int, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Call ``callback(*arguments)`` after ``delay_ns``."""
        return self.call_at(self.clock.monotonic_ns() + delay_ns, callback, *arguments)

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Call on the next turn of the loop."""
        return self.call_at(0, callback, *arguments)

    def call_from_thread(self, callback: Callable[..., object], *arguments: Any) -> None:
        """The one door for other threads: run ``callback(*arguments)`` in the loop."""
        self._messages.append((callback, arguments))
        self.monitor.wake()

    # -- host descriptors -------------------------------------------------------------------------------------------------------------------

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> int:
        """Call ``callback(events)`` whenever ``fd`` has ``events`` (EPOLL*); returns the token for :meth:`unwatch`."""
        token = next(self._sequence)
        self._events[token] = callback
        self.monitor.watch(fd, events, token)
        return token

    def unwatch(self, fd: int, token: int) -> None:
        """Stop watching ``fd``."""
        if self._events.pop(token, None) is not None:
            self.monitor.unwatch(fd)

    # -- the loop ---------------------------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End :meth:`run` after the current turn."""
        self._stopped = True

    def fail(self, error: Exception) -> None:
        """End :meth:`run` after the current turn with ``error``: the kernel cannot go on."""
        self._failure = error
        self._stopped = True

    def run(self) -> None:
        """Turn until :meth:`stop`. Errors: what :meth:`fail` was given."""
        while not self._stopped:
            self.turn()
        if self._failure is not None:
            raise self._failure

    def turn(self) -> None:
        """One turn: run what is ready, expire timers, wait, handle what came."""
        ready = self._ready
        while ready:
            routine, value, error = ready.popleft()
            try:
                routine.step(self, value, error)
            except Exception as failure:  # one part's defect; the others go on
                log.error("%r failed inside the kernel", routine, exc_info=failure)
            ready = self._ready  # kill() may have replaced it
        timeout = self._expire_timers() if self._timers or self._boottime_timers else -1
        if self._stopped:
            return
        if timeout == 0 or self._ready or self._messages:
            slots, events = self.monitor.wait(0, 0)
        else:
            slots, events = self._wait(timeout)
        handle_exit = self.handle_exit
        for slot in slots:
            handle_exit(slot)
        for token, mask in events:
            callback = self._events.get(token)
            if callback is not None:
                self._call(callback, mask)
        while self._messages:
            function, arguments = self._messages.popleft()
            self._call(function, *arguments)

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call back; a failure there is one part's defect, and the others go on."""
        try:
            function(*arguments)
        except Exception as error:
            log.error("%r failed inside the kernel", function, exc_info=error)

    def _wait(self, timeout: int) -> tuple[list[Slot], list[tuple[int, int]]]:
        """Spin for the next exit if that is likely to pay, then sleep for at most ``timeout`` ns (-1: no limit)."""
        monitor, policy = self.monitor, self.spin
        spin = policy.before_wait()
        if spin:
            slots, events = found = monitor.wait(0, spin)
            if slots or events or self._messages:
                if policy.unsettled:
                    policy.succeeded()
                return found
            policy.failed()
        policy.before_sleep()
        found = monitor.wait(timeout, 0)
        policy.after_sleep(bool(found[0]))
        self._call(self.on_awake)
        return found

    def _expire_timers(self) -> int:
        """Run due timers; returns ns until the next one, 0 if something is due or ready, -1 for never."""
        clock = self.clock
        left = self._expire(self._timers, clock.monotonic_ns())
        if clock.stopped:
            left = self._next_alarm()
        elif self._boottime_timers:
            other = self._expire(self._boottime_timers, clock.boottime_ns())
            left = other if left < 0 else left if other < 0 else min(left, other)
        return 0 if self._ready else left

    def _expire(self, timers: list[tuple[int, int, Timer]], now: int) -> int:
        while timers:
            deadline, _, timer = timers[0]
            if timer.callback is None:
                heapq.heappop(timers)
                continue
            if deadline > now:
                return min(deadline - now, LONGEST_SLEEP_NS)
            heapq.heappop(timers)
            callback, arguments = timer.callback, timer.arguments
            timer.cancel()
            self._call(callback, *arguments)
        return -1

    def _next_alarm(self) -> int:
        """The clock stands still: ns until the first timer that ends that, -1 for never. One that is due is told, and goes off with the others."""
        alarms = [deadline for deadline, _, timer in self._boottime_timers if timer.active and isinstance(deadline, AlarmDeadline)]
        if not alarms:
            return -1
        left = self.clock.until(min(alarms))
        if left > 0:
            return min(left, LONGEST_SLEEP_NS)
        self.on_alarm()
        return -1 if self.clock.stopped else 0


def _no_exit_handler(slot: Slot) -> None:
    raise RuntimeError(f"guest exit without a system call loop: {slot!r}")


def _no_alarm() -> None:
    """Nobody stops the clock."""


def _nothing() -> None:
    """Nobody wants to know."""


def _log_failure(routine: Routine, _value: Any, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, Killed):
        log.error("kthread %s failed", routine.name, exc_info=error)
