"""Restricted mode: enter guest code, come back with a reason."""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from polynix.addrspace import _restricted as restricted
from restricted_guests import (
    DATA,
    MAP_FIXED,
    MAP_PRIVATE,
    PROT_READ,
    SYS_MMAP,
    SYS_MPROTECT,
    SYS_MUNMAP,
    Machine,
)

GETPPID_LOOP = "again: mov eax, 110; syscall; jmp again"


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


def test_syscall_round_trip(machine: Machine) -> None:
    guest = machine.guest("mov eax, 1; mov edi, 2; mov esi, 3; mov edx, 4; mov r10d, 5; mov r8d, 6; mov r9, -7; syscall; syscall")
    assert guest.next_syscall() == (1, 2, 3, 4, 5, 6, 2**64 - 7)
    assert guest.slot.arch == 0xC000003E
    guest.slot.resume_syscall(-errno.ENOENT)
    assert guest.next_syscall()[0] == 2**32 - errno.ENOENT
    assert guest.slot.ax == 2**64 - errno.ENOENT
    guest.slot.resume_syscall(2**64 - 1)


def test_syscall_clobbers_rcx_and_r11_only(machine: Machine) -> None:
    guest = machine.guest("mov rbx, 11; mov rbp, 12; mov r12, 13; mov r15, 14; std; syscall; here: syscall")
    guest.next_syscall()
    before = guest.slot.registers()
    assert before[restricted.REG_RCX] == before[restricted.REG_RIP]
    assert before[restricted.REG_R11] & 0x400
    guest.slot.resume_syscall(77)
    guest.next_syscall()
    after = guest.slot.registers()
    changed = {index for index in range(23) if before[index] != after[index]}
    assert changed == {restricted.REG_RAX, restricted.REG_RCX, restricted.REG_RIP}


def test_int80_shows_its_architecture_and_registers(machine: Machine) -> None:
    guest = machine.guest("mov eax, 20; mov ebx, 1; mov ecx, 2; mov edx, 3; mov esi, 4; mov edi, 5; mov ebp, 6; int 0x80")
    assert guest.next_syscall() == (20, 1, 2, 3, 4, 5, 6)
    assert guest.slot.arch == 0x40000003


def test_vsyscall_traps(machine: Machine) -> None:
    guest = machine.guest("mov rax, 0xffffffffff600400; call rax; hlt")
    slot = guest.slot
    reason = machine.next(slot)
    if reason == restricted.SIGNAL:
        pytest.skip("this host has no vsyscall page")
    assert slot.syscall()[0] == 201  # time


def test_segv_tells_address_and_kind(machine: Machine) -> None:
    guest = machine.guest("mov rax, 0x123456000; mov byte ptr [rax], 1")
    assert machine.next(guest.slot) == restricted.SIGNAL
    signo, code, address, trap, error = guest.slot.fault()
    assert (signo, code, address) == (signal.SIGSEGV, 1, 0x123456000)
    assert trap == 14 and error & 2
    guest.slot.set_register(restricted.REG_RAX, DATA)
    guest.slot.resume()


@pytest.mark.parametrize(
    ("source", "number"),
    [("ud2", signal.SIGILL), ("xor ecx, ecx; div ecx", signal.SIGFPE), ("int3", signal.SIGTRAP), ("hlt", signal.SIGSEGV)],
)
def test_other_exceptions(machine: Machine, source: str, number: int) -> None:
    guest = machine.guest(source)
    assert machine.next(guest.slot) == restricted.SIGNAL
    assert guest.slot.fault()[0] == number


def test_sigbus_beyond_the_end_of_a_file(machine: Machine, tmp_path: Path) -> None:
    guest = machine.guest(f"syscall; mov al, [{DATA + 0x2000:#x}]")
    guest.next_syscall()
    (tmp_path / "file").write_bytes(b"x" * 100)
    with open(tmp_path / "file", "rb") as file:
        guest.stub.send_fds([file.fileno()])
    guest.slot.push_recv_fds(1)
    guest.slot.push(SYS_MMAP, DATA + 0x1000, 0x2000, PROT_READ, MAP_PRIVATE | MAP_FIXED, restricted.FIRST_INSTALLED_FD, 0)
    guest.slot.resume_syscall(0)
    assert machine.next(guest.slot) == restricted.SIGNAL
    assert guest.slot.fault()[:3] == (signal.SIGBUS, 2, DATA + 0x2000)


def test_kick_stops_a_loop(machine: Machine) -> None:
    guest = machine.guest("again: inc rax; jmp again")
    assert machine.monitor.wait(20_000_000, 0) == ([], [])
    assert guest.slot.kick()
    assert machine.next(guest.slot) == restricted.KICK
    count = guest.slot.ax
    guest.slot.resume()
    time.sleep(0.01)
    guest.slot.kick()
    assert machine.next(guest.slot) == restricted.KICK
    assert guest.slot.ax > count


def test_kick_is_remembered_inside_the_stub(machine: Machine) -> None:
    guest = machine.guest(GETPPID_LOOP)
    guest.next_syscall()
    ip = guest.slot.ip
    for _ in range(3):
        guest.slot.kick()
    time.sleep(0.01)
    assert machine.monitor.wait(0, 0) == ([], [])
    guest.slot.resume_syscall(5)
    assert machine.next(guest.slot) == restricted.KICK
    assert (guest.slot.ip, guest.slot.ax) == (ip, 5)
    guest.slot.resume()
    guest.next_syscall()


def test_batch_success_and_error(machine: Machine) -> None:
    guest = machine.guest("syscall; mov byte ptr [0x200000], 1; syscall; jmp $")
    slot = guest.slot
    guest.next_syscall()
    for index in range(20):
        guest.map_region(0x200000 + index * 0x1000, 0x1000)
    slot.resume_syscall(0)
    guest.next_syscall()
    assert guest.read(0x200000, 1) == b"\1"
    slot.push(SYS_MUNMAP, 0x200000, 0x1000)
    slot.push(SYS_MPROTECT, 0x300000, 0x1000, PROT_READ)  # nothing there: ENOMEM
    slot.push(SYS_MUNMAP, 0x201000, 0x1000)
    slot.resume()
    assert machine.next(slot) == restricted.BATCH
    assert slot.batch_done == 1
    assert slot.batch_results() == [0, -errno.ENOMEM, 0]
    assert slot.batch_room == restricted.BATCH_CAPACITY
    slot.push(SYS_MPROTECT, 0x300000, 0x1000, PROT_READ, ignore_error=True)
    slot.push(SYS_MUNMAP, 0x201000, 0x1000)
    slot.resume(report_back=True)
    assert machine.next(slot) == restricted.BATCH
    assert slot.batch_results() == [-errno.ENOMEM, 0]


def test_full_batch_raises(machine: Machine) -> None:
    guest = machine.guest("syscall")
    guest.next_syscall()
    for _ in range(restricted.BATCH_CAPACITY):
        guest.slot.push(SYS_MUNMAP, 0x200000, 0x1000)
    assert guest.slot.batch_room == 0
    with pytest.raises(BufferError):
        guest.slot.push(SYS_MUNMAP, 0x200000, 0x1000)
    guest.slot.resume(report_back=True)
    assert machine.next(guest.slot) == restricted.BATCH
    assert guest.slot.batch_results() == [0] * restricted.BATCH_CAPACITY
