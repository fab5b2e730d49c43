"""Samples where time goes: the kernel's Python stacks by its own CPU time, the guests' stacks by a clock.

A guest thread that runs is kicked and looked at on its way out, which costs it some microseconds each time. Its stack is walked by frame pointers, so code that
was compiled without them shows its innermost function only.
"""

from __future__ import annotations

import json
import os
import signal
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

from polynix.addrspace._restricted import KICK
from polynix.addrspace._usercopy import Fault, UserAddress
from polynix.kernelproc.observer import SyscallObserver
from polynix.kernelproc.signals.wake import kick
from polynix.kernelproc.syscalls.table import names
from polynix.kernelproc.trace_layout import SAMPLES_AREA, SAMPLES_HEADER, SAMPLES_START
from polynix.kernelproc.uapi.mman import PROT_EXEC

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from polynix.addrspace._restricted import Slot
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

KERNEL_INTERVAL_NS = 2_000_000  # of the kernel process's CPU time
GUEST_INTERVAL_NS = 10_000_000
FLUSH_NS = 2_000_000_000
MAX_STACKS = 20_000  # different ones of each kind; what is new beyond is counted as left out
MAX_DEPTH = 64
RBP, RSP, RIP = 10, 15, 16  # in gregset_t's order
_FRAME = struct.Struct("<QQ")  # the caller's frame pointer, the return address

GuestFrame = tuple[str, int]  # path of the mapped file, offset in it


class Sampler(SyscallObserver):
    """Samples into the memory file at ``path``. Errors: OSError."""

    def __init__(self, kernel: Kernel, path: str) -> None:
        self.kernel = kernel
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._kernel_stacks: Counter[tuple[str, str, tuple[CodeType, ...]]] = Counter()
        self._guest_stacks: Counter[tuple[str, tuple[GuestFrame, ...]]] = Counter()
        self._left_out = 0
        self._flushes = 0
        self._kicked: set[Task] = set()
        loop = kernel.loop
        handle_other_exit = loop._handle_other_exit

        def sampled_exit(slot: Slot, task: Task | None) -> None:
            if task in self._kicked:
                self._kicked.discard(task)
                if slot.reason == KICK and slot.has_frame:
                    self._sample_guest(task, slot)
            handle_other_exit(slot, task)

        loop._handle_other_exit = sampled_exit  # type: ignore[method-assign]
        signal.signal(signal.SIGPROF, self._sample_kernel)
        signal.siginterrupt(signal.SIGPROF, False)  # host calls made for guests must not end with EINTR
        signal.setitimer(signal.ITIMER_PROF, KERNEL_INTERVAL_NS / 1e9, KERNEL_INTERVAL_NS / 1e9)
        kernel.task_observers.append(self)
        kernel.engine.call_later(GUEST_INTERVAL_NS, self._kick_guests)
        kernel.engine.call_later(FLUSH_NS, self._flush_again)

    # -- the kernel -----------------------------------------------------------------------------------------------------------------------

    def _sample_kernel(self, _number: int, frame: FrameType | None) -> None:
        codes: list[CodeType] = []
        while frame is not None and len(codes) < MAX_DEPTH:
            codes.append(frame.f_code)
            if frame.f_code.co_name == "turn":
                break  # below lies only how the kernel was started
            frame = frame.f_back
        routine, task = self.kernel.engine.current, self.kernel.loop.current
        if routine is not None and routine.owner is not None:
            task = routine.owner
        who = os.fsdecode(task.comm) if task is not None else "(kernel)"
        call = names.get(task.current_syscall[0], "?") if task is not None and task.current_syscall else "(loop)"
        self._count(self._kernel_stacks, (who, call, tuple(codes)))

    # -- guests ---------------------------------------------------------------------------------------------------------------------------

    def _kick_guests(self) -> None:
        self.kernel.engine.call_later(GUEST_INTERVAL_NS, self._kick_guests)
        for task in self.kernel.pids.tasks.values():
            if task.slot is not None and not task.in_syscall and not task.stopped and not task.exited and task.routine is None and not task.kicked:
                self._kicked.add(task)
                kick(task)

    def _sample_guest(self, task: Task, slot: Slot) -> None:
        registers = slot.registers()
        found: list[GuestFrame] = []
        address: int | None = registers[RIP]
        pointer, floor = registers[RBP], registers[RSP]
        while address is not None and len(found) < MAX_DEPTH:
            frame = self._place_of(task, address)
            if frame is None:
                break
            found.append(frame)
            address = None
            if floor <= pointer < floor + (8 << 20) and not pointer & 7:
                try:
                    pointer, address = _FRAME.unpack(task.copy_in(UserAddress(pointer), _FRAME.size))
                except Fault:
                    break
                floor += 16
        self._count(self._guest_stacks, (os.fsdecode(task.comm), tuple(reversed(found))))

    @staticmethod
    def _place_of(task: Task, address: int) -> GuestFrame | None:
        """The file and offset of a code address; of code in anonymous memory, the address. None for what is no code."""
        vma = task.mm.find(address)
        if vma is None or not vma.prot & PROT_EXEC:
            return None
        file: Any = vma.file
        if file is None or file.name is None:
            return (os.fsdecode(vma.name) or "[anonymous]", address)
        return (os.fsdecode(file.name.path()), address - vma.start + vma.file_offset)

    # -- the result -----------------------------------------------------------------------------------------------------------------------

    def _count(self, stacks: Counter[Any], stack: Any) -> None:
        if stack in stacks or len(stacks) < MAX_STACKS:
            stacks[stack] += 1
        else:
            self._left_out += 1

    def _flush_again(self) -> None:
        self.kernel.engine.call_later(FLUSH_NS, self._flush_again)
        self._flush()

    def _flush(self) -> None:
        """Write all of it to the half of the file that is not in force, and then say that it is."""
        kernel = [([who, call, *(_describe(code) for code in reversed(codes))], count) for (who, call, codes), count in self._kernel_stacks.copy().items()]
        guest = [([who, *frames], count) for (who, frames), count in self._guest_stacks.items()]
        text = json.dumps(
            {"kernel": kernel, "guest": guest, "kernel_ns": KERNEL_INTERVAL_NS, "guest_ns": GUEST_INTERVAL_NS, "left_out": self._left_out}
        ).encode()
        if len(text) > SAMPLES_AREA:
            return  # what was written before stays in force
        start = SAMPLES_START + self._flushes % 2 * SAMPLES_AREA
        self._flushes += 1
        os.pwrite(self._fd, text, start)
        os.pwrite(self._fd, SAMPLES_HEADER.pack(start, len(text)), 0)

    def exited(self, task: Task, status: int) -> None:
        self._kicked.discard(task)

    def close(self) -> None:
        """The container ends."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._flush()


def _describe(code: CodeType) -> str:
    """``function (file:line)``, the file below the package."""
    path = code.co_filename.rpartition("kernelproc/")[2] if "kernelproc/" in code.co_filename else os.path.basename(code.co_filename)
    return f"{code.co_qualname} ({path}:{code.co_firstlineno})"
