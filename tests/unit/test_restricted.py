"""Restricted mode: enter guest code, come back with a reason."""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from polynix.addrspace import _restricted as restricted
from polynix.addrspace.host_vdso import host_functions, publish_host_vdso
from polynix.addrspace.restricted import STUB_PATH
from restricted_guests import (
    DATA,
    GETPPID_LOOP,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    SECOND,
    SPIN,
    SYS_CLOSE,
    SYS_MMAP,
    SYS_MPROTECT,
    SYS_MUNMAP,
    Machine,
)


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


def test_a_call_shares_its_numbers_with_the_one_before(machine: Machine) -> None:
    guest = machine.guest("mov rdi, 0x7ff000001000; again: mov eax, 110; syscall; mov eax, 39; mov rsi, 0x123456789; syscall; jmp again")
    first = guest.next_syscall()
    assert guest.slot.syscall() is first
    guest.slot.resume_syscall(0)
    second = guest.next_syscall()
    assert (first[0], second[0], second[2]) == (110, 39, 0x123456789)
    assert second[1] == 0x7FF000001000 and second[1] is first[1]
    guest.slot.resume_syscall(0)
    assert guest.next_syscall() == (110, *second[1:])


def test_int80_shows_its_architecture_and_registers(machine: Machine) -> None:
    guest = machine.guest("mov eax, 20; mov ebx, 1; mov ecx, 2; mov edx, 3; mov esi, 4; mov edi, 5; mov ebp, 6; int 0x80")
    assert machine.next(guest.slot) == restricted.FOREIGN_SYSCALL
    assert guest.slot.syscall() == (20, 1, 2, 3, 4, 5, 6)
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


def test_received_descriptors_live_for_one_batch(machine: Machine, tmp_path: Path) -> None:
    guest = machine.guest("syscall; mov al, [0x400000]; mov ah, [0x401000]; syscall; jmp $")
    guest.next_syscall()
    (tmp_path / "a").write_bytes(b"a" * 0x2000)
    (tmp_path / "b").write_bytes(b"b" * 0x2000)
    with open(tmp_path / "a", "rb") as a, open(tmp_path / "b", "rb") as b:
        guest.stub.send_fds([a.fileno(), b.fileno()])
    first = restricted.FIRST_INSTALLED_FD
    guest.slot.push_recv_fds(2)
    guest.slot.push(SYS_MMAP, 0x400000, 0x1000, PROT_READ, MAP_PRIVATE | MAP_FIXED, first + 1, 0x1000)
    guest.slot.push(SYS_MMAP, 0x401000, 0x1000, PROT_READ, MAP_SHARED | MAP_FIXED, first, 0x1000)
    guest.slot.push(SYS_CLOSE, first)
    guest.slot.resume_syscall(0)
    guest.next_syscall()
    assert guest.slot.ax & 0xFFFF == int.from_bytes(b"ba", "little")
    assert sorted(map(int, os.listdir(f"/proc/{guest.stub.pid}/fd"))) == list(range(first))
    guest.slot.push(SYS_MMAP, 0x400000, 0x1000, PROT_READ, MAP_SHARED | MAP_FIXED, first, 0)
    guest.slot.resume()
    assert machine.next(guest.slot) == restricted.BATCH
    assert guest.slot.batch_results() == [-errno.EBADF]


def test_descriptor_bounds_rights(machine: Machine, tmp_path: Path) -> None:
    guest = machine.guest("syscall")
    guest.next_syscall()
    (tmp_path / "a").write_bytes(b"a" * 0x1000)
    with open(tmp_path / "a", "rb") as a:
        guest.stub.send_fds([a.fileno()])
    guest.slot.push_recv_fds(1)
    guest.slot.push(SYS_MMAP, 0x400000, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, restricted.FIRST_INSTALLED_FD, 0)
    guest.slot.resume()
    assert machine.next(guest.slot) == restricted.BATCH
    assert guest.slot.batch_results() == [1, -errno.EACCES]
    assert guest.slot.batch_done == 1
    assert sorted(map(int, os.listdir(f"/proc/{guest.stub.pid}/fd"))) == list(range(restricted.FIRST_INSTALLED_FD))


def test_messages_go_to_their_batches(machine: Machine, tmp_path: Path) -> None:
    """Two batches at once, resumed in the other order than their messages were sent."""
    guest = machine.guest("syscall; mov rbx, [rdi]; syscall; jmp $")
    guest.next_syscall()
    child = guest.stub.slot(1)
    child.load_frame(guest.slot.save_frame())
    guest.slot.push_clone(child, 0)
    guest.slot.resume(report_back=True)
    while not child.held or not guest.slot.held:
        machine.wait()
    for index, slot in enumerate((guest.slot, child)):
        (tmp_path / str(index)).write_bytes(bytes([65 + index]) * 8)
        with open(tmp_path / str(index), "rb") as file:
            guest.stub.send_fds([file.fileno()])
        address = 0x400000 + index * 0x1000
        slot.push_recv_fds(1)
        slot.push(SYS_MMAP, address, 0x1000, PROT_READ, MAP_PRIVATE | MAP_FIXED, restricted.FIRST_INSTALLED_FD, 0)
        slot.set_register(restricted.REG_RDI, address)
    child.resume()
    time.sleep(0.01)
    guest.slot.resume()
    while not child.held or not guest.slot.held:
        machine.wait()
    values = [slot.registers()[restricted.REG_RBX].to_bytes(8, "little") for slot in (guest.slot, child)]
    assert values == [b"A" * 8, b"B" * 8]


def vdso_function(name: bytes) -> int:
    """Address of a function of the guests' vdso."""
    image = Path(STUB_PATH).read_bytes()[restricted.GUEST_VDSO - restricted.STUB_TEXT :]
    return restricted.GUEST_VDSO + host_functions(image)[name]


def read_guests_clock(machine: Machine, clock: int) -> float:
    address = vdso_function(b"__vdso_clock_gettime")
    guest = machine.guest(f"mov edi, {clock}; mov esi, {DATA:#x}; mov rax, {address:#x}; call rax; mov edi, eax; mov eax, 1000; syscall; jmp $")
    assert guest.next_syscall()[:2] == (1000, 0)
    seconds, nanoseconds = struct.unpack("<QQ", guest.read(DATA, 16))
    assert nanoseconds < SECOND
    return float(seconds + nanoseconds / 1e9)


@pytest.mark.parametrize("suspended", [0, 1, 999_999_999, 3_500_000_001])
@pytest.mark.parametrize("clock", [time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_MONOTONIC_RAW, 6, time.CLOCK_BOOTTIME])
def test_the_vdsos_clocks(machine: Machine, clock: int, suspended: int) -> None:
    """The host's, natively; of those that stop during a suspend its length is taken off."""
    publish_host_vdso(machine.monitor)
    machine.monitor.publish(restricted.SUSPENDED_NS, suspended)
    lag = suspended / 1e9 if clock in (time.CLOCK_MONOTONIC, time.CLOCK_MONOTONIC_RAW, 6) else 0
    before = time.clock_gettime(clock)
    reading = read_guests_clock(machine, clock) + lag
    assert before - 1e-6 <= reading <= time.clock_gettime(clock) + 1e-6


def test_without_the_hosts_vdso_the_clocks_are_system_calls(machine: Machine) -> None:
    for name, number in ((b"clock_gettime", 228), (b"gettimeofday", 96), (b"time", 201), (b"clock_getres", 229), (b"getcpu", 309)):
        guest = machine.guest(f"mov edi, -5; mov esi, {DATA:#x}; mov edx, 0; mov rax, {vdso_function(b'__vdso_' + name):#x}; call rax")
        call = guest.next_syscall()
        assert call[0] == number
        assert call[1] == (2**64 - 5 if name.startswith(b"clock") else 2**32 - 5)


def test_words_for_all_stubs(machine: Machine) -> None:
    machine.monitor.publish(restricted.HOST_GETCPU, 77)
    guest = machine.guest(f"mov rax, {restricted.KERNEL_PAGE:#x}; mov rdi, [rax + {8 * restricted.HOST_GETCPU}]; syscall")
    assert guest.next_syscall()[1] == 77
    for index in (0, 512, 1 << 20):
        with pytest.raises(IndexError):
            machine.monitor.publish(index, 1)


def test_nothing_of_the_host_is_left_in_a_stub(machine: Machine) -> None:
    guest = machine.guest("syscall")
    guest.next_syscall()
    ranges = [line.split()[0].split("-") for line in Path(f"/proc/{guest.stub.pid}/maps").read_text().splitlines()]
    starts = {int(begin, 16) >> 32 for begin, _ in ranges if int(begin, 16) >= restricted.GUEST_LIMIT}
    assert starts <= {base >> 32 for base in (restricted.STUB_TEXT, restricted.VDSO_BASE, restricted.KERNEL_PAGE)} | {
        restricted.CONTROL_BASE >> 32,
        0xFFFFFFFF,
    }
    assert os.getsid(guest.stub.pid) == guest.stub.pid
    assert Path(f"/proc/{guest.stub.pid}/oom_score_adj").read_text() == "1000\n"


def test_death_of_a_stub_is_seen(machine: Machine) -> None:
    guest = machine.guest("jmp $")
    machine.monitor.watch(guest.stub.pidfd, select.EPOLLIN, 4711)
    assert guest.stub.reap() is None
    os.kill(guest.stub.pid, signal.SIGKILL)
    assert machine.monitor.wait(5 * SECOND, 0) == ([], [(4711, select.EPOLLIN)])
    assert guest.status() == signal.SIGKILL
    assert not guest.slot.kick()


def test_wait_watches_descriptors_and_times_out(machine: Machine) -> None:
    begin = time.monotonic()
    assert machine.monitor.wait(20_000_000, SPIN) == ([], [])
    assert 0.02 <= time.monotonic() - begin < 1
    reader, writer = os.pipe()
    machine.monitor.watch(reader, select.EPOLLIN, 7)
    os.write(writer, b"x")
    assert machine.monitor.wait(-1, 0) == ([], [(7, select.EPOLLIN)])
    machine.monitor.modify(reader, select.EPOLLIN | select.EPOLLET, 8)
    assert machine.monitor.wait(0, 0) == ([], [(8, select.EPOLLIN)])
    assert machine.monitor.wait(0, 0) == ([], [])
    machine.monitor.unwatch(reader)
    os.close(reader)
    os.close(writer)


def test_busy_guests_do_not_hide_descriptors(machine: Machine) -> None:
    guest = machine.guest(GETPPID_LOOP)
    reader, writer = os.pipe()
    machine.monitor.watch(reader, select.EPOLLIN, 7)
    guest.next_syscall()
    guest.slot.resume_syscall(0)
    os.write(writer, b"x")
    for _ in range(10000):
        slots, events = machine.monitor.wait(SECOND, SPIN)
        if events:
            break
        for slot in slots:
            slot.resume_syscall(0)
    assert events == [(7, select.EPOLLIN)]
    os.close(reader)
    os.close(writer)


def test_wake_from_another_thread(machine: Machine) -> None:
    machine.guest("jmp $")
    timer = threading.Timer(0.02, machine.monitor.wake)
    timer.start()
    assert machine.monitor.wait(-1, 0) == ([], [])
    timer.join()


def test_python_signals_interrupt_wait(machine: Machine) -> None:
    def handler(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with pytest.raises(KeyboardInterrupt):
            machine.monitor.wait(-1, 0)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_spawn_wants_the_main_thread(machine: Machine) -> None:
    errors: list[BaseException] = []

    def spawn() -> None:
        try:
            machine.monitor.spawn(0)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=spawn)
    thread.start()
    thread.join()
    assert errors


def test_a_sleeping_stub_is_woken_and_a_spinning_one_needs_no_wake(machine: Machine) -> None:
    guest = machine.guest(GETPPID_LOOP)
    for pause in (0, 0, 0.001, 0.001, 0):
        guest.next_syscall()
        time.sleep(pause)
        guest.slot.resume_syscall(0)


def test_stub_of_another_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Machine(uid=65534) as machine:
        guest = machine.guest(GETPPID_LOOP)
        guest.next_syscall()
        status = Path(f"/proc/{guest.stub.pid}/status").read_text()
        assert "Uid:\t65534\t65534\t65534\t65534" in status and "Groups:\t \n" in status
        assert "CapPrm:\t0000000000000000" in status and "NoNewPrivs:\t1" in status and "Seccomp_filters:\t2" in status


@pytest.mark.parametrize("uid", [-1, 65534])
def test_death_of_the_kernel_kills_its_stubs(uid: int) -> None:
    if uid >= 0 and os.geteuid() != 0:
        pytest.skip("needs root")
    program = f"""
    import sys, time
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from restricted_guests import Machine
    machine = Machine(uid={uid})
    guests = [machine.guest("jmp $") for _ in range(3)]
    guests.append(machine.guest("hlt", start=False))
    print(*(guest.stub.pid for guest in guests), flush=True)
    time.sleep(60)
    """
    kernel = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert kernel.stdout is not None
    pids = [int(word) for word in kernel.stdout.readline().split()]
    assert len(pids) == 4
    kernel.kill()
    kernel.wait()
    kernel.stdout.close()
    deadline = time.monotonic() + 2
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
