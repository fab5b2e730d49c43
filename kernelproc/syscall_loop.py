"""The system call loop: why a guest thread left restricted mode, what the kernel does about it, and how it goes back.

Starnix's ``syscall_loop`` crate. Dispatch knows nothing of what calls mean: numbers lead to functions through ``syscalls.table``. On the way out, in this
order: a group exit in progress ends the task; signals, stops and restarts are looked at when ``task.attention`` says so; queued host calls go along with the
resume.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from polynix.addrspace._restricted import (
    BATCH,
    FOREIGN_SYSCALL,
    HOSTILE,
    KICK,
    READY,
    SIGNAL,
    SYSCALL,
    SYSCALL_SAMPLE,
    THREAD_STARTED,
    Slot,
    Stub,
)
from polynix.addrspace._usercopy import Fault
from polynix.addrspace.addresses import TASK_SIZE
from polynix.addrspace.memory_manager import MemoryManager
from polynix.kernelproc import track_stub as stubs
from polynix.kernelproc.engine import Killed, Routine
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.hot_text import consider_patching, leave_trampoline
from polynix.kernelproc.region_layout import TaskWord
from polynix.kernelproc.signals.delivery import prepare_return
from polynix.kernelproc.signals.send import force_signal
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.syscalls.table import MAX_SYSCALLS, entries, names
from polynix.kernelproc.syscalls.types import NO_RETURN
from polynix.kernelproc.task.exit import address_space_died, begin_group_exit, exit_task
from polynix.kernelproc.task.out_of_memory import wait_for_memory
from polynix.kernelproc.task.page_in import page_in
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.epoll import EPOLLIN
from polynix.kernelproc.uapi.errno import EFAULT, EINVAL, EIO, ENOSYS
from polynix.kernelproc.uapi.mman import PROT_EXEC, PROT_READ, PROT_WRITE
from polynix.kernelproc.uapi.signal import BUS_ADRERR, SEGV_ACCERR, SEGV_MAPERR, SI_KERNEL, SIGBUS, SIGKILL, SIGSEGV, SIGSYS
from polynix.kernelproc.uapi.unistd import (
    NR_pread64,
    NR_preadv,
    NR_preadv2,
    NR_pwrite64,
    NR_pwritev,
    NR_pwritev2,
    NR_read,
    NR_readv,
    NR_write,
    NR_writev,
)
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

log = logging.getLogger(__name__)

SYSCALL_COUNT, FAULT_COUNT = int(TaskWord.SYSCALLS), int(TaskWord.FAULTS)
TRAP_PAGE_FAULT = 14
FAULT_WRITE, FAULT_EXEC = 2, 16
ENDLESS_FAULTS = 64  # the same fault this often in a row is no longer taken for a race


IO_WORDS = {
    **dict.fromkeys((NR_read, NR_pread64, NR_readv, NR_preadv, NR_preadv2), (int(TaskWord.RCHAR), int(TaskWord.SYSCR))),
    **dict.fromkeys((NR_write, NR_pwrite64, NR_writev, NR_pwritev, NR_pwritev2), (int(TaskWord.WCHAR), int(TaskWord.SYSCW))),
}


def count_io(task: Task, number: int, count: int) -> None:
    """Account a transfer for /proc/PID/io."""
    amount, calls = IO_WORDS[number]
    task.counters[amount] += count
    task.counters[calls] += 1


class RestrictedModeUnavailable(Exception):
    """The host does not let stubs start; the text is one line."""

    expected = True


class SyscallLoop:
    """Handles every exit of every guest thread of one kernel. ``current`` is the task whose exit is being handled."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.engine = kernel.engine
        self.current: Task | None = None
        self.observers = kernel.syscall_observers
        self.engine.handle_exit = self.handle_exit
        kernel.stubs.on_spawn = self.watch_stub
        self._tokens: dict[Stub, int] = {}
        self.stub_ready = WaitQueue()  # notified when any fresh stub reports READY
        self.keep_back: Callable[[Task], bool] | None = None  # asked before a task is resumed: True to hold it (power.hold)
        self._last_fault: tuple[int, int, int] = (0, 0, 0)  # tid, address, repetitions
        kernel.loop = stubs.loop = self

    # -- exits ------------------------------------------------------------------------------------------------------------------------------

    def handle_exit(self, slot: Slot) -> None:
        """One guest thread left restricted mode. What goes wrong with it is its own end, not the kernel's."""
        task: Task | None = slot.task
        try:
            if slot.reason == SYSCALL and task is not None:
                self.current = task
                self.dispatch(task, slot)
            else:
                self._handle_other_exit(slot, task)
        except Exception as error:
            log.error("exit of %r failed inside the kernel", task, exc_info=error)
            slot.stub.kill()
        self.current = None

    def _handle_other_exit(self, slot: Slot, task: Task | None) -> None:
        reason = slot.reason
        if task is None:
            if reason == READY:
                self._stub_ready(slot, None)
            return
        self.current = task
        if reason == SIGNAL:
            self.handle_exception(task, slot)
        elif reason == KICK:
            task.kicked = False
            if task.mm.trampolines:
                leave_trampoline(task, slot)
            self.return_to_user(task, None)
        elif reason == SYSCALL_SAMPLE:
            consider_patching(task, slot)
            self.dispatch(task, slot)
        elif reason == FOREIGN_SYSCALL:
            track_stub("32-bit system call entry", slot.syscall()[0])
            self.return_to_user(task, -ENOSYS)
        elif reason == BATCH:
            self._batch_done(task, slot)
        elif reason == READY:
            self._stub_ready(slot, task)
        elif reason == THREAD_STARTED:
            self.return_to_user(task, None)
        else:
            if reason != HOSTILE:
                log.warning("unknown exit reason %d of %r", reason, task)
            begin_group_exit(task.group, SIGKILL)
            self.return_to_user(task, None)

    def dispatch(self, task: Task, slot: Slot) -> None:
        """Read the call's registers, run its function, and go back or block."""
        number, a0, a1, a2, a3, a4, a5 = call = slot.syscall()
        task.current_syscall = call
        task.in_syscall = True
        counters = task.counters
        counters[SYSCALL_COUNT] += 1
        entry = entries[number] if number < MAX_SYSCALLS else None
        if entry is None or self.observers or task.seccomp is not None:
            self._dispatch_observed(task, slot, entry, call)
            return
        try:
            result = entry(task, a0, a1, a2, a3, a4, a5)
        except Errno as error:
            result = -error.errno
        except Fault:
            result = -EFAULT
        except Exception as error:
            result = self._internal_error(task, call, error)
        if type(result) is int:
            if result > 0 and number in IO_WORDS:
                amount, calls = IO_WORDS[number]  # as count_io, which would be a tenth of a short read
                counters[amount] += result
                counters[calls] += 1
            if task.attention or task.mm.calls:
                self.return_to_user(task, result)
            else:
                task.in_syscall = False
                slot.resume_syscall(result)
        elif result is None:
            self.return_to_user(task, None)
        elif result is not NO_RETURN:
            routine = task.routine = Routine.of(result, names[number], task, self._call_done)
            engine = self.engine
            routine.begin(engine)
            if task.routine is routine and not engine.spin.hot and task.slot is slot:
                slot.calm_down()

    def _dispatch_observed(self, task: Task, slot: Slot, entry: Any, call: tuple[int, ...]) -> None:
        """The slow way: unknown calls, the guest's own seccomp, observers (strace, counters)."""
        if task.seccomp is not None:
            from polynix.kernelproc import seccomp

            verdict = seccomp.decide(task, slot, call)
            if verdict is not None:
                self._finish(task, call, verdict)
                return
        for observer in list(self.observers):
            observer.enter(task, call[0], call[1:])
        if entry is None:
            track_stub(f"system call {names.get(call[0], call[0])}")
            self._finish(task, call, -ENOSYS)
            return
        try:
            result = entry(task, *call[1:])
        except Errno as error:
            result = -error.errno
        except Fault:
            result = -EFAULT
        except Exception as error:
            result = self._internal_error(task, call, error)
        if result is None or result is NO_RETURN or type(result) is int:
            self._finish(task, call, result)
        else:

            def done(routine: Routine, value: Any, error: BaseException | None) -> None:
                if not isinstance(error, Killed):
                    outcome = value if error is None else -error.errno if isinstance(error, Errno) else -EFAULT
                    self._tell_left(task, call, outcome)
                self._call_done(routine, value, error)

            routine = task.routine = Routine.of(result, names.get(call[0], "?"), task, done)
            self.engine.start(routine)
            if task.routine is routine and routine.parked:
                for observer in list(self.observers):
                    observer.blocked(task, call[0], call[1:])

    def _tell_left(self, task: Task, call: tuple[int, ...], result: Any) -> None:
        for observer in list(self.observers):
            observer.leave(task, call[0], call[1:], result if type(result) is int else None)

    def _finish(self, task: Task, call: tuple[int, ...], result: Any) -> None:
        self._tell_left(task, call, result)
        if result is not NO_RETURN:
            self.return_to_user(task, result)

    def _call_done(self, routine: Routine, value: Any, error: BaseException | None) -> None:
        """A call that had blocked has its result."""
        task: Task = routine.owner
        task.routine = None
        try:
            if type(value) is int:
                number = task.current_syscall[0]
                if value > 0 and number in IO_WORDS:
                    count_io(task, number, value)
                slot = task.slot
                if slot is not None and not task.attention and not task.mm.calls and self.keep_back is None:
                    task.in_syscall = False
                    slot.resume_syscall(value)
                    return
            previous, self.current = self.current, task
            if error is not None:
                if isinstance(error, Errno):
                    value = -error.errno
                elif isinstance(error, Fault):
                    value = -EFAULT
                elif isinstance(error, Killed):
                    value = None
                else:
                    value = self._internal_error(task, task.current_syscall, error)
            if value is not NO_RETURN:
                self.return_to_user(task, value)
            self.current = previous
        except Exception as failure:  # it must not be left between two worlds
            log.error("return of %r failed inside the kernel", task, exc_info=failure)
            self.current = None
            task.mm.stub.kill()

    def _internal_error(self, task: Task, call: tuple[int, ...], error: BaseException) -> int:
        """A host error passes on its errno; anything else is our defect: logged, EIO for the guest, and the kernel lives on."""
        if isinstance(error, OSError) and error.errno:
            return -error.errno
        log.error("system call %s of %r failed inside the kernel", names.get(call[0], call[0]), task, exc_info=error)
        return -EIO

    # -- the way back -----------------------------------------------------------------------------------------------------------------------

    def return_to_user(self, task: Task, result: int | None) -> None:
        """Let ``task`` go on with the call's ``result`` (None: the registers are complete), unless it must exit or stop."""
        if task.exited:
            return
        if task.group.exit_code is not None:
            exit_task(task, task.group.exit_code)
            return
        if task.exit_pending is not None:
            exit_task(task, task.exit_pending)
            return
        if not task.mm.ready and task.slot is not None:
            return  # a fresh stub: the task starts when it reports READY, and looks at signals then
        if task.attention:
            try:
                if not prepare_return(task, result):
                    if task.group.exit_code is not None and not task.exited:
                        exit_task(task, task.group.exit_code)
                    return
            except Exception as error:
                log.error("signal delivery to %r failed inside the kernel", task, exc_info=error)
                begin_group_exit(task.group, SIGKILL)
                if not task.exited:
                    exit_task(task, SIGKILL)
                return
        elif result is not None:
            assert task.slot is not None
            task.slot.ax = result & 0xFFFFFFFFFFFFFFFF
        task.in_syscall = False
        self.resume(task)

    def start(self, task: Task) -> None:
        """Let a new task run; its slot has its registers."""
        self.return_to_user(task, None)

    def resume(self, task: Task) -> None:
        """Continue the guest thread, after the host calls that its address space has queued."""
        slot = task.slot
        mm = task.mm
        if slot is None or (self.keep_back is not None and self.keep_back(task)):
            return
        calls = mm.calls
        if calls:
            try:
                slot.resume(report_back=not calls.push(slot))
            except OSError as error:  # the stub is gone, or does not take descriptors: stub_died will follow
                log.debug("cannot hand host calls to restricted process %d: %s", mm.stub.pid, error)
                mm.stub.kill()
        else:
            slot.resume()

    def _batch_done(self, task: Task, slot: Slot) -> None:
        """A batch came back: it failed, or there is more of it."""
        for result in slot.batch_results():
            if result < 0:
                log.debug("host call failed in %r: %s", task, slot.batch_results())
                self._host_call_failed(task, -result)
                return
        if task.group.exit_code is not None or task.exit_pending is not None:
            self.return_to_user(task, None)
        else:
            self.resume(task)

    def _host_call_failed(self, task: Task, error: int) -> None:
        """The stub's maps no longer agree with the VMAs: as with a failing exec past its point of no return, the process can only die."""
        track_stub("host call failed in a stub", error)
        begin_group_exit(task.group, SIGKILL)
        self.return_to_user(task, None)

    # -- exceptions -------------------------------------------------------------------------------------------------------------------------

    def handle_exception(self, task: Task, slot: Slot) -> None:
        """A synchronous fault of the guest: mend it (stack growth, pages on demand) or turn it into its signal."""
        signo, code, address, trap, error = slot.fault()
        if task.mm.trampolines:
            leave_trampoline(task, slot)
        if signo == SIGSEGV and trap == TRAP_PAGE_FAULT:
            if self.handle_page_fault(task, address, error):
                if task.mm.absent_at(address) is None:
                    self.return_to_user(task, None)
                else:
                    routine = task.routine = Routine(page_in(task, address), "page-in", task, self._call_done)
                    self.engine.start(routine)
                return
            vma = task.mm.find(address)
            code = SEGV_ACCERR if vma is not None else SEGV_MAPERR
        elif signo == SIGBUS and trap in (0, TRAP_PAGE_FAULT):
            vma = task.mm.find(address)
            if vma is not None and vma.in_region():
                routine = task.routine = Routine(wait_for_memory(task), "out of memory", task, self._call_done)
                self.engine.start(routine)
                return
            code = BUS_ADRERR
        elif signo == SIGSYS:
            code = SI_KERNEL
        elif signo == SIGSEGV:
            code, address = SI_KERNEL, 0
        force_signal(task, SigInfo(signo, code, addr=address))
        self.return_to_user(task, None)

    def handle_page_fault(self, task: Task, address: int, error: int) -> bool:
        """True when the access may be tried again."""
        mm = task.mm
        task.counters[FAULT_COUNT] += 1
        vma = mm.find(address)
        if vma is None:
            return mm.grow_stack(address)
        wanted = PROT_WRITE if error & FAULT_WRITE else PROT_EXEC if error & FAULT_EXEC else PROT_READ
        granted = vma.prot | (PROT_READ if vma.prot & (PROT_WRITE | PROT_EXEC) else 0)
        if not granted & wanted or address >= TASK_SIZE:
            return False
        tid, last, count = self._last_fault
        count = count + 1 if (tid, last) == (task.tid, address) else 0
        self._last_fault = (task.tid, address, count)
        if count > ENDLESS_FAULTS:
            return False
        mm.map_again(vma, address)
        return True

    # -- stubs ------------------------------------------------------------------------------------------------------------------------------

    def watch_stub(self, stub: Stub) -> None:
        """Hear of the stub's death."""
        self._tokens[stub] = self.engine.watch(stub.pidfd, EPOLLIN, lambda _events: self.stub_died(stub))

    def _stub_ready(self, slot: Slot, task: Task | None) -> None:
        mm: MemoryManager = slot.stub.tag
        mm.ready = True
        if mm.first_frame is not None:
            slot.init_frame(*mm.first_frame)
            mm.first_frame = None
        self.stub_ready.notify()
        if task is not None:
            self.return_to_user(task, None)

    def stub_died(self, stub: Stub) -> None:
        """A restricted process ended: expected after an exit, SIGKILL for its guests otherwise."""
        token = self._tokens.pop(stub, None)
        if token is None:
            return
        self.engine.unwatch(stub.pidfd, token)
        mm: MemoryManager = stub.tag
        status = stub.reap()
        if not mm.dead:
            log.debug("restricted process %d died with status %s", stub.pid, status)
            failure = None if mm.ready else stub.start_error()
            if failure is not None:
                self.engine.fail(RestrictedModeUnavailable(f"cannot start restricted processes: {failure[0]}: {os.strerror(failure[1] or EINVAL)}"))
            self.kernel.stubs.discard(mm)
            address_space_died(self.kernel, mm)
        stub.close()
        if not mm.ready:
            self.stub_ready.notify()  # nobody need wait for it any longer
