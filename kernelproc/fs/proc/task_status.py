"""/proc/PID/stat, statm and status: a task's state in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace.vma import VmaKind
from polynix.kernelproc.fs.proc.memory_maps import resident
from polynix.kernelproc.task.cpu_time import group_cpu_time, nanoseconds_to_ticks, thread_cpu_time
from polynix.kernelproc.uapi.resource import RLIMIT_RSS, RLIMIT_SIGPENDING

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

STATE_NAMES = {"R": "running", "S": "sleeping", "D": "disk sleep", "T": "stopped", "Z": "zombie", "X": "dead"}


def state(task: Task) -> str:
    """The letter of /proc/PID/stat."""
    if task.exited:
        return "Z"
    if task.stopped:
        return "T"
    if task.group.is_kernel:
        return "S"
    if task.routine is not None and task.routine.parked:
        return "S" if task.routine.interruptible else "D"
    return "R"


def _signal_masks(task: Task) -> tuple[int, int, int, int, int]:
    return task.signals.pending.mask, task.group.signals.pending.mask, task.signals.mask, *task.signals.actions.masks()


def stat_line(task: Task, whole: bool) -> bytes:
    """/proc/PID/stat, 52 fields (man 5 proc); of the process, or of one thread."""
    group, mm = task.group, task.mm
    session = group.process_group.session
    terminal = session.terminal
    user, system = group_cpu_time(group) if whole else thread_cpu_time(task)
    faults = int(task.counters[6])
    pending, _, blocked, ignored, caught = _signal_masks(task)
    alive = not mm.dead and not task.exited
    fields: list[int] = [
        group.parent.pid if group.parent is not None else 0,
        group.process_group.pgid,
        session.sid,
        terminal.device if terminal is not None else 0,
        terminal.foreground.pgid if terminal is not None and terminal.foreground is not None else -1,
        0x400000,
        faults, 0, 0, 0,
        nanoseconds_to_ticks(user), nanoseconds_to_ticks(system),
        nanoseconds_to_ticks(group.children_usage_user_ns), nanoseconds_to_ticks(group.children_usage_system_ns),
        20 + task.nice, task.nice,
        max(len(group.tasks), 1),
        0,
        nanoseconds_to_ticks(max(task.start_time_ns - task.kernel.boot_time_ns, 0)),
        mm.total_vm if alive else 0,
        resident_pages(task) if alive else 0,
        group.limits.soft(RLIMIT_RSS),
        mm.start_code, mm.end_code, mm.start_stack,
        0, 0,
        pending, blocked, ignored, caught,
        1 if task.routine is not None else 0, 0, 0,
        group.exit_signal if whole else -1,
        0, 0, 0, 0, 0, 0,
        mm.start_data, mm.end_data, mm.brk_start, mm.arg_start, mm.arg_end, mm.env_start, mm.env_end,
        group.exit_code or 0,
    ]  # fmt: skip
    pid = group.pid if whole else task.tid
    return b"%d (%s) %s %s\n" % (pid, task.comm, state(task).encode(), " ".join(map(str, fields)).encode())


def resident_pages(task: Task) -> int:
    """Pages of the address space that are present."""
    mm = task.mm
    if mm.dead:
        return 0
    return (mm.resident_bytes() + sum(vma.length for vma in mm.vmas if vma.kind is VmaKind.FILE)) >> 12


def statm_line(task: Task) -> bytes:
    """/proc/PID/statm"""
    mm = task.mm
    if mm.dead or task.exited:
        return b"0 0 0 0 0 0 0\n"
    shared = sum(vma.length for vma in mm.vmas if vma.kind is VmaKind.FILE) >> 12
    text = max(mm.end_code - mm.start_code + 4095, 0) >> 12
    return b"%d %d %d %d 0 %d 0\n" % (mm.total_vm >> 12, resident_pages(task), shared, text, (mm.data_vm + mm.stack_vm) >> 12)


def status_text(task: Task) -> bytes:
    """/proc/PID/status"""
    group, mm, credentials = task.group, task.mm, task.credentials
    letter = state(task)
    pending, shared_pending, blocked, ignored, caught = _signal_masks(task)
    lines = [
        f"Name:\t{task.comm.decode(errors='replace')}",
        f"Umask:\t{task.fs.umask:04o}",
        f"State:\t{letter} ({STATE_NAMES[letter]})",
        f"Tgid:\t{group.pid}",
        "Ngid:\t0",
        f"Pid:\t{task.tid}",
        f"PPid:\t{group.parent.pid if group.parent is not None else 0}",
        "TracerPid:\t0",
        f"Uid:\t{credentials.uid}\t{credentials.euid}\t{credentials.suid}\t{credentials.fsuid}",
        f"Gid:\t{credentials.gid}\t{credentials.egid}\t{credentials.sgid}\t{credentials.fsgid}",
        f"FDSize:\t{fd_table_size(task)}",
        f"Groups:\t{' '.join(map(str, credentials.groups))} ",
        f"NStgid:\t{group.pid}",
        f"NSpid:\t{task.tid}",
        f"NSpgid:\t{group.process_group.pgid}",
        f"NSsid:\t{group.process_group.session.sid}",
    ]
    if not mm.dead and not task.exited:
        text = max(mm.end_code - mm.start_code, 0) >> 10
        anonymous = sum(resident(vma) for vma in mm.vmas if vma.in_region()) >> 10
        files = sum(vma.length for vma in mm.vmas if vma.kind is VmaKind.FILE) >> 10
        shared = sum(resident(vma) for vma in mm.vmas if vma.kind is VmaKind.SHARED) >> 10
        rss = anonymous + files + shared
        lines += [
            f"{name + ':':<8}\t{value:8} kB"
            for name, value in (
                ("VmPeak", mm.peak_vm >> 10), ("VmSize", mm.total_vm >> 10), ("VmLck", mm.locked_vm >> 10), ("VmPin", 0), ("VmHWM", rss), ("VmRSS", rss),
                ("RssAnon", anonymous), ("RssFile", files), ("RssShmem", shared), ("VmData", mm.data_vm >> 10), ("VmStk", mm.stack_vm >> 10), ("VmExe", text),
                ("VmLib", max(files - text, 0)), ("VmPTE", 64), ("VmSwap", 0), ("HugetlbPages", 0),
            )
        ]  # fmt: skip
        lines += ["CoreDumping:\t0", "THP_enabled:\t0"]
    cpus = sorted(task.affinity)
    mask = sum(1 << cpu for cpu in cpus)
    lines += [
        f"Threads:\t{max(len(group.tasks), 1)}",
        f"SigQ:\t{pending_signals(task)}/{group.limits.soft(RLIMIT_SIGPENDING)}",
        f"SigPnd:\t{pending:016x}",
        f"ShdPnd:\t{shared_pending:016x}",
        f"SigBlk:\t{blocked:016x}",
        f"SigIgn:\t{ignored:016x}",
        f"SigCgt:\t{caught:016x}",
        f"CapInh:\t{credentials.cap_inheritable:016x}",
        f"CapPrm:\t{credentials.cap_permitted:016x}",
        f"CapEff:\t{credentials.cap_effective:016x}",
        f"CapBnd:\t{credentials.cap_bounding:016x}",
        f"CapAmb:\t{credentials.cap_ambient:016x}",
        f"NoNewPrivs:\t{int(task.no_new_privs)}",
        f"Seccomp:\t{0 if task.seccomp is None else task.seccomp.mode}",
        f"Seccomp_filters:\t{0 if task.seccomp is None else task.seccomp.filters}",
        "Speculation_Store_Bypass:\tthread vulnerable",
        f"Cpus_allowed:\t{mask:x}",
        f"Cpus_allowed_list:\t{ranges(cpus)}",
        "Mems_allowed:\t1",
        "Mems_allowed_list:\t0",
        f"voluntary_ctxt_switches:\t{int(task.counters[5])}",
        "nonvoluntary_ctxt_switches:\t0",
    ]
    return ("\n".join(lines) + "\n").encode()


def pending_signals(task: Task) -> int:
    """Queued signals of the task's user."""
    from polynix.kernelproc.signals.send import pending_count

    return pending_count(task.kernel, task.credentials.uid)


def ranges(numbers: list[int]) -> str:
    """``0-3,8`` notation of a sorted list."""
    parts: list[str] = []
    start = previous = None
    for number in [*numbers, None]:
        if previous is not None and number == previous + 1:
            previous = number
            continue
        if start is not None:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = number
    return ",".join(parts)


def fd_table_size(task: Task) -> int:
    """Slots of the descriptor table as Linux grows it: a power of two from 64 on."""
    if task.exited:
        return 0
    fds = task.files.fds()
    return max(64, 1 << fds[-1].bit_length()) if fds else 64
