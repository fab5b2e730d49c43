"""Pending sets, receivers, limits and permissions of signals, timers, and the frame on a real slot; without guests."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from event_world import settle
from hypothesis import given, settings
from hypothesis import strategies as st
from polynix.addrspace import _restricted as restricted
from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.signals import send
from polynix.kernelproc.signals.frame import FRAME_SIZE, pop_frame, push_frame
from polynix.kernelproc.signals.permission import check_kill_permission
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.signals.signal_state import (
    ALL_SIGNALS,
    SYNCHRONOUS,
    PendingSignals,
    SignalAction,
    SignalActions,
    bit,
)
from polynix.kernelproc.signals.wake import set_mask
from polynix.kernelproc.syscalls import job, signal, time  # noqa: F401
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.task.task import Task
from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.errno import EAGAIN, EINTR, EPERM
from polynix.kernelproc.uapi.resource import RLIMIT_SIGPENDING
from polynix.kernelproc.uapi.signal import (
    CLD_EXITED,
    SA_ONSTACK,
    SA_RESTORER,
    SA_SIGINFO,
    SEGV_MAPERR,
    SI_QUEUE,
    SI_TIMER,
    SI_TKILL,
    SI_USER,
    SIG_IGN,
    SIGALRM,
    SIGCHLD,
    SIGCONT,
    SIGHUP,
    SIGRTMIN,
    SIGSEGV,
    SIGTERM,
    SIGTSTP,
    SIGUSR1,
    SIGUSR2,
)
from restricted_guests import Machine
from task_world import BASE, SIZE, TaskWorld

SECOND = 1_000_000_000
TIMEOUT = struct.Struct("<qq")


@pytest.fixture
def world() -> TaskWorld:
    world = TaskWorld()
    world.kernel.loop = SimpleNamespace(current=None)  # type: ignore[assignment]
    return world


# -- siginfo ------------------------------------------------------------------------------------------------------------------


def test_siginfo_layouts() -> None:
    kill = structs.siginfo_kill.unpack(SigInfo(SIGUSR1, SI_USER, pid=7, uid=8).pack())
    assert (kill.si_signo, kill.si_code, kill.si_pid, kill.si_uid) == (SIGUSR1, SI_USER, 7, 8)
    child = structs.siginfo_sigchld.unpack(SigInfo(SIGCHLD, CLD_EXITED, pid=7, uid=8, status=3, utime=4, stime=5).pack())
    assert (child.si_pid, child.si_status, child.si_utime, child.si_stime) == (7, 3, 4, 5)
    fault = structs.siginfo_fault.unpack(SigInfo.fault(SIGSEGV, SEGV_MAPERR, 0xFFFF_8000_0000_0000).pack())
    assert fault.si_addr == 0xFFFF_8000_0000_0000
    timer = structs.siginfo_timer.unpack(SigInfo(SIGALRM, SI_TIMER, timer_id=1, overrun=2, value=1 << 63).pack())
    assert (timer.si_timerid, timer.si_overrun, timer.si_value) == (1, 2, 1 << 63)
    assert all(len(SigInfo(SIGUSR1, code).pack()) == 128 for code in (-60, -6, -5, -2, -1, 0, 1, 6, 7, 128))


@given(st.binary(min_size=128, max_size=128), st.integers(1, 64))
def test_a_guests_own_siginfo_is_kept(raw: bytes, signo: int) -> None:
    packed = SigInfo.from_bytes(signo, raw).pack()
    assert packed[4:] == raw[4:] and packed[:4] == signo.to_bytes(4, "little")


# -- pending sets -------------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["add", "take", "flush"]), st.integers(1, 64), st.integers(0, ALL_SIGNALS))))
def test_pending_set_against_a_model(steps: list[tuple[str, int, int]]) -> None:
    pending = PendingSignals()
    model: list[SigInfo] = []
    for operation, signo, mask in steps:
        if operation == "add":
            info = SigInfo(signo)
            if signo >= SIGRTMIN or not any(other.signo == signo for other in model):
                pending.add(info)
                model.append(info)
        elif operation == "flush":
            dropped = pending.flush(mask)
            assert dropped == [info for info in model if bit(info.signo) & mask]
            model = [info for info in model if not bit(info.signo) & mask]
        else:
            ready = [info for info in model if not bit(info.signo) & mask]
            first = [info for info in ready if bit(info.signo) & SYNCHRONOUS] or ready
            expected = min(first, key=lambda info: info.signo, default=None)
            chosen = pending.next_signal(mask)
            assert chosen == (expected.signo if expected else 0)
            if expected is not None:
                assert pending.take(chosen) is expected
                model.remove(expected)
        union = 0
        for info in model:
            union |= bit(info.signo)
        assert pending.mask == union and pending.queue == model


def test_actions_after_exec() -> None:
    actions = SignalActions()
    actions.set(SIGUSR1, SignalAction(0x1234, SA_SIGINFO, 0x10, 5))
    actions.set(SIGUSR2, SignalAction(SIG_IGN, SA_SIGINFO))
    copy = actions.fork()
    assert copy.masks() == (bit(SIGUSR2), bit(SIGUSR1))
    copy.reset_for_exec()
    assert copy.get(SIGUSR1) == SignalAction() and copy.get(SIGUSR2) == SignalAction(SIG_IGN)
    assert actions.get(SIGUSR1).handler == 0x1234
    assert actions.is_ignored(SIGUSR2) and actions.is_ignored(SIGCHLD) and not actions.is_ignored(SIGUSR1)


# -- sending ------------------------------------------------------------------------------------------------------------------


def test_standard_signals_coalesce_and_realtime_ones_queue(world: TaskWorld) -> None:
    task = world.task
    for _ in range(3):
        assert send.send_to_group(task.group, SigInfo(SIGUSR1)) == send.QUEUED
        assert send.send_to_group(task.group, SigInfo(SIGRTMIN + 5, SI_QUEUE)) == send.QUEUED
    assert len(task.group.signals.pending.queue) == 4
    assert send.send_to_task(task, SigInfo(SIGUSR1, SI_TKILL)) == send.QUEUED
    first, second = send.dequeue_signal(task, bit(SIGUSR1)), send.dequeue_signal(task, bit(SIGUSR1))
    assert first is not None and first.code == SI_TKILL and second is not None and second.code != SI_TKILL
    assert send.dequeue_signal(task, bit(SIGUSR1)) is None


def test_ignored_signals_vanish_unless_blocked(world: TaskWorld) -> None:
    task = world.task
    set_mask(task, 0)
    assert send.send_to_group(task.group, SigInfo(SIGCHLD)) == send.IGNORED
    set_mask(task, ALL_SIGNALS)
    assert send.send_to_group(task.group, SigInfo(SIGCHLD)) == send.QUEUED
    send.set_action(task, SIGCHLD, SignalAction(SIG_IGN))
    assert not task.group.signals.pending.mask


def test_stop_and_continue_cancel_each_other(world: TaskWorld) -> None:
    task = world.task
    send.send_to_group(task.group, SigInfo(SIGTSTP))
    send.send_to_task(task, SigInfo(SIGTSTP))
    send.send_to_group(task.group, SigInfo(SIGCONT))
    assert task.group.signals.pending.mask == bit(SIGCONT) and not task.signals.pending.mask
    send.send_to_task(task, SigInfo(SIGTSTP))
    assert not task.group.signals.pending.mask and task.signals.pending.mask == bit(SIGTSTP)


def test_the_queue_limit_is_per_user_and_given_back(world: TaskWorld) -> None:
    task = world.task
    task.credentials = Credentials.user(4711, 4711)
    task.group.limits.set(RLIMIT_SIGPENDING, 2, 2)
    signo = SIGRTMIN + 1
    assert [send.send_to_task(task, SigInfo(signo, SI_QUEUE)) for _ in range(3)] == [send.QUEUED, send.QUEUED, send.OVERFLOW]
    assert send.send_to_task(task, SigInfo(signo + 1, SI_USER)) == send.QUEUED  # pending, its siginfo lost
    assert send.send_to_task(task, SigInfo(SIGUSR1, SI_USER)) == send.QUEUED
    assert send.pending_count(world.kernel, 4711) == 3
    lost = send.dequeue_signal(task, bit(signo + 1))
    assert lost is not None and lost.signo == signo + 1 and lost.pid == 0
    send.flush_task(task)
    assert send.pending_count(world.kernel, 4711) == 0


def test_a_thread_that_lets_the_signal_through_is_woken(world: TaskWorld) -> None:
    leader = world.task
    threads = [world.thread(leader) for _ in range(3)]
    for task in (leader, *threads):
        task.signals.actions = leader.signals.actions
        task.in_syscall = True
    leader.signals.actions.set(SIGUSR1, SignalAction(0x1000))
    set_mask(threads[1], 0)
    send.send_to_group(leader.group, SigInfo(SIGUSR1))
    assert [task.attention for task in (leader, *threads)] == [False, False, True, False]
    # it blocks the signal before it takes it: another one that would is told
    set_mask(threads[2], 0)
    threads[2].attention = False
    set_mask(threads[1], ALL_SIGNALS)
    assert threads[2].attention


def test_signals_spread_over_idle_threads(world: TaskWorld) -> None:
    leader = world.task
    threads = [world.thread(leader) for _ in range(3)]
    for task in threads:
        task.signals.actions = leader.signals.actions
        task.in_syscall = True
        set_mask(task, 0)
    woken = []
    for signo in (SIGUSR1, SIGUSR2, SIGHUP):
        leader.signals.actions.set(signo, SignalAction(0x1000))
        send.send_to_group(leader.group, SigInfo(signo))
        woken.append([task.attention for task in threads])
    assert woken == [[True, False, False], [True, True, False], [True, True, True]]


USER = Credentials.user


@pytest.mark.parametrize(
    ("sender", "target", "allowed"),
    [
        (USER(1, 1), USER(1, 1), True),
        (USER(1, 1), USER(2, 2), False),
        (USER(1, 1).replace(euid=2), USER(2, 2), True),
        (USER(2, 2).replace(euid=1), USER(2, 2), True),
        (USER(1, 1), USER(2, 2).replace(suid=1), True),
        (USER(1, 1), USER(2, 2).replace(euid=1), False),
        (Credentials.root(), USER(2, 2), True),
        (USER(1, 1), Credentials.root(), False),
    ],
)
def test_kill_permission(world: TaskWorld, sender: Credentials, target: Credentials, allowed: bool) -> None:
    other = world.process()
    world.task.credentials, other.credentials = sender, target
    if allowed:
        check_kill_permission(world.task, other, SIGTERM)
    else:
        with pytest.raises(Errno) as caught:
            check_kill_permission(world.task, other, SIGTERM)
        assert caught.value.errno == EPERM
    check_kill_permission(world.task, other, SIGCONT)  # one session


# -- waiting ------------------------------------------------------------------------------------------------------------------


def test_sigtimedwait_is_woken_and_interrupted(world: TaskWorld) -> None:
    task = world.task
    task.signals.actions.set(SIGUSR2, SignalAction(0x1000))
    set_mask(task, ALL_SIGNALS & ~bit(SIGUSR2))
    wanted = world.put(bit(SIGUSR1).to_bytes(8, "little"))
    info = world.put(bytes(128))
    before = task.signals.mask
    waiting = world.start("rt_sigtimedwait", wanted, info, 0, 8)
    send.send_to_group(task.group, SigInfo(SIGUSR1, SI_USER, pid=5))
    assert world.finish(waiting) == SIGUSR1
    assert structs.siginfo_kill.unpack(world.get(info, 128)).si_pid == 5
    assert task.signals.mask == before and not task.signals.real_blocked
    task.routine = None
    waiting = world.start("rt_sigtimedwait", wanted, 0, 0, 8)
    send.send_to_group(task.group, SigInfo(SIGUSR2, SI_USER))
    assert world.finish(waiting) == -EINTR
    assert send.dequeue_signal(task, bit(SIGUSR2)) is not None
    task.routine = None
    assert world.call("rt_sigtimedwait", wanted, 0, world.put(TIMEOUT.pack(0, 1_000_000)), 8) == -EAGAIN


def test_a_signal_wakes_the_signalfd_queues(world: TaskWorld) -> None:
    from polynix.kernelproc.wait_queue import WaitEntry

    heard: list[str] = []
    entries = [WaitEntry(lambda _events, name=name: heard.append(name) or True) for name in ("task", "group")]  # type: ignore[misc,func-returns-value]
    world.task.signals.wait_queue.add(entries[0])
    world.task.group.signals.wait_queue.add(entries[1])
    send.send_to_group(world.task.group, SigInfo(SIGUSR1))
    assert heard == ["group"]
    send.send_to_task(world.task, SigInfo(SIGUSR2))
    assert heard == ["group", "task", "group"]


# -- timers -------------------------------------------------------------------------------------------------------------------


def itimerspec(interval_ns: int, value_ns: int) -> bytes:
    return TIMEOUT.pack(*divmod(interval_ns, SECOND)) + TIMEOUT.pack(*divmod(value_ns, SECOND))


def wait_for(world: TaskWorld, task: Task, signo: int) -> SigInfo:
    deadline = world.kernel.clock.monotonic_ns() + 5 * SECOND
    while world.kernel.clock.monotonic_ns() < deadline:
        settle(world.kernel)
        info = send.dequeue_signal(task, bit(signo))
        if info is not None:
            return info
    raise AssertionError("the timer did not expire")


def test_a_periodic_timer_waits_for_its_signal_to_be_taken(world: TaskWorld) -> None:
    event = world.put(structs.sigevent.pack(sigev_signo=SIGUSR1, sigev_value=99))
    address = world.put(bytes(4))
    assert world.call("timer_create", 1, event, address) == 0
    timer_id = world.word(address)
    assert world.call("timer_settime", timer_id, 0, world.put(itimerspec(1_000_000, 1_000_000)), 0) == 0
    first = wait_for(world, world.task, SIGUSR1)
    assert (first.code, first.value, first.timer_id) == (SI_TIMER, 99, timer_id)
    start = world.kernel.clock.monotonic_ns()
    timer = world.task.group.signals.posix_timers
    assert timer is not None
    while not timer.get(timer_id).queued:
        settle(world.kernel)
    while world.kernel.clock.monotonic_ns() - start < 20_000_000:
        settle(world.kernel)
    assert len(world.task.group.signals.pending.queue) == 1  # not one a millisecond
    second = wait_for(world, world.task, SIGUSR1)
    assert second.overrun >= 15
    assert world.call("timer_getoverrun", timer_id) == second.overrun
    assert world.call("timer_delete", timer_id) == 0
    assert not timer.timers


def test_alarm_rounds_as_linux_does(world: TaskWorld) -> None:
    assert world.call("alarm", 10) == 0
    assert world.call("alarm", 0) == 10
    assert world.call("alarm", 0) == 0


# -- frames -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture(scope="module")
def slot(machine: Machine) -> restricted.Slot:
    """A slot that has left guest code at a system call, so that its frame is the host's."""
    guest = machine.guest("vpcmpeqd xmm1, xmm1, xmm1\nsyscall")
    guest.next_syscall()
    return guest.slot


HANDLER = SignalAction(0x123456, SA_RESTORER | SA_SIGINFO, 0x654321, 0)


def with_slot(world: TaskWorld, slot: restricted.Slot) -> Task:
    task = world.task
    task.slot = slot
    slot.sp = BASE + SIZE - 0x1000
    return task


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.integers(0, (1 << 64) - 1), min_size=17, max_size=17), room=st.integers(FRAME_SIZE + 8192, SIZE), mask=st.integers(0, ALL_SIGNALS))
def test_a_frame_comes_back_as_it_went(slot: restricted.Slot, values: list[int], room: int, mask: int) -> None:
    world = TaskWorld()
    task = with_slot(world, slot)
    registers = [*values, *slot.registers()[17:]]
    registers[restricted.REG_RSP] = sp = BASE + room
    registers[restricted.REG_EFL] = 0x246 | 0x400
    slot.set_registers(registers)
    before, state = slot.registers(), slot.xstate()
    assert push_frame(task, SigInfo(SIGUSR1, SI_USER, pid=3), HANDLER, mask)
    inside = slot.registers()
    frame = inside[restricted.REG_RSP]
    assert frame % 16 == 8 and frame + FRAME_SIZE <= sp - 128
    assert inside[restricted.REG_RIP] == HANDLER.handler and inside[restricted.REG_RDI] == SIGUSR1
    assert not inside[restricted.REG_EFL] & 0x400
    assert struct.unpack("<Q", world.get(frame, 8))[0] == HANDLER.restorer
    assert structs.siginfo_kill.unpack(world.get(inside[restricted.REG_RSI], 128)).si_pid == 3
    context = structs.ucontext.unpack(world.get(inside[restricted.REG_RDX], structs.ucontext.SIZE))
    assert context.uc_sigmask == mask and context.uc_flags == 7 and context.fpstate % 64 == 0 and context.rsp == sp
    slot.sp = frame + 8  # the handler returned to the restorer
    assert pop_frame(task) == mask
    changed = {restricted.REG_OLDMASK}
    assert all(a == b for index, (a, b) in enumerate(zip(before, slot.registers(), strict=True)) if index not in changed)
    assert slot.xstate() == state


def test_handlers_start_with_clean_vector_state(world: TaskWorld, slot: restricted.Slot) -> None:
    task = with_slot(world, slot)
    assert b"\xff" * 16 in slot.xstate()
    assert push_frame(task, SigInfo(SIGUSR1), HANDLER, 0)
    assert b"\xff" * 16 not in slot.xstate()
    slot.sp += 8
    assert pop_frame(task) == 0
    assert b"\xff" * 16 in slot.xstate()


def test_frames_go_to_the_alternate_stack_and_must_fit(world: TaskWorld, slot: restricted.Slot) -> None:
    task = with_slot(world, slot)
    action = HANDLER._replace(flags=HANDLER.flags | SA_ONSTACK)
    stack = BASE + 0x20000
    task.alternate_stack = (stack, 0, 0x8000)
    assert push_frame(task, SigInfo(SIGUSR1), action, 0)
    assert stack < slot.sp < stack + 0x8000
    depth = 0
    while push_frame(task, SigInfo(SIGUSR1), action, 0):
        depth += 1
        assert stack < slot.sp < stack + 0x8000 and depth < 100
    assert depth >= 2
    slot.sp = BASE + 64  # no room below: nothing is changed
    task.alternate_stack = (0, 2, 0)
    before = slot.registers()
    assert not push_frame(task, SigInfo(SIGUSR1), HANDLER, 0)
    assert slot.registers() == before
    assert not push_frame(with_slot(world, slot), SigInfo(SIGUSR1), HANDLER._replace(flags=0), 0)  # no restorer


@settings(max_examples=200, deadline=None)
@given(data=st.binary(min_size=64, max_size=1024), where=st.integers(0, 0x3000))
def test_no_frame_of_a_guests_making_harms_the_kernel(slot: restricted.Slot, data: bytes, where: int) -> None:
    world = TaskWorld()
    task = with_slot(world, slot)
    task.user.copy_out(UserAddress(BASE + 0x1000), data * (0x2000 // len(data)))
    slot.sp = BASE + where
    pop_frame(task)
    slot.set_registers(slot.registers())
    assert slot.registers()[restricted.REG_CSGSFS] & 0xFFFF == 0x33


# -- the engine's timers ------------------------------------------------------------------------------------------------------


def test_cancelled_timers_do_not_pile_up(world: TaskWorld) -> None:
    engine = world.kernel.engine
    hour = world.kernel.clock.monotonic_ns() + 3600 * SECOND
    kept = engine.call_at(hour, lambda: None)
    for _ in range(10_000):
        engine.call_at(hour, lambda: None).cancel()
    assert len(engine._timers) < 3000 and any(entry[2] is kept for entry in engine._timers)
    kept.cancel()
