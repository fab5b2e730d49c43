"""The guest's own seccomp: which programs are taken, how they run, which verdict wins, what follows."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polynix.kernelproc import seccomp
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.uapi.errno import EACCES, EFAULT, EINVAL, EOPNOTSUPP
from polynix.kernelproc.uapi.seccomp import (
    AUDIT_ARCH_I386,
    AUDIT_ARCH_X86_64,
    SECCOMP_GET_ACTION_AVAIL,
    SECCOMP_GET_NOTIF_SIZES,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
    SECCOMP_RET_KILL_THREAD,
    SECCOMP_RET_LOG,
    SECCOMP_RET_TRAP,
    SECCOMP_SET_MODE_FILTER,
    SECCOMP_SET_MODE_STRICT,
)
from polynix.kernelproc.uapi.unistd import SYSCALLS
from task_world import TaskWorld

LD, RET, JEQ, JGE, JSET, JA = 0x20, 0x06, 0x15, 0x35, 0x45, 0x05
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, XOR = (0x04 | code for code in range(0, 0xB0, 0x10) if code != 0x90)
X = 0x08
LDX_IMM, LD_IMM, TAX, TXA, ST, STX, LD_MEM, LDX_MEM, RET_A = 0x01, 0x00, 0x07, 0x87, 0x02, 0x03, 0x60, 0x61, 0x16

Program = list[seccomp.Instruction]


def only(number: int, verdict: int, otherwise: int = SECCOMP_RET_ALLOW) -> Program:
    return [(LD, 0, 0, 0), (JEQ, 0, 1, number), (RET, 0, 0, verdict), (RET, 0, 0, otherwise)]


def install(world: TaskWorld, program: Program, flags: int = 0) -> int:
    code = world.put(b"".join(struct.pack("<HBBI", *instruction) for instruction in program))
    return world.call("seccomp", SECCOMP_SET_MODE_FILTER, flags, world.put(struct.pack("<H6xQ", len(program), code)))


def verdict(world: TaskWorld, name: str, *arguments: int) -> int:
    padded = (*arguments, *[0] * (6 - len(arguments)))
    return seccomp.check(world.task, SYSCALLS[name], padded, 0x1234_5678_9ABC, AUDIT_ARCH_X86_64)


@pytest.mark.parametrize(
    "program",
    [
        [],
        [(LD, 0, 0, 0)],  # does not end in a return
        [(LD, 0, 0, 64), (RET, 0, 0, 0)],  # beyond struct seccomp_data
        [(LD, 0, 0, 2), (RET, 0, 0, 0)],  # not aligned
        [(0x28, 0, 0, 0), (RET, 0, 0, 0)],  # half-word load
        [(JEQ, 1, 0, 0), (RET, 0, 0, 0)],  # jumps behind the end
        [(JA, 0, 0, 1), (RET, 0, 0, 0)],
        [(JA, 0, 0, 0xFFFFFFFF), (RET, 0, 0, 0)],
        [(DIV, 0, 0, 0), (RET, 0, 0, 0)],
        [(LSH, 0, 0, 32), (RET, 0, 0, 0)],
        [(ST, 0, 0, 16), (RET, 0, 0, 0)],
        [(LD_MEM, 0, 0, 0), (RET, 0, 0, 0)],  # loaded before stored
        [(JEQ, 0, 1, 0), (ST, 0, 0, 3), (LD_MEM, 0, 0, 3), (RET, 0, 0, 0)],  # stored on one way only
        [(0x94, 0, 0, 3), (RET, 0, 0, 0)],  # modulo is not among seccomp's
        [(0xFFFF, 0, 0, 0), (RET, 0, 0, 0)],
        [(RET, 0, 0, 0)] * 4097,
    ],
)
def test_refused_programs(program: Program) -> None:
    with pytest.raises(Errno) as error:
        seccomp.check_program(program)
    assert error.value.errno == EINVAL


def test_arithmetic() -> None:
    words = tuple(range(100, 116))

    def run(*program: seccomp.Instruction) -> int:
        listing = list(program)
        seccomp.check_program(listing)
        return seccomp.run_program(listing, words)[0]

    assert run((LD, 0, 0, 60), (ADD, 0, 0, 5), (RET_A, 0, 0, 0)) == 120
    assert run((LD_IMM, 0, 0, 1), (SUB, 0, 0, 2), (RET_A, 0, 0, 0)) == 0xFFFFFFFF
    assert run((LD_IMM, 0, 0, 7), (LDX_IMM, 0, 0, 0), (DIV | X, 0, 0, 0), (RET_A, 0, 0, 0)) == 0
    assert run((LD_IMM, 0, 0, 7), (LDX_IMM, 0, 0, 2), (DIV | X, 0, 0, 0), (RET_A, 0, 0, 0)) == 3
    assert run((LD_IMM, 0, 0, 1), (NEG, 0, 0, 0), (RSH, 0, 0, 4), (RET_A, 0, 0, 0)) == 0x0FFFFFFF
    assert run((LD_IMM, 0, 0, 6), (TAX, 0, 0, 0), (MUL | X, 0, 0, 0), (RET_A, 0, 0, 0)) == 36
    assert run((LD_IMM, 0, 0, 9), (ST, 0, 0, 15), (LDX_MEM, 0, 0, 15), (TXA, 0, 0, 0), (RET_A, 0, 0, 0)) == 9
    assert run((LDX_IMM, 0, 0, 4), (STX, 0, 0, 1), (LD_MEM, 0, 0, 1), (XOR, 0, 0, 5), (RET_A, 0, 0, 0)) == 1
    assert run((LD_IMM, 0, 0, 12), (AND, 0, 0, 10), (OR, 0, 0, 1), (LSH, 0, 0, 31), (RET_A, 0, 0, 0)) == 1 << 31
    assert run((0x80, 0, 0, 0), (RET_A, 0, 0, 0)) == 64
    assert run((LD, 0, 0, 0), (JSET, 1, 0, 4), (RET, 0, 0, 1), (RET, 0, 0, 2)) == 2
    assert run((LD, 0, 0, 0), (JGE, 0, 1, 100), (RET, 0, 0, 1), (RET, 0, 0, 2)) == 1


def test_needs_no_new_privs_or_privilege() -> None:
    world = TaskWorld()
    world.task.credentials = Credentials.user(1000, 1000)
    assert install(world, only(1, SECCOMP_RET_ERRNO | 1)) == -EACCES
    assert world.call("prctl", 38, 1) == 0
    assert install(world, only(1, SECCOMP_RET_ERRNO | 1)) == 0
    assert world.call("prctl", 21) == 2
    assert world.call("seccomp", SECCOMP_SET_MODE_STRICT, 0, 0) == -EINVAL
    assert world.call("seccomp", SECCOMP_SET_MODE_FILTER, 0, 8) == -EFAULT
    assert world.call("seccomp", SECCOMP_SET_MODE_FILTER, 1 << 20, 0) == -EINVAL
    assert world.call("seccomp", 99, 0, 0) == -EINVAL


def test_most_drastic_verdict_wins() -> None:
    world = TaskWorld()
    getpid, getuid = SYSCALLS["getpid"], SYSCALLS["getuid"]
    assert install(world, only(getpid, SECCOMP_RET_ERRNO | 5)) == 0
    assert install(world, only(getpid, SECCOMP_RET_ERRNO | 7)) == 0
    assert verdict(world, "getpid") == SECCOMP_RET_ERRNO | 7  # the newest among equals
    assert install(world, only(getpid, SECCOMP_RET_LOG)) == 0
    assert verdict(world, "getpid") == SECCOMP_RET_ERRNO | 7
    assert install(world, only(getuid, SECCOMP_RET_KILL_PROCESS)) == 0
    assert install(world, only(getuid, SECCOMP_RET_KILL_THREAD)) == 0
    assert verdict(world, "getuid") == SECCOMP_RET_KILL_PROCESS
    assert verdict(world, "getgid") == SECCOMP_RET_ALLOW
    assert world.task.seccomp.filters == 5


def test_arguments_and_architecture_are_seen() -> None:
    world = TaskWorld()
    # fd == 2 in the low word of the first argument, high word zero
    program: Program = [
        (LD, 0, 0, 4), (JEQ, 1, 0, AUDIT_ARCH_X86_64), (RET, 0, 0, SECCOMP_RET_KILL_PROCESS),
        (LD, 0, 0, 16), (JEQ, 0, 3, 2), (LD, 0, 0, 20), (JEQ, 0, 1, 0), (RET, 0, 0, SECCOMP_RET_ERRNO | 9), (RET, 0, 0, SECCOMP_RET_ALLOW),
    ]  # fmt: skip
    assert install(world, program) == 0
    assert verdict(world, "write", 2) == SECCOMP_RET_ERRNO | 9
    assert verdict(world, "write", 1) == SECCOMP_RET_ALLOW
    assert verdict(world, "write", 2 | 1 << 32) == SECCOMP_RET_ALLOW
    assert seccomp.check(world.task, 1, (2, 0, 0, 0, 0, 0), 0, AUDIT_ARCH_I386) == SECCOMP_RET_KILL_PROCESS
    assert not world.task.seccomp.filter.verdicts


def test_strict_mode() -> None:
    world = TaskWorld()
    assert world.call("seccomp", SECCOMP_SET_MODE_STRICT, 0, 0) == 0
    assert verdict(world, "read") == SECCOMP_RET_ALLOW
    assert verdict(world, "exit") == SECCOMP_RET_ALLOW
    assert verdict(world, "exit_group") == SECCOMP_RET_KILL_THREAD
    assert verdict(world, "getpid") == SECCOMP_RET_KILL_THREAD


def test_questions() -> None:
    world = TaskWorld()
    assert world.call("seccomp", SECCOMP_GET_ACTION_AVAIL, 0, world.put(struct.pack("<I", SECCOMP_RET_TRAP))) == 0
    assert world.call("seccomp", SECCOMP_GET_ACTION_AVAIL, 0, world.put(struct.pack("<I", 0x12340000))) == -EOPNOTSUPP
    out = world.put(bytes(8))
    assert world.call("seccomp", SECCOMP_GET_NOTIF_SIZES, 0, out) == 0
    assert struct.unpack("<HHH", world.get(out, 6)) == (80, 24, 64)


def test_tsync() -> None:
    world = TaskWorld()
    sibling = world.thread(world.task)
    assert install(world, only(1, SECCOMP_RET_ERRNO | 1), 1) == 0
    assert sibling.seccomp is world.task.seccomp
    code = only(2, SECCOMP_RET_ERRNO | 1)
    stray = world.thread(world.task)
    stray.seccomp = seccomp.SeccompState(2, seccomp.Filter(code, None))
    assert install(world, code, 1) == stray.tid


class Slot:
    ip = 0x1234
    arch = AUDIT_ARCH_X86_64


def test_what_follows() -> None:
    world = TaskWorld()
    getpid, getuid = SYSCALLS["getpid"], SYSCALLS["getuid"]
    install(world, only(getpid, SECCOMP_RET_ERRNO | 0xFFFF))
    install(world, only(getuid, SECCOMP_RET_LOG))
    assert seccomp.decide(world.task, Slot(), (getpid, 0, 0, 0, 0, 0, 0)) == -4095  # type: ignore[arg-type]
    assert seccomp.decide(world.task, Slot(), (getuid, 0, 0, 0, 0, 0, 0)) is None  # type: ignore[arg-type]
    assert world.task.seccomp.filter.verdicts[getpid] == SECCOMP_RET_ERRNO | 0xFFFF


@given(st.lists(st.tuples(st.sampled_from(sorted(seccomp._ALLOWED)), st.integers(0, 6), st.integers(0, 6), st.integers(0, 70)), max_size=25))
@settings(max_examples=300)
def test_checked_programs_end(program: Program) -> None:
    listing = [*program, (RET, 0, 0, 0)]
    try:
        seccomp.check_program(listing)
    except Errno:
        return
    value, _ = seccomp.run_program(listing, tuple(range(16)))
    assert 0 <= value <= 0xFFFFFFFF
