"""Holding guest threads at their hand-off: no guest code of the held processes runs until they are released.

A thread that runs guest code is kicked out, and its exit is kept unhandled; a thread that is in the kernel finishes what it is doing, if that can be
finished, and is not resumed. So nothing of a held process is half done, and going on is only a matter of handling what was kept, in order. Threads and
processes that are being made meanwhile end up in the same place, because every way to guest code leads through :meth:`Holds.keep_back`. A restricted process
that does not answer kicks (it may have blocked the signal, or its host thread hangs) is stopped by the host for the while.

The kernel itself goes on: it serves its channels and finishes what was begun. Source: Starnix's ``suspend_kernel``, with kicks for ``zx_task_suspend``.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from polynix.addrspace._restricted import BATCH_CAPACITY, HOSTILE, READY
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.addrspace._restricted import Slot, Stub
    from polynix.kernelproc.engine import Timer
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup

log = logging.getLogger(__name__)

KICK_AGAIN_NS = 2_000_000  # a kick may reach a thread before its handler is there
PATIENCE_NS = 1_000_000_000  # from then on the host stops who has not come out


class Hold:
    """One reason to hold: all processes, or those given and whatever they fork. Ends with :meth:`release`."""

    def __init__(self, holds: Holds, groups: Iterable[ThreadGroup] | None) -> None:
        self._holds = holds
        self._verdicts: dict[ThreadGroup, bool] | None = None
        if groups is not None:
            held = set(groups)
            self._verdicts = {group: group in held for group in holds.kernel.pids.thread_groups.values()}

    def covers(self, group: ThreadGroup) -> bool:
        """Whether ``group`` is held; one that is newer than the hold is treated as its parent."""
        verdicts = self._verdicts
        if verdicts is None:
            return True
        verdict = verdicts.get(group)
        if verdict is None:
            parent = group.parent
            verdict = verdicts[group] = parent is not None and self.covers(parent)
        return verdict

    async def complete(self) -> None:
        """Wait until no covered thread is in guest code. The caller must not be a covered guest's system call that is to return first."""
        holds = self._holds
        while self in holds.reasons and not holds.settled:
            await holds.changed.wait(interruptible=False)

    def release(self) -> None:
        """Let go on who is not held for another reason, in the order in which they were stopped. Releasing twice is no error."""
        self._holds.release(self)


class Holds:
    """All holds of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.reasons: list[Hold] = []
        self.changed = WaitQueue()  # a hold may be complete, or over
        self._handle_exit: Callable[[Slot], None] = kernel.engine.handle_exit  # what is done with exits that are not kept
        self._exits: dict[Slot, Task] = {}  # kept unhandled, oldest first
        self._kept: dict[Task, None] = {}  # not resumed, oldest first
        self._stopped: set[Stub] = set()  # by the host
        self.on_kept: Callable[[], None] = lambda: None  # a thread has something to do, and is kept from it
        self.settled = True  # nobody who is covered is in guest code, or can get there
        self._patience_ends_ns = 0
        self._looking = False  # a look is due in the next turn
        self._again: Timer | None = None

    # -- beginning and ending -------------------------------------------------------------------------------------------------------

    def hold(self, groups: Iterable[ThreadGroup] | None = None) -> Hold:
        """Begin to hold ``groups`` (None: all); ``await hold.complete()`` then waits for their threads to come out."""
        hold = Hold(self, groups)
        if not self.reasons:
            self._handle_exit = self.kernel.engine.handle_exit
            self.kernel.engine.handle_exit = self.handle_exit
            self.kernel.loop.keep_back = self.keep_back
        self.reasons.append(hold)
        self._unsettle()
        return hold

    def release(self, hold: Hold) -> None:
        if hold not in self.reasons:
            return
        self.reasons.remove(hold)
        loop, engine = self.kernel.loop, self.kernel.engine
        if not self.reasons:
            engine.handle_exit = self._handle_exit
            loop.keep_back = None
        for stub in [stub for stub in self._stopped if not self._covers_stub(stub)]:
            self._stopped.discard(stub)
            _signal_stub(stub, signal.SIGCONT)
        for task in [task for task in self._kept if not self.covers(task.group)]:
            del self._kept[task]
            if not task.exited and not task.stopped and task.slot is not None and task.slot.held:
                loop.return_to_user(task, None)  # what came meanwhile, it meets now
        for slot, task in [(slot, task) for slot, task in self._exits.items() if not self.covers(task.group)]:
            del self._exits[slot]
            if slot.task is task and slot.held:
                if task.group.exit_code is not None:
                    loop.return_to_user(task, None)  # killed meanwhile: its system call is not begun
                else:
                    self._handle_exit(slot)
        self.changed.notify()

    def covers(self, group: ThreadGroup) -> bool:
        """Whether ``group`` is held for any reason."""
        return any(hold.covers(group) for hold in self.reasons)

    def _covers_stub(self, stub: Stub) -> bool:
        return any(task.mm.stub is stub and self.covers(task.group) for task in self.kernel.pids.tasks.values() if task.slot is not None)

    # -- the two ways to guest code ---------------------------------------------------------------------------------------------------

    def handle_exit(self, slot: Slot) -> None:
        """In place of the loop's: keep exits of held threads unhandled. Fresh stubs report, and who is to die may."""
        task: Task | None = slot.task
        if task is None or slot.reason in (READY, HOSTILE) or task.group.exit_code is not None or task.exit_pending is not None or not self.covers(task.group):
            self._handle_exit(slot)
        else:
            self._exits[slot] = task
        if not self.settled:
            self._look_soon()

    def keep_back(self, task: Task) -> bool:
        """Asked by the loop before it resumes ``task``: True when it must wait."""
        if not self.covers(task.group):
            return False
        slot = task.slot
        assert slot is not None
        if slot.batch_room < BATCH_CAPACITY:  # among its host calls may be a clone, whose thread counts as running
            slot.resume(report_back=True)
            self._unsettle()
        else:
            self._kept[task] = None
            self.on_kept()
        return True

    @property
    def keeps_work(self) -> bool:
        """Whether somebody is held who would go on if he weren't."""
        return bool(self._kept or self._exits)

    # -- until all are out ------------------------------------------------------------------------------------------------------------

    def _unsettle(self) -> None:
        """Somebody may be in guest code: look, and kick who is."""
        self.settled = False
        self._patience_ends_ns = self.kernel.clock.monotonic_ns() + PATIENCE_NS
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._look_soon()

    def _look_soon(self) -> None:
        """In a turn of its own: exits of this one may have been collected already, and will be handled as ever."""
        if not self._looking:
            self._looking = True
            self.kernel.engine.call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        if self.settled:
            return
        out = [task for task in self._running() if self.covers(task.group)]
        if not out:
            self.settled = True
            if self._again is not None:
                self._again.cancel()
                self._again = None
            self.changed.notify()
        elif self._again is None:
            self._kick(out)

    def _kick(self, out: list[Task]) -> None:
        """Bring ``out`` out of guest code, again and again; the host stops who has not come in a while."""
        engine, clock = self.kernel.engine, self.kernel.clock
        if clock.monotonic_ns() < self._patience_ends_ns:
            for task in out:
                if task.slot is not None:
                    task.slot.kick()
        else:
            for stub in {task.mm.stub for task in out}:
                log.debug("restricted process %d does not come out: stopping it", stub.pid)
                if _is_stopped(stub):
                    self._stopped.add(stub)
                    self._look_soon()
                else:
                    _signal_stub(stub, signal.SIGSTOP)
        self._again = engine.call_later(KICK_AGAIN_NS, self._kick_again)

    def _kick_again(self) -> None:
        self._again = None
        self._look()

    def _running(self) -> Iterator[Task]:
        for task in self.kernel.pids.tasks.values():
            slot = task.slot
            if slot is not None and not slot.held and not task.exited and slot.stub not in self._stopped:
                yield task


def _is_stopped(stub: Stub) -> bool:
    try:
        return os.waitid(os.P_PIDFD, stub.pidfd, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False  # it died, which we will hear


def _signal_stub(stub: Stub, number: int) -> None:
    """Errors: none; a stub that is gone needs nothing."""
    try:
        signal.pidfd_send_signal(stub.pidfd, number)
    except OSError as error:
        log.debug("signal %d to restricted process %d: %s", number, stub.pid, error)
