"""Restricted mode: system calls that come by a jump instead of a trap (``restricted/patched_call.c``)."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from polynix.addrspace import _restricted as restricted
from polynix.addrspace.restricted import STUB_PATH
from restricted_guests import (
    ARCH_SET_GS,
    DATA,
    MAP_FIXED,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    SECOND,
    SPIN,
    STACK_TOP,
    SYS_ARCH_PRCTL,
    SYS_MMAP,
    Guest,
    Machine,
)
from test_restricted_threads import start_thread

SYS_TGKILL = 234
# What the text store makes of `mov eax, 39; syscall`, in one place: the jump, the trampoline, and the `syscall` that stays.
CALL = "jmp 8f; 9: syscall; jmp 7f; 8: mov eax, 39; lea rcx, [rip + 9b + 2]; movabs r11, {entry}; jmp r11; 7:"
PATCHED = CALL.format(entry=restricted.PATCHED_CALL) + ";"


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        if not machine.monitor.can_patch:
            pytest.skip("no rdgsbase here")
        yield machine


def came_without_trap(slot: restricted.Slot) -> bool:
    """A trap leaves the host's account of itself in the slot; a patched call has none."""
    try:
        slot.fault()
    except ValueError:
        return True
    return False


def test_round_trip(machine: Machine) -> None:
    guest = machine.guest("mov edi, 2; mov esi, 3; mov edx, 4; mov r10d, 5; mov r8d, 6; mov r9, -7;" + PATCHED + "jmp 1f; 1: syscall")
    assert guest.next_syscall() == (39, 2, 3, 4, 5, 6, 2**64 - 7)
    assert guest.slot.arch == 0xC000003E
    assert came_without_trap(guest.slot)
    guest.slot.resume_syscall(1234)
    assert guest.next_syscall()[0] == 1234
    assert not came_without_trap(guest.slot)


def test_only_what_a_system_call_changes_is_changed(machine: Machine) -> None:
    """The same registers as by a trap; rcx and r11 as SYSCALL leaves them, flags that the stub itself would change, and the red zone."""
    setup = "std; stc; " + "; ".join(f"mov {name}, {value}" for value, name in enumerate(("rbx", "rbp", "r12", "r13", "r14", "r15"), 11))
    zone = "; ".join(f"mov qword ptr [rsp - {offset}], {offset}" for offset in range(8, 136, 8))
    guest = machine.guest(f"{setup}; {zone};" + PATCHED + "syscall")
    guest.next_syscall()
    before = guest.slot.registers()
    assert before[restricted.REG_RCX] == before[restricted.REG_RIP]
    assert before[restricted.REG_R11] == before[restricted.REG_EFL] and before[restricted.REG_EFL] & 0x401 == 0x401
    assert before[restricted.REG_RSP] == STACK_TOP
    assert guest.read(before[restricted.REG_RIP] - 2, 2) == b"\x0f\x05"
    guest.slot.resume_syscall(77)
    guest.next_syscall()
    after = guest.slot.registers()
    numbers = range(restricted.REG_EFL + 1)
    assert {index for index in numbers if before[index] != after[index]} == {restricted.REG_RAX, restricted.REG_RCX, restricted.REG_RIP}
    assert struct.unpack("<16Q", guest.read(STACK_TOP - 128, 128)) == tuple(range(128, 0, -8))


def test_vector_state_is_seen_kept_and_replaced(machine: Machine) -> None:
    load = f"movups xmm0, [{DATA}]; movups xmm15, [{DATA}];"
    store = f"movups [{DATA + 16}], xmm0; movups [{DATA + 32}], xmm15;"
    guest = machine.guest(load + PATCHED + store + PATCHED + store + "syscall", start=False)
    os.pwrite(guest.memory, b"0123456789abcdef", DATA)
    guest.start()
    guest.next_syscall()
    xstate = guest.slot.xstate()
    assert xstate[160:176] == xstate[400:416] == b"0123456789abcdef"
    guest.slot.resume_syscall(0)
    guest.next_syscall()
    assert guest.read(DATA + 16, 32) == b"0123456789abcdef" * 2
    changed = bytearray(guest.slot.xstate())
    changed[160:176] = b"FEDCBA9876543210"
    guest.slot.set_xstate(bytes(changed))
    guest.slot.resume_syscall(0)
    guest.next_syscall()
    assert guest.read(DATA + 16, 32) == b"FEDCBA98765432100123456789abcdef"


def test_registers_that_the_kernel_changes(machine: Machine) -> None:
    guest = machine.guest(PATCHED + "hlt; 1: mov rax, rbx; syscall; jmp 1b")
    guest.next_syscall()
    code = guest.read(0x10000, 128)
    guest.slot.ip = 0x10000 + code.index(b"\xf4") + 1
    guest.slot.set_register(restricted.REG_RBX, 555)
    guest.slot.sp = STACK_TOP - 256
    guest.slot.resume()
    assert guest.next_syscall()[0] == 555
    assert guest.slot.sp == STACK_TOP - 256


def test_batches(machine: Machine) -> None:
    guest = machine.guest(f"again: {PATCHED} mov rbx, [0x200000]; jmp again")
    guest.next_syscall()
    guest.slot.push(SYS_MMAP, 0x200000, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, 99, 0)
    guest.slot.resume_syscall(0)
    assert machine.next(guest.slot) == restricted.BATCH
    assert guest.slot.batch_results() == [-9]
    os.pwrite(guest.memory, struct.pack("<Q", 4321), 0x200000)
    guest.slot.push(SYS_MMAP, 0x200000, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, restricted.REGION_FD, 0x200000)
    guest.slot.resume()
    guest.next_syscall()
    assert guest.slot.registers()[restricted.REG_RBX] == 4321
    assert came_without_trap(guest.slot)


def test_guest_with_a_gs_base_of_its_own_traps(machine: Machine) -> None:
    guest = machine.guest(f"stc; again: {PATCHED} rdgsbase rbx; jmp again")
    guest.next_syscall()
    assert guest.slot.gs_base == 0
    guest.slot.push(SYS_ARCH_PRCTL, ARCH_SET_GS, DATA)
    guest.slot.resume_syscall(0)
    assert guest.next_syscall()[0] == 39
    assert not came_without_trap(guest.slot)
    assert guest.slot.gs_base == guest.slot.registers()[restricted.REG_RBX] == DATA
    assert guest.read(guest.slot.ip - 2, 2) == b"\x0f\x05"


def test_each_thread_finds_its_own_slot(machine: Machine) -> None:
    guest = machine.guest(f"syscall; again: {PATCHED} jmp again")
    guest.next_syscall()
    child = start_thread(machine, guest, 1, DATA)
    assert child.gs_base == 0
    for slot, value in ((guest.slot, 100), (child, 200)):
        slot.set_register(restricted.REG_RBX, value)
        slot.resume_syscall(0)
    for _ in range(100):
        left: set[restricted.Slot] = set()
        while len(left) < 2:
            left |= set(machine.wait())
        for slot, value in ((guest.slot, 100), (child, 200)):
            assert slot.reason == restricted.SYSCALL and slot.registers()[restricted.REG_RBX] == value
            assert came_without_trap(slot)
            slot.resume_syscall(0)


def test_single_steps(machine: Machine) -> None:
    """A guest that steps through itself never finds itself in the stub."""
    guest = machine.guest(f"push 0x302; popf; {PATCHED} inc rbx; {PATCHED} syscall")
    slot, reasons = guest.slot, []
    while len([reason for reason in reasons if reason == restricted.SYSCALL]) < 3:
        reasons.append(machine.next(slot))
        assert slot.ip < restricted.STUB_TEXT
        if slot.reason == restricted.SYSCALL:
            slot.resume_syscall(0)
        else:
            assert slot.fault()[0] == signal.SIGTRAP
            slot.resume()
    assert reasons.count(restricted.SIGNAL) > 10


def test_samples(machine: Machine) -> None:
    machine.monitor.sample_period = 5
    guest = machine.guest(f"again: syscall; {PATCHED} jmp again")
    reasons = []
    for _ in range(20):
        reasons.append(machine.next(guest.slot))
        guest.slot.resume_syscall(0)
    assert reasons == ([restricted.SYSCALL] * 8 + [restricted.SYSCALL_SAMPLE] + [restricted.SYSCALL]) * 2


class Kicker:
    """A thread that kicks at random moments, as fast as it can, until stopped."""

    def __init__(self, slot: restricted.Slot) -> None:
        self.libc = ctypes.CDLL(None)
        self.ids = slot.stub.pid, slot.tid
        self.going = True
        self.kicks = 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        generator = random.Random("kicks")
        while self.going:
            for _ in range(generator.randrange(1, 6)):  # what one interrupts is begun again just when the next comes
                self.libc.syscall(SYS_TGKILL, *self.ids, restricted.KICK_SIGNAL)
                self.kicks += 1
            time.sleep(generator.random() * 5e-5)

    def stop(self) -> None:
        self.going = False
        self.thread.join()


@pytest.mark.parametrize("sleepy", [False, True])
@pytest.mark.parametrize("light", [True, False])
def test_kicks_at_any_moment(machine: Machine, light: bool, sleepy: bool) -> None:
    """No call is lost or made twice, no register changes, and after the storm a kick still brings the thread out."""
    check = "lea r13, [rbx + 7]; cmp rax, r13; jne 1f; cmp r12, rsp; jne 1f"
    guest = machine.guest(f"xor ebx, ebx; again: mov rdi, rbx; mov r12, rsp; {PATCHED} {check}; inc rbx; jmp again; 1: hlt")
    slot = guest.slot
    kicker = Kicker(slot)
    calls = kicks = 0
    try:
        while calls < (2_000 if sleepy else 20_000) or kicks < 200:
            reason = machine.next(slot)
            if reason == restricted.KICK:
                kicks += 1
                slot.resume()
                continue
            assert reason == restricted.SYSCALL, (reason, slot.registers())
            assert slot.syscall()[:2] == (39, calls)
            calls += 1
            if sleepy:  # it goes to sleep, is woken by kicks, and goes to sleep again
                slot.calm_down()
                time.sleep(1e-4)
            if not light:
                slot.set_register(restricted.REG_R14, calls)
            slot.resume_syscall(calls + 6)
    finally:
        kicker.stop()
    assert kicker.kicks >= kicks > 0
    for _ in range(50):
        slot.kick()
        while machine.next(slot) != restricted.KICK:
            calls += 1
            slot.resume_syscall(calls + 6)
        slot.resume()


PTRACE_CONT, PTRACE_SINGLESTEP, PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_SEIZE, PTRACE_INTERRUPT = 7, 9, 12, 13, 0x4206, 0x4207
TRAP_FLAG = 0x100
WALL = 0x40000000


class Stepper:
    """Takes the guest's first thread through its instructions one by one, from outside."""

    def __init__(self, guest: Guest) -> None:
        self.pid = guest.stub.pid
        self.libc = ctypes.CDLL(None, use_errno=True)
        if self.ask(PTRACE_SEIZE) != 0:
            pytest.skip("no ptrace here")

    def ask(self, request: int, data: object = None) -> int:
        return int(self.libc.ptrace(request, self.pid, None, data))

    def stop(self) -> None:
        assert self.ask(PTRACE_INTERRUPT) == 0
        os.waitpid(self.pid, WALL)

    def step(self) -> int:
        """The instruction pointer after one more instruction."""
        assert self.ask(PTRACE_SINGLESTEP) == 0
        os.waitpid(self.pid, WALL)
        registers = (ctypes.c_uint64 * 27)()
        assert self.ask(PTRACE_GETREGS, ctypes.byref(registers)) == 0
        return int(registers[16])

    def go_on(self, signo: int) -> None:
        assert self.ask(PTRACE_CONT, ctypes.c_void_p(signo)) == 0

    def end_steps(self) -> None:
        """Stepping over `pushf` leaves the trap flag among the guest's own: a thread that stopped for that goes on without it."""
        if os.waitpid(self.pid, WALL | os.WNOHANG)[0]:
            registers = (ctypes.c_uint64 * 27)()
            assert self.ask(PTRACE_GETREGS, ctypes.byref(registers)) == 0
            registers[18] &= ~TRAP_FLAG
            assert self.ask(PTRACE_SETREGS, ctypes.byref(registers)) == 0
            self.go_on(0)


@pytest.mark.parametrize("light", [True, False])
def test_a_kick_at_every_instruction(machine: Machine, light: bool) -> None:
    """From the resume after a call, through the guest, up to where the thread sleeps in its next call."""
    image = Path(STUB_PATH).read_bytes()
    (sleep,) = [restricted.STUB_TEXT + offset for offset in range(restricted.GUEST_VDSO - restricted.STUB_TEXT) if image.startswith(b"\x0f\x05\xc3", offset)]
    guest = machine.guest(f"xor ebx, ebx; again: mov rdi, rbx; {PATCHED} lea r13, [rbx + 7]; cmp rax, r13; jne 1f; inc rbx; jmp again; 1: hlt")
    slot = guest.slot
    guest.next_syscall()
    stepper = Stepper(guest)
    calls, instructions, place = 0, 0, 0
    left: list[int] = []

    def leaves() -> None:
        nonlocal calls
        left.append(slot.reason)
        assert slot.ip < restricted.STUB_TEXT
        if slot.reason != restricted.KICK:
            calls += 1
            assert (slot.reason, slot.syscall()[:2]) == (restricted.SYSCALL, (39, calls)), (instructions, hex(place), left)

    while not (left and place == sleep):
        instructions += 1
        left.clear()
        stepper.stop()
        if not light:
            slot.set_register(restricted.REG_R14, calls)
        slot.resume_syscall(calls + 7)
        in_guest = False
        for _ in range(instructions):
            place = stepper.step()
            in_guest = in_guest or place < restricted.STUB_TEXT
            if not left and slot in machine.monitor.wait(0, 0)[0]:
                leaves()
            if left and place == sleep:
                break
        asleep = bool(left) and place == sleep
        stepper.go_on(restricted.KICK_SIGNAL)
        while restricted.KICK not in left or left[-1] == restricted.KICK:
            if left and left[-1] == restricted.KICK:
                slot.resume()
            elif left:
                slot.resume_syscall(calls + 7)
            deadline = time.monotonic() + 10
            while slot not in machine.monitor.wait(SECOND // 1000, SPIN)[0]:
                assert time.monotonic() < deadline, (instructions, hex(place), left)
                stepper.end_steps()
            leaves()
        assert left[: 1 + in_guest].count(restricted.KICK) == 1, (instructions, hex(place), left)  # at once, or with the call that had begun
        place = sleep if asleep else 0
    assert instructions > 100


def test_kick_while_it_sleeps_for_the_kernel(machine: Machine) -> None:
    guest = machine.guest(f"again: {PATCHED} jmp again")
    guest.next_syscall()
    slot = guest.slot
    slot.calm_down()
    for _ in range(20):
        time.sleep(0.001)
        assert slot.kick()
        slot.resume_syscall(0)
        assert machine.next(slot) == restricted.KICK
        slot.resume()
        guest.next_syscall()


@pytest.mark.parametrize("offset", [0x40, 0x8000 * 15, 0x8000 * 3000, 0xF0000000])
def test_forged_gs_base(machine: Machine, offset: int) -> None:
    """Whatever it points at in the control area, only the guest itself can suffer."""
    other = machine.guest(f"again: {PATCHED} jmp again")
    other.next_syscall()
    guest = machine.guest(f"mov rax, {restricted.CONTROL_BASE + offset}; wrgsbase rax; {PATCHED} syscall; hlt")
    slots, _ = machine.monitor.wait(SECOND // 4, SPIN)
    assert not slots or slots == [guest.slot]
    other.slot.resume_syscall(0)
    while other.slot not in (slots := machine.wait()):
        pass
    assert other.slot.reason == restricted.SYSCALL
