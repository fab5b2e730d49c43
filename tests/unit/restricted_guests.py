"""Guests for the tests of restricted mode: assembly text in a memory object, run in a stub of its own."""

from __future__ import annotations

import functools
import os
import select
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from polynix.addrspace import _restricted as restricted
from polynix.addrspace.restricted import STUB_PATH

CODE = 0x10000
CODE_SIZE = 0x4000
DATA = 0x100000
DATA_SIZE = 0x10000
STACK_TOP = DATA + DATA_SIZE
REGION_SIZE = 1 << 47

SYS_MMAP, SYS_MPROTECT, SYS_MUNMAP, SYS_CLOSE, SYS_ARCH_PRCTL, SYS_CLONE = 9, 10, 11, 3, 158, 56
ARCH_SET_GS, ARCH_SET_FS = 0x1001, 0x1002
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_FIXED = 1, 2, 0x10
SECOND = 1_000_000_000
SPIN = 25_000
GETPPID_LOOP = "again: mov eax, 110; syscall; jmp again"


@functools.cache
def assemble(source: str) -> bytes:
    """Flat machine code of GNU assembler text (Intel syntax), to be placed at CODE."""
    with tempfile.TemporaryDirectory() as directory:
        text, program, flat = (Path(directory) / name for name in ("guest.s", "guest", "guest.bin"))
        text.write_text(f".intel_syntax noprefix\n.globl _start\n_start:\n{source}\n")
        link = ["-nostdlib", "-static", "-no-pie", f"-Wl,-Ttext={CODE:#x}", "-Wl,--build-id=none"]
        subprocess.run(["cc", *link, "-o", program, text], check=True, timeout=30)
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", program, flat], check=True, timeout=30)
        return flat.read_bytes()


class Machine:
    """A monitor with its stubs; everything ends with the `with` block."""

    def __init__(self, uid: int = -1) -> None:
        self.monitor = restricted.Monitor(STUB_PATH, uid, uid)
        self.guests: list[Guest] = []

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for guest in self.guests:
            guest.close()
        self.monitor.close()

    def guest(self, source: str = "hlt", *, start: bool = True) -> Guest:
        guest = Guest(self, source)
        self.guests.append(guest)
        if start:
            guest.start()
        return guest

    def wait(self, timeout: float = 5, spin: int = SPIN) -> list[restricted.Slot]:
        """The slots that left; fails when none does."""
        slots, _ = self.monitor.wait(int(timeout * SECOND), spin)
        assert slots, "no thread left restricted mode"
        return slots

    def next(self, slot: restricted.Slot, timeout: float = 5) -> int:
        """Waits for exactly this thread to leave; its reason."""
        assert self.wait(timeout) == [slot]
        return slot.reason


class Guest:
    """One stub over a memfd that holds assembled code at CODE and a page run at DATA."""

    def __init__(self, machine: Machine, source: str) -> None:
        self.machine = machine
        self.memory = os.memfd_create("polynix-test-region")
        os.ftruncate(self.memory, REGION_SIZE)
        os.pwrite(self.memory, assemble(source), CODE)
        self.stub = machine.monitor.spawn(self.memory)
        self.slot = self.stub.slot(0)
        assert machine.next(self.slot) == restricted.READY, self.stub.start_error()

    def map_region(self, address: int, size: int, protection: int = PROT_READ | PROT_WRITE) -> None:
        self.slot.push(SYS_MMAP, address, size, protection, MAP_SHARED | MAP_FIXED, restricted.REGION_FD, address)

    def start(self) -> None:
        self.map_region(CODE, CODE_SIZE, PROT_READ | PROT_EXEC)
        self.map_region(DATA, DATA_SIZE)
        self.slot.init_frame(CODE, STACK_TOP)
        self.slot.spin = SPIN
        self.slot.resume()

    def next_syscall(self) -> tuple[int, ...]:
        """Number and six arguments of the system call at which the guest's first thread leaves next."""
        assert self.machine.next(self.slot) == restricted.SYSCALL, (self.slot.reason, self.slot.registers())
        return self.slot.syscall()

    def read(self, address: int, size: int) -> bytes:
        return os.pread(self.memory, size, address)

    def status(self, timeout: float = 5) -> int:
        """Wait status of the stub, which must end."""
        poll = select.poll()
        poll.register(self.stub.pidfd, select.POLLIN)
        assert poll.poll(timeout * 1000), "the stub lives on"
        status = self.stub.reap()
        assert status is not None
        return status

    def close(self) -> None:
        self.stub.close()
        os.close(self.memory)
