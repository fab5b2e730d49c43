"""The guest's own seccomp: strict mode and classic BPF filters (man 2 seccomp), run by the kernel before it dispatches a call.

``decide`` is what the system call loop asks. A filter is checked once, when it is installed, as Linux checks it (net/core/filter.c, kernel/seccomp.c), and then
interpreted. Most filters look at the call's number only: such verdicts are remembered by number (Linux's action cache).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.signals.send import force_signal
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.task.exit import begin_group_exit, exit_task
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.errno import EINVAL, ENOMEM, ENOSYS
from polynix.kernelproc.uapi.seccomp import (
    AUDIT_ARCH_X86_64,
    BPF_A,
    BPF_ABS,
    BPF_ADD,
    BPF_ALU,
    BPF_AND,
    BPF_DIV,
    BPF_IMM,
    BPF_JA,
    BPF_JEQ,
    BPF_JGE,
    BPF_JGT,
    BPF_JMP,
    BPF_JSET,
    BPF_K,
    BPF_LD,
    BPF_LDX,
    BPF_LEN,
    BPF_LSH,
    BPF_MAXINSNS,
    BPF_MEM,
    BPF_MEMWORDS,
    BPF_MISC,
    BPF_MUL,
    BPF_NEG,
    BPF_OR,
    BPF_RET,
    BPF_RSH,
    BPF_ST,
    BPF_STX,
    BPF_SUB,
    BPF_TAX,
    BPF_TXA,
    BPF_W,
    BPF_X,
    BPF_XOR,
    SECCOMP_MODE_STRICT,
    SECCOMP_RET_ACTION_FULL,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_DATA,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
    SECCOMP_RET_KILL_THREAD,
    SECCOMP_RET_LOG,
    SECCOMP_RET_TRACE,
    SECCOMP_RET_TRAP,
    SECCOMP_RET_USER_NOTIF,
)
from polynix.kernelproc.uapi.signal import SIGKILL, SIGSYS, SYS_SECCOMP
from polynix.kernelproc.uapi.unistd import SYSCALLS

if TYPE_CHECKING:
    from polynix.addrspace._restricted import Slot
    from polynix.kernelproc.task.task import Task

Instruction = tuple[int, int, int, int]  # code, jt, jf, k

ACTIONS: Final = (
    SECCOMP_RET_KILL_PROCESS,
    SECCOMP_RET_KILL_THREAD,
    SECCOMP_RET_TRAP,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_USER_NOTIF,
    SECCOMP_RET_TRACE,
    SECCOMP_RET_LOG,
    SECCOMP_RET_ALLOW,
)
SOCK_FILTER: Final = struct.Struct("<HBBI")
_DATA: Final = struct.Struct("<iIQ6Q")  # struct seccomp_data
_WORDS: Final = struct.Struct("<16I")
_DATA_SIZE: Final = 64
_MAX_INSTRUCTIONS_PER_PATH: Final = 32768
_MAX_ERRNO: Final = 4095
_MASK: Final = 0xFFFFFFFF
_STRICT_CALLS: Final = frozenset(SYSCALLS[name] for name in ("read", "write", "exit", "rt_sigreturn"))

_LOAD_DATA: Final = BPF_LD | BPF_W | BPF_ABS
_OPERATORS: Final = (BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_AND, BPF_OR, BPF_XOR, BPF_LSH, BPF_RSH)
_CONDITIONS: Final = (BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET)
_ALLOWED: Final = frozenset(
    (
        _LOAD_DATA,
        BPF_LD | BPF_W | BPF_LEN,
        BPF_LDX | BPF_W | BPF_LEN,
        BPF_LD | BPF_IMM,
        BPF_LDX | BPF_IMM,
        BPF_LD | BPF_MEM,
        BPF_LDX | BPF_MEM,
        BPF_ST,
        BPF_STX,
        BPF_MISC | BPF_TAX,
        BPF_MISC | BPF_TXA,
        BPF_RET | BPF_K,
        BPF_RET | BPF_A,
        BPF_ALU | BPF_NEG,
        BPF_JMP | BPF_JA,
        *(BPF_ALU | operator | source for operator in _OPERATORS for source in (BPF_K, BPF_X)),
        *(BPF_JMP | condition | source for condition in _CONDITIONS for source in (BPF_K, BPF_X)),
    )
)


def check_program(program: list[Instruction]) -> None:
    """Whether Linux would take the filter. Errors: EINVAL."""
    length = len(program)
    if not 0 < length <= BPF_MAXINSNS:
        raise Errno(EINVAL)
    # Which scratch words are certainly stored when an instruction is reached; all bits: not reached yet.
    stored = [(1 << BPF_MEMWORDS) - 1] * (length + 1)
    stored[0] = 0
    for index, (code, jump_true, jump_false, k) in enumerate(program):
        if code not in _ALLOWED:
            raise Errno(EINVAL)
        valid = stored[index]
        kind = code & 7
        targets = [index + 1]
        if code == _LOAD_DATA and (k >= _DATA_SIZE or k & 3):
            raise Errno(EINVAL)
        if code == BPF_ALU | BPF_DIV | BPF_K and k == 0:
            raise Errno(EINVAL)
        if code in (BPF_ALU | BPF_LSH | BPF_K, BPF_ALU | BPF_RSH | BPF_K) and k >= 32:
            raise Errno(EINVAL)
        if code in (BPF_LD | BPF_MEM, BPF_LDX | BPF_MEM, BPF_ST, BPF_STX):
            if k >= BPF_MEMWORDS:
                raise Errno(EINVAL)
            if kind in (BPF_ST, BPF_STX):
                valid |= 1 << k
            elif not valid >> k & 1:
                raise Errno(EINVAL)
        if kind == BPF_JMP:
            targets = [index + 1 + k] if code == BPF_JMP | BPF_JA else [index + 1 + jump_true, index + 1 + jump_false]
            if max(targets) >= length:
                raise Errno(EINVAL)
        elif kind == BPF_RET:
            targets = []
        elif index == length - 1:
            raise Errno(EINVAL)
        for target in targets:
            stored[target] &= valid


def run_program(program: list[Instruction], words: tuple[int, ...]) -> tuple[int, bool]:
    """Interpret a checked program on the 16 words of struct seccomp_data: (return value, whether it read more than number and architecture)."""
    accumulator = index_register = position = 0
    memory = [0] * BPF_MEMWORDS
    looked_further = False
    while True:
        code, jump_true, jump_false, k = program[position]
        position += 1
        if code == _LOAD_DATA:
            accumulator = words[k >> 2]
            looked_further = looked_further or k > 4
            continue
        kind = code & 7
        if kind == BPF_JMP:
            operation = code & 0xF0
            if operation == BPF_JA:
                position += k
                continue
            operand = index_register if code & BPF_X else k
            if operation == BPF_JEQ:
                taken = accumulator == operand
            elif operation == BPF_JGT:
                taken = accumulator > operand
            elif operation == BPF_JGE:
                taken = accumulator >= operand
            else:
                taken = bool(accumulator & operand)
            position += jump_true if taken else jump_false
        elif kind == BPF_RET:
            return (accumulator if code & 0x18 == BPF_A else k), looked_further
        elif kind == BPF_ALU:
            operation = code & 0xF0
            operand = index_register if code & BPF_X else k
            if operation == BPF_DIV and operand == 0:
                return 0, looked_further
            accumulator = _compute(operation, accumulator, operand)
        elif kind == BPF_LD:
            mode = code & 0xE0
            accumulator = k if mode == BPF_IMM else memory[k] if mode == BPF_MEM else _DATA_SIZE
        elif kind == BPF_LDX:
            mode = code & 0xE0
            index_register = k if mode == BPF_IMM else memory[k] if mode == BPF_MEM else _DATA_SIZE
        elif kind == BPF_ST:
            memory[k] = accumulator
        elif kind == BPF_STX:
            memory[k] = index_register
        elif code & 0xF8 == BPF_TXA:
            accumulator = index_register
        else:
            index_register = accumulator


def _compute(operation: int, accumulator: int, operand: int) -> int:
    if operation == BPF_ADD:
        return (accumulator + operand) & _MASK
    if operation == BPF_SUB:
        return (accumulator - operand) & _MASK
    if operation == BPF_MUL:
        return (accumulator * operand) & _MASK
    if operation == BPF_DIV:
        return accumulator // operand
    if operation == BPF_AND:
        return accumulator & operand
    if operation == BPF_OR:
        return accumulator | operand
    if operation == BPF_XOR:
        return accumulator ^ operand
    if operation == BPF_LSH:
        return (accumulator << (operand & 31)) & _MASK
    if operation == BPF_RSH:
        return accumulator >> (operand & 31)
    return -accumulator & _MASK  # BPF_NEG


class Filter:
    """One installed filter and those before it; never changed, shared by the tasks that inherited it."""

    __slots__ = ("previous", "program", "total", "verdicts")

    def __init__(self, program: list[Instruction], previous: Filter | None) -> None:
        check_program(program)
        self.program = program
        self.previous = previous
        # Four more for each filter on the way, as Linux counts.
        self.total: int = len(program) + (previous.total + 4 if previous is not None else 0)
        if self.total > _MAX_INSTRUCTIONS_PER_PATH:
            raise Errno(ENOMEM)
        self.verdicts: dict[int, int] = {}  # by call number, where nothing else was looked at

    def run(self, number: int, arch: int, ip: int, arguments: tuple[int, ...]) -> int:
        """The verdict of all filters on a call: the most drastic action, the newest filter's among equals."""
        if arch == AUDIT_ARCH_X86_64:
            known = self.verdicts.get(number)
            if known is not None:
                return known
        words = _WORDS.unpack(_DATA.pack(((number & _MASK) ^ 0x80000000) - 0x80000000, arch, ip, *arguments))
        verdict = SECCOMP_RET_ALLOW
        looked_further = False
        current: Filter | None = self
        while current is not None:
            value, further = run_program(current.program, words)
            looked_further = looked_further or further
            if _severity(value) < _severity(verdict):
                verdict = value
            current = current.previous
        if not looked_further and arch == AUDIT_ARCH_X86_64 and len(self.verdicts) < 1024:
            self.verdicts[number] = verdict
        return verdict


def _severity(value: int) -> int:
    return ((value & SECCOMP_RET_ACTION_FULL) ^ 0x80000000) - 0x80000000


class SeccompState:
    """What ``task.seccomp`` holds: the mode, and in filter mode the newest filter. Inherited by fork and kept by exec."""

    __slots__ = ("filter", "mode")

    def __init__(self, mode: int, newest: Filter | None = None) -> None:
        self.mode = mode
        self.filter = newest

    @property
    def filters(self) -> int:
        """How many filters are installed (/proc/PID/status, Seccomp_filters)."""
        count, current = 0, self.filter
        while current is not None:
            count, current = count + 1, current.previous
        return count


def check(task: Task, number: int, arguments: tuple[int, ...], ip: int, arch: int) -> int:
    """The SECCOMP_RET_* value for a call of ``task``, action and data."""
    state: SeccompState | None = task.seccomp
    if state is None:
        return SECCOMP_RET_ALLOW
    if state.mode == SECCOMP_MODE_STRICT:
        return SECCOMP_RET_ALLOW if arch == AUDIT_ARCH_X86_64 and number in _STRICT_CALLS else SECCOMP_RET_KILL_THREAD
    assert state.filter is not None
    return state.filter.run(number, arch, ip, arguments)


def decide(task: Task, slot: Slot, call: tuple[int, ...]) -> int | None:
    """Let a call pass (None), or do what the filter says instead and give the result that the call returns."""
    number, arguments = call[0], call[1:7]
    value = check(task, number, arguments, slot.ip, slot.arch)
    action = value & SECCOMP_RET_ACTION_FULL
    if action == SECCOMP_RET_ALLOW:
        return None
    data = value & SECCOMP_RET_DATA
    if action == SECCOMP_RET_LOG:
        return None
    if action == SECCOMP_RET_ERRNO:
        return -min(data, _MAX_ERRNO)
    if action == SECCOMP_RET_TRAP:
        info = SigInfo(SIGSYS, SYS_SECCOMP, errno=data, addr=slot.ip, syscall=number, arch=slot.arch)
        force_signal(task, info)
        return number  # the handler sees the registers as they were at the call
    if action in (SECCOMP_RET_TRACE, SECCOMP_RET_USER_NOTIF):
        track_stub("seccomp action without a tracer or listener", action)
        return -ENOSYS
    signo = SIGKILL if task.seccomp.mode == SECCOMP_MODE_STRICT else SIGSYS
    if action == SECCOMP_RET_KILL_THREAD and len(task.group.tasks) > 1:
        exit_task(task, signo)
    else:
        begin_group_exit(task.group, signo)
    return -ENOSYS
