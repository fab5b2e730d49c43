"""Hostile guests: whatever a guest does inside its stub, at worst it kills itself."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import select
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from polynix.addrspace import _restricted as restricted
from restricted_guests import CODE, DATA, MAP_FIXED, MAP_SHARED, SPIN, STACK_TOP, STUB_PATH, SYS_MMAP, Machine, assemble

LANDING = CODE + 0x100
SYS_WRITE, SYS_RT_SIGRETURN, SYS_MUNMAP = 1, 15, 11
ALLOWED = {0xF: "rt_sigreturn", 202: "futex", 1: "write", 9: "mmap", 11: "munmap", 10: "mprotect", 47: "recvmsg"} | {
    3: "close",
    158: "arch_prctl",
    56: "clone",
    60: "exit",
}
THREAD_FLAGS = 0x13D0F00
PAST_ANY_FILTER = {335, 336}  # uretprobe, uprobe: see filter.h
X86_64 = 0xC000003E
ARGUMENT_REGISTERS = [getattr(restricted, f"REG_{name}") for name in ("RDI", "RSI", "RDX", "R10", "R8", "R9")]


def has_failed(slot: restricted.Slot) -> bool:
    """The host answered: with SIGILL, or with ENXIO before the guest ran into a trap."""
    return slot.reason == restricted.SIGNAL and (slot.fault()[0] == signal.SIGILL or slot.ax == 2**64 - 6)


def stub_text() -> bytes:
    """The stub itself, without the guest's vdso that is linked behind it."""
    return Path(STUB_PATH).read_bytes()[: restricted.GUEST_VDSO - restricted.STUB_TEXT].rstrip(b"\0")


def vdso_text() -> bytes:
    return Path(STUB_PATH).read_bytes()[restricted.GUEST_VDSO - restricted.STUB_TEXT :]


def sites(pattern: bytes) -> list[int]:
    """Every address in the stub's mapped text where these bytes stand, whatever instruction they belong to."""
    text = stub_text()
    return [restricted.STUB_TEXT + offset for offset in range(len(text)) if text.startswith(pattern, offset)]


class Prison:
    """Runs one hostile entry after another, each in a stub that is as good as new."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.memory = os.memfd_create("polynix-test-region")
        os.ftruncate(self.memory, 1 << 47)
        self.stub: restricted.Stub | None = None
        self.stubs = 0
        self.outcomes: Counter[str] = Counter()

    def close(self) -> None:
        self.drop()
        os.close(self.memory)

    def drop(self) -> None:
        if self.stub is not None:
            self.machine.monitor.unwatch(self.stub.pidfd)
            self.stub.close()
        self.stub = None

    def fresh(self) -> restricted.Slot:
        self.stub = self.machine.monitor.spawn(self.memory)
        self.machine.monitor.watch(self.stub.pidfd, select.EPOLLIN, 1)
        self.stubs += 1
        slot = self.stub.slot(0)
        slot.spin = SPIN
        assert self.leaves(slot, 5) and slot.reason == restricted.READY, (self.stub.start_error(), self.stub.reap())
        for address, size, protection in ((CODE, 0x4000, 7), (DATA, 0x10000, 3)):
            slot.push(SYS_MMAP, address, size, protection, MAP_SHARED | MAP_FIXED, restricted.REGION_FD, address)
        slot.resume(report_back=slot.has_frame is False)
        assert self.leaves(slot, 5) and slot.reason == restricted.BATCH and slot.batch_results() == [CODE, DATA]
        return slot

    def leaves(self, slot: restricted.Slot, timeout: float) -> bool:
        """False when it dies, or stays away."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            slots, events = self.machine.monitor.wait(int(left * 1e9), 200_000)
            if slot in slots:
                return True
            if events:
                return False
        return False

    def is_dead(self) -> bool:
        """Whether the stub has died. One that still runs is given time: on a busy machine the end of a killed process takes a while."""
        assert self.stub is not None
        deadline = time.monotonic() + 5
        while (status := self.stub.reap()) is None and time.monotonic() < deadline:
            with open(f"/proc/{self.stub.pid}/stat", encoding="ascii", errors="replace") as file:
                if file.read().rpartition(")")[2].split()[0] == "S":
                    break  # it sleeps, of its own will
            time.sleep(0.002)
        return status is not None

    def enter(self, address: int, registers: dict[int, int], *, timeout: float = 0.02, stack: int = STACK_TOP - 512) -> str:
        """Runs the guest from `address`; what came of it: died, hung, returned, left."""
        slot = self.stub.slot(0) if self.stub is not None else self.fresh()
        assert self.stub is not None
        slot.init_frame(address, stack)
        for index, value in registers.items():
            slot.set_register(index, value)
        slot.resume()
        if not self.leaves(slot, timeout):
            outcome = "died" if self.is_dead() else "hung"
            self.drop()
        elif slot.reason == restricted.SIGNAL and slot.ip == LANDING + 1:
            outcome = "returned"
        else:
            outcome = "left"
        self.outcomes[outcome] += 1
        self.slot = slot
        return outcome

    def call(self, site: int, number: int, arguments: list[int], timeout: float | None = None) -> str:
        """Only what is allowed may hang; what is not must die, however long a busy machine takes over it."""
        if timeout is None:
            timeout = 0.02 if number in ALLOWED else 10
        os.pwrite(self.memory, struct.pack("<Q", LANDING) * 16, STACK_TOP - 512)
        registers = dict(zip(ARGUMENT_REGISTERS, arguments, strict=True)) | {restricted.REG_RAX: number}
        return self.enter(site, registers, timeout=timeout)

    def is_clean(self) -> bool:
        """The stub's maps and descriptors are what they were."""
        assert self.stub is not None
        directory = Path(f"/proc/{self.stub.pid}")
        maps = [line for line in (directory / "maps").read_text().splitlines() if "[vsyscall]" not in line]
        allowed = ("polynix-stub", "[vvar", "[vdso]", "polynix-kernel-page", "polynix-control", "polynix-test-region")
        return all(any(name in line for name in allowed) for line in maps) and sorted(int(name) for name in os.listdir(directory / "fd")) == list(
            range(restricted.FIRST_INSTALLED_FD)
        )


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine(uid=65534 if os.geteuid() == 0 else -1) as machine:
        yield machine


@pytest.fixture
def prison(machine: Machine) -> Iterator[Prison]:
    prison = Prison(machine)
    os.pwrite(prison.memory, b"\xcc", LANDING)
    yield prison
    prison.close()


class Host:
    """What must not change: our descriptors, our maps of files, a directory of victims."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.chmod(0o777)
        (directory / "victim").write_bytes(b"precious")
        (directory / "victim").chmod(0o666)
        self.before = self.look()

    def look(self) -> object:
        gc.collect()  # what earlier tests left behind goes now, not between two looks
        descriptors = {}
        gc.collect()  # what earlier tests left for the collector must not vanish between two looks
        for name in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                continue
            if "pidfd" not in target and "seccomp" not in target and "socket" not in target and "polynix-control" not in target:
                descriptors[name] = target
        with open("/proc/self/maps") as maps:
            names = {line.split(maxsplit=5)[5] for line in maps if line.count("/") and "polynix-control" not in line}
        files = {path.name: (path.read_bytes(), path.stat().st_mode) for path in self.directory.iterdir()}
        return descriptors, names, files, os.getcwd(), os.getpriority(os.PRIO_PROCESS, 0)

    def check(self) -> None:
        assert self.look() == self.before


def interesting(prison: Prison, directory: Path, generator: random.Random) -> list[list[int]]:
    """Argument lists for one call number: all zero, plausible ones for files, processes and memory, and chance."""
    path, buffer, size = DATA, DATA + 0x1000, 0x1000
    os.pwrite(prison.memory, str(directory / "victim").encode() + b"\0", path)
    os.pwrite(prison.memory, str(directory / "new").encode() + b"\0", path + 0x800)
    pool = [0, 1, 2, 3, 4, 7, 8, 9, -1, -100, os.getpid(), size, 0x11, 0x32, 0o666, path, path + 0x800, buffer, CODE, 1 << 32]
    pool += [restricted.CONTROL_BASE, restricted.STUB_TEXT, restricted.KERNEL_PAGE, restricted.GUEST_LIMIT, 1 << 47, 1 << 63]
    return [
        [0] * 6,
        [path, 0x42, 0o666, 0, 0, 0],
        [-100, path + 0x800, 0x42, 0o666, 0, 0],
        [os.getpid(), signal.SIGKILL, buffer, size, 0, 0],
        [restricted.CONTROL_FD, buffer, size, 0, restricted.CONTROL_FD, 0],
        [restricted.CONTROL_BASE, size, 7, 0x32, -1, 0],
        [generator.choice(pool) for _ in range(6)],
        [generator.choice(pool) if generator.random() < 0.7 else generator.getrandbits(64) for _ in range(6)],
    ]


def test_the_stub_has_one_syscall_instruction() -> None:
    assert len(sites(b"\x0f\x05")) == 1
    assert sites(b"\xcd\x80") == sites(b"\x0f\x34") == []


def test_the_way_in_works(prison: Prison) -> None:
    """Otherwise the tests below would prove nothing."""
    (site,) = sites(b"\x0f\x05")
    assert prison.call(site, SYS_WRITE, [restricted.DOORBELL_FD, DATA, 8, 0, 0, 0], timeout=10) == "returned"
    assert prison.slot.ax == 8
    assert prison.is_clean()


@pytest.mark.parametrize("part", range(4))
def test_every_call_at_the_stubs_own_instruction(prison: Prison, tmp_path: Path, part: int) -> None:
    host = Host(tmp_path)
    generator = random.Random(f"hostile {part}")
    for site in sites(b"\x0f\x05"):
        for number in range(part, 601, 4):
            for arguments in interesting(prison, tmp_path, generator):
                outcome = prison.call(site, number, arguments)
                if number in PAST_ANY_FILTER:
                    assert outcome == "died" or has_failed(prison.slot)
                elif number not in ALLOWED:
                    assert outcome == "died", (number, arguments)
                elif outcome in ("returned", "left"):
                    assert prison.is_clean(), (number, arguments)
                    prison.drop()
    host.check()
    assert prison.outcomes["died"] > 500


def test_x32_numbers_at_the_stubs_own_instruction(prison: Prison, tmp_path: Path) -> None:
    host = Host(tmp_path)
    (site,) = sites(b"\x0f\x05")
    for number in range(0, 601, 7):
        assert prison.call(site, number | 0x40000000, [DATA, 0x42, 0o666, 0, 0, 0]) == "died"
    for number in (2**32 - 1, 2**31, 0x7FFFFFFF, 601, 4096):
        assert prison.call(site, number, [DATA, 0x42, 0o666, 0, 0, 0]) == "died"
    host.check()


@pytest.mark.parametrize(("instruction", "arch"), [(b"\xcd\x80", 0x40000003), (b"\x0f\x05", X86_64)])
def test_every_call_from_guest_text_traps(prison: Prison, tmp_path: Path, instruction: bytes, arch: int) -> None:
    host = Host(tmp_path)
    os.pwrite(prison.memory, instruction + b"\xcc", CODE + 0x40)
    for number in [*range(601), 0x40000000 | 2, 2**32 - 1]:
        for arguments in ([0] * 6, [DATA, 0x42, 0o666, 0, 0, 0]):
            outcome = prison.call(CODE + 0x40, number, arguments, timeout=5)
            if arch == X86_64 and number in PAST_ANY_FILTER and prison.slot.reason == restricted.SIGNAL:
                assert has_failed(prison.slot)
                continue
            assert (prison.slot.reason, prison.slot.arch) == (restricted.SYSCALL if arch == X86_64 else restricted.FOREIGN_SYSCALL, arch)
            assert (outcome, prison.slot.syscall()[0]) == ("left", number)
            assert prison.slot.ip == CODE + 0x42
    assert prison.stubs == 1
    host.check()


def test_every_call_from_the_guests_vdso_traps(prison: Prison, tmp_path: Path) -> None:
    host = Host(tmp_path)
    text = vdso_text()
    offsets = [offset for offset in range(len(text)) if text.startswith(b"\x0f\x05", offset)]
    assert offsets, "its ways to do without the host's functions"
    assert not any(pattern in text for pattern in (b"\xcd\x80", b"\x0f\x34"))
    for offset in offsets:
        for number in sorted({*range(0, 601, 23), *ALLOWED}):
            assert prison.call(restricted.GUEST_VDSO + offset, number, [DATA, 0x42, 0o666, 0, 0, 0], timeout=5) == "left"
            assert (prison.slot.reason, prison.slot.syscall()[0]) == (restricted.SYSCALL, number)
    assert prison.stubs == 1
    host.check()


@pytest.mark.parametrize("part", range(4))
def test_jumps_to_every_byte_of_the_stub(prison: Prison, tmp_path: Path, part: int) -> None:
    host = Host(tmp_path)
    generator = random.Random(f"jumps {part}")
    values = [0, 1, 9, 60, DATA, CODE, STACK_TOP - 512, restricted.CONTROL_BASE, restricted.CONTROL_BASE + 0x7000, LANDING]
    for offset in range(part, len(stub_text()), 4):
        registers = {index: generator.choice(values) for index in range(15)}
        stack = generator.choice([STACK_TOP - 512, restricted.CONTROL_BASE + 0x1F00, restricted.CONTROL_BASE + 0x6000, 0])
        outcome = prison.enter(restricted.STUB_TEXT + offset, registers, stack=stack, timeout=0.005)
        if outcome != "died":
            prison.drop()
    host.check()


def test_unmapping_everything(prison: Prison) -> None:
    (site,) = sites(b"\x0f\x05")
    assert prison.call(site, SYS_MUNMAP, [0, restricted.GUEST_LIMIT, 0, 0, 0, 0], timeout=10) == "left"
    assert prison.slot.fault()[0] == signal.SIGSEGV
    prison.drop()
    for address, size in [(0, 1 << 47), (restricted.STUB_TEXT, 0x1000), (restricted.CONTROL_BASE, 0x8000), (1 << 46, 1 << 46)]:
        assert prison.call(site, SYS_MUNMAP, [address, size, 0, 0, 0, 0], timeout=10) == "died"
    for address, size in [(0x1000, 2**64 - 0x1000), (2**64 - 0x1000, 0x2000), (restricted.GUEST_LIMIT, 1 << 40)]:
        assert prison.call(site, SYS_MUNMAP, [address, size, 0, 0, 0, 0], timeout=10) == "died"


@pytest.mark.parametrize(
    "arguments",
    [
        [0x400000, 0x1000, 3, 0x22, -1, 0],  # anonymous
        [0x400000, 0x1000, 3, 0x32, -1, 0],
        [0x400000, 0x1000, 3, 0x31, -1, 0],
        [0x400000, 0x1000, 3, 0x11, restricted.REGION_FD, 0x500000],  # not its own offset
        [0x400000, 0x1000, 3, 0x11, restricted.REGION_FD, 0x400000 | 1 << 32],
        [0x400000, 0x1000, 3, 0x12, restricted.REGION_FD, 0x400000],
        [0x400000, 0x1000, 3, 0x1, restricted.REGION_FD, 0x400000],  # not fixed
        [0x400000, 0x1000, 3, 0x11 | 1 << 32, restricted.REGION_FD, 0x400000],
        [0x400000, 0x1000, 3, 0x11, restricted.CONTROL_FD, 0],
        [0x400000, 0x1000, 3, 0x11, restricted.KERNEL_PAGE_FD, 0],
        [0x400000, 0x1000, 0x1000003, 0x11, restricted.REGION_FD, 0x400000],  # PROT_GROWSDOWN
        [restricted.KERNEL_PAGE, 0x1000, 3, 0x11, restricted.REGION_FD, restricted.KERNEL_PAGE],
        [restricted.GUEST_LIMIT - 0x1000, 1 << 35, 3, 0x11, restricted.REGION_FD, restricted.GUEST_LIMIT - 0x1000],
    ],
)
def test_maps_off_the_list(prison: Prison, arguments: list[int]) -> None:
    (site,) = sites(b"\x0f\x05")
    assert prison.call(site, SYS_MMAP, arguments, timeout=10) == "died"


def test_maps_on_the_list_are_its_own_memory(prison: Prison) -> None:
    (site,) = sites(b"\x0f\x05")
    address = restricted.GUEST_LIMIT - 0x1000
    assert prison.call(site, SYS_MMAP, [address, 0x1000, 3, 0x11, restricted.REGION_FD, address], timeout=10) == "returned"
    assert prison.slot.ax == address
    assert prison.call(site, SYS_MMAP, [0x400000, 0x1000, 3, 0x11, restricted.FIRST_INSTALLED_FD, 0], timeout=10) == "returned"
    assert prison.slot.ax == 2**64 - 9


def test_forged_sigreturn_that_blocks_signals(prison: Prison) -> None:
    """Its next system call kills it; and while it computes no kick reaches it, but SIGKILL does."""
    os.pwrite(prison.memory, assemble("jmp $"), CODE + 0x80)
    os.pwrite(prison.memory, assemble("syscall"), CODE + 0x90)
    (site,) = sites(b"\x0f\x05")
    for target in (CODE + 0x80, CODE + 0x90):
        registers = [0] * 23
        registers[restricted.REG_RIP], registers[restricted.REG_RSP] = target, STACK_TOP - 64
        registers[restricted.REG_CSGSFS], registers[restricted.REG_EFL] = 0x2B000000000033, 0x202
        frame = struct.pack("<QQQQQ23QQ8QQ", 6, 0, DATA, 0, 0x4000, *registers, 0, *[0] * 8, 2**64 - 1)
        os.pwrite(prison.memory, frame, DATA + 0x3000)
        slot = prison.fresh()
        slot.init_frame(site, DATA + 0x3000)
        slot.set_register(restricted.REG_RAX, SYS_RT_SIGRETURN)
        slot.resume()
        stub = prison.stub
        assert stub is not None
        if target == CODE + 0x80:
            time.sleep(0.01)
            assert slot.kick()
            assert not prison.leaves(slot, 0.05)
            assert stub.reap() is None
            stub.kill()
        assert not prison.leaves(slot, 5)
        assert stub.reap() in (signal.SIGKILL, signal.SIGSYS, signal.SIGSYS | 0x80)
        prison.drop()


def test_clone_at_the_stubs_instruction_makes_no_thread(prison: Prison) -> None:
    (site,) = sites(b"\x0f\x05")
    for flags in (0x11, 0x3D0F00, 0x7E020000, THREAD_FLAGS | 1 << 32, THREAD_FLAGS & ~0x10000):
        assert prison.call(site, 56, [flags, STACK_TOP - 512, 0, 0, 0, 0], timeout=1) == "died"
    assert prison.call(site, 56, [THREAD_FLAGS, STACK_TOP - 512, 0, 0, 0, 0], timeout=1) == "returned"
    assert prison.slot.ax == 2**64 - 1
    assert prison.stub is not None and prison.stub.hostile
    assert len(os.listdir(f"/proc/{prison.stub.pid}/task")) == 1


def test_scribbling_over_the_control_pages(machine: Machine) -> None:
    """One thread writes chance all over the control area while another makes calls: the kernel goes on."""
    generator = random.Random("scribble")
    scribble = f"""
        syscall
        test eax, eax
        jnz caller
        mov rbx, {restricted.CONTROL_BASE:#x}
    again:
        imul r12, r12, 1103515245
        add r12, 12345
        mov rax, r12
        shr rax, 20
        mov rcx, rax
        and rcx, r13
        mov [rbx+rcx], rax
        inc r14
        and r14, 0xfff
        jnz again
        mov eax, 39
        syscall
        jmp again
    caller:
        mov eax, 110
        syscall
        jmp caller
    """
    served = 0
    deadline = time.monotonic() + 4
    rounds = 0
    while time.monotonic() < deadline or rounds < 5:
        rounds += 1
        guest = machine.guest(scribble)
        guest.next_syscall()
        child = guest.stub.slot(1)
        child.load_frame(guest.slot.save_frame())
        guest.slot.set_register(restricted.REG_R12, generator.getrandbits(63))
        mask = generator.choice([0xFFF8, 0x7FF8, 0x3F, 0x7F, 0x78, 0xFFFC])
        guest.slot.set_register(restricted.REG_R13, mask)
        guest.slot.push_clone(child, 0)
        guest.slot.resume(report_back=True)
        while not (guest.slot.held and child.held):
            machine.wait()
        child.set_register(restricted.REG_RAX, 1)
        child.resume()
        guest.slot.set_register(restricted.REG_RAX, 0)
        guest.slot.resume()
        quiet = time.monotonic() + 0.2
        while time.monotonic() < quiet:
            slots, _ = machine.monitor.wait(50_000_000, SPIN)
            if not slots:
                break
            for slot in slots:
                served += 1
                touch(slot, generator)
                if not slot.has_frame:
                    slot.init_frame(CODE, STACK_TOP)
                slot.resume(report_back=generator.random() < 0.1)
        guest.close()
        machine.guests.remove(guest)
    assert served > 100


def touch(slot: restricted.Slot, generator: random.Random) -> None:
    """Everything that a kernel does with a held slot; only ValueError may come of it."""
    slot.syscall() if slot.has_frame else None
    for use in (slot.registers, slot.fault, slot.xstate, slot.batch_results, slot.clear_xstate):
        try:
            use()
        except ValueError:
            pass
    try:
        frame = slot.save_frame()
        slot.load_frame(frame)
        state = slot.xstate()
        if state:
            slot.set_xstate(state)
    except ValueError:
        pass
    slot.push(SYS_MUNMAP, 0x700000 + generator.randrange(16) * 0x1000, 0x1000)
    slot.kick()


def test_ringing_the_doorbell_without_end(machine: Machine) -> None:
    """A guest that saturates the doorbell costs time, and stops nobody."""
    (site,) = sites(b"\x0f\x05")
    noisy = machine.guest(
        f"again: mov eax, 1; xor edi, edi; mov rsi, {DATA:#x}; mov edx, 8; lea rsp, [{STACK_TOP - 64:#x}];"
        f"mov rcx, {site:#x}; push 0; lea rbx, again[rip]; mov [rsp], rbx; jmp rcx",
        start=False,
    )
    os.pwrite(noisy.memory, struct.pack("<Q", 2**64 - 2), DATA)
    noisy.start()
    quiet = machine.guest("again: mov eax, 39; syscall; jmp again")
    for _ in range(200):
        quiet.next_syscall()
        quiet.slot.resume_syscall(0)
    noisy.slot.kick()
    deadline = time.monotonic() + 5
    while not noisy.slot.held:
        assert time.monotonic() < deadline
        for slot in machine.monitor.wait(10_000_000, SPIN)[0]:
            if slot is quiet.slot:
                slot.resume_syscall(0)


def test_seen_from_outside_stubs_keep_to_the_list(tmp_path: Path) -> None:
    """A tracer notes every call number that a stub makes at its own instruction, from its first frame on."""
    PTRACE_SEIZE, PTRACE_SYSCALL, PTRACE_GET_SYSCALL_INFO, PTRACE_INTERRUPT = 0x4206, 24, 0x420E, 0x4207
    options = 1 | 8  # TRACESYSGOOD, TRACECLONE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    with Machine() as machine:
        guest = machine.guest("again: mov eax, 2; mov ebx, 0; syscall; jmp again")
        guest.next_syscall()
        ready, go = os.pipe(), os.pipe()
        tracer = os.fork()
        if tracer == 0:
            status = 1
            try:
                assert libc.ptrace(PTRACE_SEIZE, guest.stub.pid, None, options) == 0, os.strerror(ctypes.get_errno())
                assert libc.ptrace(PTRACE_INTERRUPT, guest.stub.pid, None, None) == 0
                os.write(ready[1], b"r")
                watch_calls(libc, tmp_path / "calls", PTRACE_SYSCALL, PTRACE_GET_SYSCALL_INFO)
                status = 0
            except BaseException as error:
                (tmp_path / "error").write_text(repr(error))
                os.write(ready[1], b"e")
            finally:
                os._exit(status)
        try:
            if os.read(ready[0], 1) != b"r":
                pytest.skip("no ptrace here: " + (tmp_path / "error").read_text())
            child = guest.stub.slot(1)
            child.load_frame(guest.slot.save_frame())
            guest.slot.push_clone(child, 0, start=True)
            for number in range(30):
                guest.map_region(0x800000 + number * 0x1000, 0x1000)
                guest.slot.push(SYS_MUNMAP, 0x800000 + number * 0x1000, 0x1000)
            with open("/dev/null", "rb") as file:
                guest.stub.send_fds([file.fileno()])
            guest.slot.push_recv_fds(1)
            guest.slot.resume()
            for _ in range(60):
                for slot in machine.wait():
                    assert slot.reason == restricted.SYSCALL
                    if _ % 10 == 0:
                        time.sleep(0.002)
                    slot.resume_syscall(0)
        finally:
            guest.stub.kill()
            for descriptor in (*ready, *go):
                os.close(descriptor)
            _, status = os.waitpid(tracer, 0)
    assert status == 0, (tmp_path / "error").read_text()
    calls = {int(line.split()[0]) for line in (tmp_path / "calls").read_text().splitlines()}
    assert calls <= set(ALLOWED), calls
    assert {SYS_RT_SIGRETURN, SYS_MMAP, SYS_MUNMAP, 47, 56} <= calls


def watch_calls(libc: ctypes.CDLL, report: Path, ptrace_syscall: int, get_info: int) -> None:
    """The tracer: counts, by number, the system calls entered from the stub's text until all threads have ended."""
    information = ctypes.create_string_buffer(128)
    calls: Counter[int] = Counter()
    while True:
        try:
            pid, status = os.waitpid(-1, 0x40000000)
        except ChildProcessError:
            break
        if not os.WIFSTOPPED(status):
            continue
        number = os.WSTOPSIG(status)
        if number == signal.SIGTRAP | 0x80:
            libc.ptrace(get_info, pid, 128, ctypes.addressof(information))
            operation, ip, call = (
                information.raw[0],
                *struct.unpack_from("<Q", information.raw, 8),
                struct.unpack_from("<Q", information.raw, 24)[0],
            )
            if operation == 1 and ip >= restricted.STUB_TEXT:
                calls[call] += 1
        passed = number if status >> 16 == 0 and number != signal.SIGTRAP | 0x80 else 0
        libc.ptrace(ptrace_syscall, pid, None, passed)
    report.write_text("".join(f"{number} {count}\n" for number, count in calls.items()))


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
