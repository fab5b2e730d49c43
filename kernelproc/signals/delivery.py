"""What happens on a task's way back to guest code: handlers, default actions, stops, and the fate of an interrupted system call.

Linux's ``get_signal`` and ``arch_do_signal_or_restart``. The restart codes, from ``errno`` beyond what programs see:

========================  ==========================================  ===================
result                    a handler runs                              none runs
========================  ==========================================  ===================
ERESTARTSYS               restart with SA_RESTART, else EINTR         restart
ERESTARTNOINTR            restart                                     restart
ERESTARTNOHAND            EINTR                                       restart
ERESTART_RESTARTBLOCK     EINTR                                       restart_syscall(2), which awaits ``task.restart``
========================  ==========================================  ===================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.errno import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, ERESTARTNOINTR, ERESTARTSYS
from polynix.kernelproc.signals.frame import ADDRESS_MASK, pop_frame, push_frame
from polynix.kernelproc.signals.job_control import begin_group_stop, hold_task
from polynix.kernelproc.signals.send import dequeue_signal, force_signal
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.signals.signal_state import IGNORED_BY_DEFAULT, STOP_SIGNALS, SignalAction, bit
from polynix.kernelproc.signals.wake import set_mask
from polynix.kernelproc.task.exit import begin_group_exit
from polynix.kernelproc.uapi.errno import EINTR
from polynix.kernelproc.uapi.signal import SA_NODEFER, SA_RESETHAND, SA_RESTART, SI_KERNEL, SI_USER, SIG_DFL, SIG_IGN, SIGSEGV, SIGSTOP
from polynix.kernelproc.uapi.unistd import SYSCALLS

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

NR_RESTART_SYSCALL = SYSCALLS["restart_syscall"]
SYSCALL_LENGTH = 2  # bytes of the instruction that a restart goes back over

_AGAIN = (-ERESTARTSYS, -ERESTARTNOINTR, -ERESTARTNOHAND)
_INTERRUPTED = (*_AGAIN, -ERESTART_RESTARTBLOCK, -EINTR)


def prepare_return(task: Task, result: int | None) -> bool:
    """Settle everything that waits for ``task``; ``result`` is its system call's return value, or None when its registers are
    complete.

    True: the registers are ready, resume it. False: it must not run; it is held by a stop (and comes back through
    ``loop.return_to_user``), or its group ends.
    """
    state, group = task.signals, task.group
    task.attention = False  # whatever comes from here on sets it again
    task.kicked = False  # a kick that is still on its way does no harm; one that went to a lost host thread must not count
    if state.saved_mask is not None and result not in _INTERRUPTED:
        mask, state.saved_mask = state.saved_mask, None
        set_mask(task, mask)
        task.attention = False  # looked at below
    while True:
        if group.exit_code is not None or task.exited:
            return False
        if state.stop_pending:
            task.attention = True
            hold_task(task, result)
            return False
        mask = ~state.mask
        info = dequeue_signal(task, mask) if (state.pending.mask | group.signals.pending.mask) & mask else None
        if info is None:
            if result is not None:
                _finish_call(task, result)
                result = None
            if state.saved_mask is None:
                return True
            mask, state.saved_mask = state.saved_mask, None
            set_mask(task, mask)
            task.attention = False
            continue
        action = state.actions.get(info.signo)
        if action.handler == SIG_IGN:
            continue
        for observer in task.kernel.observers:
            observer.signal(task, info)
        if action.handler == SIG_DFL:
            _default_action(task, info)
            continue
        if result is not None:
            _interrupt_call(task, result, action)
            result = None
        _run_handler(task, info, action)


def _default_action(task: Task, info: SigInfo) -> None:
    signo, group = info.signo, task.group
    if bit(signo) & IGNORED_BY_DEFAULT:
        return
    if group.signals.unkillable and info.code <= SI_USER:
        return
    if bit(signo) & STOP_SIGNALS:
        if signo == SIGSTOP or not group.process_group.is_orphaned():
            begin_group_stop(group, signo, task)
        return
    begin_group_exit(group, signo)


def _run_handler(task: Task, info: SigInfo, action: SignalAction) -> None:
    state, signo = task.signals, info.signo
    if action.flags & SA_RESETHAND:
        state.actions.set(signo, action._replace(handler=SIG_DFL))
    if not push_frame(task, info, action, state.mask if state.saved_mask is None else state.saved_mask):
        if signo == SIGSEGV:
            begin_group_exit(task.group, SIGSEGV)
        else:
            force_signal(task, SigInfo(SIGSEGV, SI_KERNEL))
        return
    state.saved_mask = None
    mask = state.mask | action.mask
    set_mask(task, mask if action.flags & SA_NODEFER else mask | bit(signo))


def _interrupt_call(task: Task, result: int, action: SignalAction) -> None:
    """A handler is about to run: what the interrupted call returns after it."""
    if result == -ERESTARTNOINTR or (result == -ERESTARTSYS and action.flags & SA_RESTART):
        _rewind(task, task.current_syscall[0])
        return
    if result == -ERESTART_RESTARTBLOCK:
        task.restart = None
    _store(task, -EINTR if result in _INTERRUPTED else result)


def _finish_call(task: Task, result: int) -> None:
    """No handler runs: store the result, or have the call done again."""
    if result in _AGAIN:
        _rewind(task, task.current_syscall[0])
    elif result == -ERESTART_RESTARTBLOCK:
        _rewind(task, NR_RESTART_SYSCALL)
    else:
        _store(task, result)


def _store(task: Task, result: int) -> None:
    assert task.slot is not None
    task.slot.ax = result & ADDRESS_MASK


def _rewind(task: Task, number: int) -> None:
    """Back to the syscall instruction, with ``number`` where it looks for it."""
    slot = task.slot
    assert slot is not None
    task.rewound = slot.ip, slot.sp
    slot.ax = number
    slot.ip = (slot.ip - SYSCALL_LENGTH) & ADDRESS_MASK


def return_from_handler(task: Task) -> None:
    """rt_sigreturn: the state before the handler comes back; a frame that can't be read or restored is a SIGSEGV."""
    mask = pop_frame(task)
    if mask is None:
        force_signal(task, SigInfo(SIGSEGV, SI_KERNEL))
        return
    set_mask(task, mask)
