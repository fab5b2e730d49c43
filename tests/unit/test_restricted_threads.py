"""Restricted mode: host threads of one stub, and register frames that travel between slots and stubs."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Iterator

import pytest
from polynix.addrspace import _restricted as restricted
from restricted_guests import (
    ARCH_SET_FS,
    CODE,
    DATA,
    SECOND,
    SPIN,
    STACK_TOP,
    SYS_ARCH_PRCTL,
    SYS_CLONE,
    Guest,
    Machine,
)

THREAD_FLAGS = 0x13D0F00
CALL_THEN_FS = "syscall; mov rax, fs:[0]; syscall; jmp $"


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


def start_thread(machine: Machine, guest: Guest, index: int, tls: int) -> restricted.Slot:
    """A thread by clone of the guest's held first thread, with a copy of its registers; both have left again."""
    child = guest.stub.slot(index)
    child.spin = SPIN
    frame = guest.slot.save_frame()
    guest.slot.push_clone(child, tls)
    guest.slot.resume(report_back=True)
    left: dict[restricted.Slot, int] = {}
    while len(left) < 2:
        left |= {slot: slot.reason for slot in machine.wait()}
    assert left == {guest.slot: restricted.BATCH, child: restricted.THREAD_STARTED}
    assert guest.slot.batch_results() == [child.tid]
    assert os.path.isdir(f"/proc/{guest.stub.pid}/task/{child.tid}")
    child.load_frame(frame)
    return child


def test_thread_by_clone_and_notification(machine: Machine) -> None:
    guest = machine.guest(CALL_THEN_FS)
    guest.next_syscall()
    os.pwrite(guest.memory, struct.pack("<Q", 12345), DATA + 0x100)
    child = start_thread(machine, guest, 1, DATA + 0x100)
    child.resume_syscall(0)
    assert machine.next(child) == restricted.SYSCALL
    assert child.ax == 12345
    assert child.fs_base in (0, DATA + 0x100)
    assert not guest.stub.hostile


def test_thread_that_starts_at_once(machine: Machine) -> None:
    guest = machine.guest(CALL_THEN_FS)
    guest.next_syscall()
    os.pwrite(guest.memory, struct.pack("<Q", 77), DATA)
    child = guest.stub.slot(3)
    child.load_frame(guest.slot.save_frame())
    guest.slot.push_clone(child, DATA, start=True)
    guest.slot.push(SYS_ARCH_PRCTL, ARCH_SET_FS, DATA)
    guest.slot.resume()
    left: dict[restricted.Slot, int] = {}
    while len(left) < 2:
        left |= {slot: slot.reason for slot in machine.wait()}
    assert left == {guest.slot: restricted.SYSCALL, child: restricted.SYSCALL}
    assert (guest.slot.ax, child.ax) == (77, 77)


def test_kick_reaches_one_thread(machine: Machine) -> None:
    guest = machine.guest("syscall; jmp $")
    guest.next_syscall()
    child = start_thread(machine, guest, 1, 0)
    guest.slot.resume()
    child.resume()
    time.sleep(0.01)
    assert child.kick()
    assert machine.next(child) == restricted.KICK
    assert machine.monitor.running == 1
    guest.slot.kick()
    assert machine.next(guest.slot) == restricted.KICK


def test_parked_thread_is_used_again(machine: Machine) -> None:
    guest = machine.guest(CALL_THEN_FS)
    guest.next_syscall()
    child = start_thread(machine, guest, 1, DATA)
    tid = child.tid
    child.resume_syscall(0)
    assert machine.next(child) == restricted.SYSCALL
    child.task = object()
    child.park()
    assert child.task is None
    os.pwrite(guest.memory, struct.pack("<Q", 99), DATA + 0x200)
    child.load_frame(guest.slot.save_frame())
    child.push(SYS_ARCH_PRCTL, ARCH_SET_FS, DATA + 0x200)
    child.resume()
    assert machine.next(child) == restricted.SYSCALL
    assert (child.ax, child.tid) == (99, tid)


def test_exited_thread_frees_its_slot(machine: Machine) -> None:
    guest = machine.guest(CALL_THEN_FS)
    guest.next_syscall()
    child = start_thread(machine, guest, 1, DATA)
    tid = child.tid
    child.exit_thread()
    deadline = time.monotonic() + 5
    while child.tid and time.monotonic() < deadline:
        time.sleep(0.001)
    assert child.tid == 0 and not os.path.isdir(f"/proc/{guest.stub.pid}/task/{tid}")
    again = start_thread(machine, guest, 1, DATA)
    assert again is child and child.tid != tid


def test_slots_far_up(machine: Machine) -> None:
    guest = machine.guest(CALL_THEN_FS)
    guest.next_syscall()
    for index in (16, 1000, restricted.SLOT_COUNT - 1):
        child = start_thread(machine, guest, index, DATA)
        child.resume_syscall(0)
        assert machine.next(child) == restricted.SYSCALL
    with pytest.raises(IndexError):
        guest.stub.slot(restricted.SLOT_COUNT)


def test_many_threads_run_at_once(machine: Machine) -> None:
    guest = machine.guest("syscall; again: mov eax, 39; syscall; jmp again")
    guest.next_syscall()
    children = [start_thread(machine, guest, index, 0) for index in range(1, 21)]
    counts = dict.fromkeys(children, 0)
    for child in children:
        child.resume()
    while min(counts.values()) < 50:
        for slot in machine.wait():
            assert slot.syscall()[0] == 39
            counts[slot] += 1
            slot.resume_syscall(0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_of_those_that_left_who_was_resumed_last_comes_first(machine: Machine, order: tuple[int, ...]) -> None:
    machine.monitor.stub_spin = 0
    guests = []
    for _ in order:
        guest = machine.guest("again: mov eax, 39; syscall; jmp again")
        guest.next_syscall()
        guest.slot.spin = 0
        guests.append(guest)
    slots = [guests[index].slot for index in order]
    for _ in range(3):
        for slot in slots:
            slot.resume_syscall(0)
        for slot in slots:
            wait_until_it_sleeps(slot)
        assert machine.wait() == slots[::-1]


def wait_until_it_sleeps(slot: restricted.Slot) -> None:
    """It left the guest again, and waits for the kernel; nobody has asked yet."""
    path = f"/proc/{slot.stub.pid}/task/{slot.tid}/stat"
    deadline = time.monotonic() + 10
    while True:
        with open(path) as stat:
            if stat.read().rpartition(")")[2].split()[0] == "S":
                return
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def test_clone_that_nobody_asked_for_is_refused(machine: Machine) -> None:
    guest = machine.guest("syscall; jmp $")
    guest.next_syscall()
    guest.slot.push(SYS_CLONE, THREAD_FLAGS, DATA + 0x800)
    guest.slot.resume()
    assert machine.next(guest.slot) == restricted.BATCH
    assert guest.slot.batch_results() == [-errno.EPERM]
    assert guest.stub.hostile


def test_clone_with_other_arguments_than_asked_is_refused(machine: Machine) -> None:
    guest = machine.guest("syscall; jmp $")
    guest.next_syscall()
    child = guest.stub.slot(1)
    guest.slot.push(SYS_CLONE, THREAD_FLAGS, DATA + 0x800)
    guest.slot.push_clone(child, 0)
    guest.slot.resume()
    assert machine.next(guest.slot) == restricted.BATCH
    assert guest.slot.batch_results()[0] == -errno.EPERM
    assert machine.monitor.running == 0, "the thread that was never made is not waited for"


def test_frame_comes_back_as_vfork_wants(machine: Machine) -> None:
    """The child borrows its parent's host thread; then the parent goes on from its own registers."""
    guest = machine.guest(
        "mov rbx, 5; movq xmm7, rbx; mov eax, 58; syscall; test eax, eax; jnz parent;"
        "inc rbx; movq xmm7, rbx; mov eax, 60; syscall;"
        "parent: movq rdi, xmm7; mov eax, 1; syscall"
    )
    assert guest.next_syscall()[0] == 58
    parent = guest.slot.save_frame()
    guest.slot.resume_syscall(0)
    assert guest.next_syscall()[0] == 60
    assert guest.slot.registers()[restricted.REG_RBX] == 6
    guest.slot.load_frame(parent)
    assert guest.slot.registers()[restricted.REG_RBX] == 5
    guest.slot.resume_syscall(1234)
    assert guest.next_syscall()[:2] == (1, 5)


def test_frame_moves_to_another_stub(machine: Machine) -> None:
    source = "mov rax, 0x1122334455667788; movq xmm3, rax; mov rbx, 42; syscall; movq rdx, xmm3; syscall; jmp $"
    parent = machine.guest(source)
    parent.next_syscall()
    child = machine.guest(source, start=False)
    child.map_region(CODE, 0x1000, 5)
    child.slot.load_frame(parent.slot.save_frame())
    child.slot.spin = SPIN
    child.slot.resume_syscall(0)
    child.next_syscall()
    registers = child.slot.registers()
    assert registers[restricted.REG_RBX] == 42
    assert registers[restricted.REG_RDX] == 0x1122334455667788
    assert registers[restricted.REG_RSP] == STACK_TOP


def test_frames_are_checked(machine: Machine) -> None:
    guest = machine.guest("mov rbx, 7; syscall; mov rcx, rbx; syscall; jmp $")
    guest.next_syscall()
    frame = guest.slot.save_frame()
    for bad in (b"", frame[:-1], frame[:100], b"\0" * len(frame), frame + b"x" * 20000):
        with pytest.raises(ValueError):
            guest.slot.load_frame(bad)
    guest.slot.set_register(restricted.REG_CSGSFS, 0)
    guest.slot.set_register(restricted.REG_EFL, 2**64 - 1 - 0x100)  # single steps would trap
    guest.slot.resume_syscall(1)
    guest.next_syscall()
    registers = guest.slot.registers()
    assert registers[restricted.REG_CSGSFS] & 0xFFFF == 0x33
    assert registers[restricted.REG_EFL] & 0x3000 == 0
    with pytest.raises(IndexError):
        guest.slot.set_register(23, 0)


def test_xstate_survives_and_can_be_set(machine: Machine) -> None:
    store = f"vmovdqu [{DATA + 64:#x}], ymm5; syscall;"
    guest = machine.guest("vpcmpeqd ymm5, ymm5, ymm5; vpsrlq ymm5, ymm5, 7; syscall;" + 3 * store)
    guest.next_syscall()
    state = guest.slot.xstate()
    guest.slot.resume_syscall(0)
    guest.next_syscall()
    kept = guest.read(DATA + 64, 32)
    assert kept == struct.pack("<Q", 2**57 - 1) * 4
    guest.slot.clear_xstate()
    assert guest.slot.xstate() == b""
    guest.slot.resume_syscall(0)
    guest.next_syscall()
    assert guest.read(DATA + 64, 32) == bytes(32)
    guest.slot.set_xstate(state)
    guest.slot.resume_syscall(0)
    guest.next_syscall()
    assert guest.read(DATA + 64, 32) == kept


def test_bad_xstate_is_refused_or_made_harmless(machine: Machine) -> None:
    guest = machine.guest("syscall; syscall; syscall")
    guest.next_syscall()
    state = bytearray(guest.slot.xstate())
    for bad in (b"", bytes(state[:600]), bytes(len(state)), bytes(state[:-8])):
        with pytest.raises(ValueError):
            guest.slot.set_xstate(bad)
    state[24:28] = b"\xff\xff\xff\xff"  # reserved bits of mxcsr
    state[512:576] = b"\xff" * 64  # reserved bits of the xsave header
    guest.slot.set_xstate(state)
    guest.slot.resume_syscall(0)
    assert guest.next_syscall()


def test_slots_of_a_closed_stub_are_safe(machine: Machine) -> None:
    guest = machine.guest("syscall")
    guest.next_syscall()
    guest.stub.close()
    for use in (guest.slot.syscall, guest.slot.registers, guest.slot.resume, guest.slot.kick, guest.slot.save_frame):
        with pytest.raises(ValueError):
            use()
    assert guest.slot.tid == 0
    with pytest.raises(ValueError):
        guest.stub.slot(5)
    assert machine.monitor.wait(SECOND // 100, 0) == ([], [])
