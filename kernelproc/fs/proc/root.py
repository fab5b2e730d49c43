"""The root of /proc: processes by number, and the kernel's own files."""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.image_cache import ImageCache
from polynix.kernelproc.fs.proc.open_files import file_locks
from polynix.kernelproc.fs.proc.process import task_node
from polynix.kernelproc.fs.proc.system_control import sys_directory
from polynix.kernelproc.fs.proc.task_status import state
from polynix.kernelproc.fs.pseudo import Directory, Link, constant, directory, kind_of, link, text
from polynix.kernelproc.ipc_sysv.messages import MessageQueueTable
from polynix.kernelproc.ipc_sysv.semaphores import SemaphoreTable
from polynix.kernelproc.ipc_sysv.shared_memory import SegmentTable
from polynix.kernelproc.task.cpu_time import nanoseconds_to_ticks
from polynix.kernelproc.uapi.dirent import DT_DIR
from polynix.kernelproc.uapi.errno import ENOENT
from polynix.kernelproc.uapi.magic import PROC_SUPER_MAGIC
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.ops import FileSystemOps

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

RELEASE, VERSION = (os.fsencode(text) for text in (os.uname().release, os.uname().version))  # as uname(2) says
TTY_DRIVERS = (
    b"/dev/tty             /dev/tty        5       0 system:/dev/tty\n"
    b"/dev/console         /dev/console    5       1 system:console\n"
    b"/dev/ptmx            /dev/ptmx       5       2 system\n"
    b"pty_slave            /dev/pts      136 0-1048575 pty:slave\n"
)


class ProcFileSystem(FileSystemOps):
    """proc."""

    name = b"proc"
    magic = PROC_SUPER_MAGIC
    creates = False


def _host_file(path: str) -> bytes:
    """A host file whose facts hold for guests too (the CPUs they run on)."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def meminfo(task: Task) -> bytes:
    """/proc/meminfo: the container's limit, or the host's memory, less what guests use."""
    kernel = task.kernel
    page = os.sysconf("SC_PAGE_SIZE")
    total = kernel.memory_limit or os.sysconf("SC_PHYS_PAGES") * page
    used = kernel.memory.used_bytes() or sum(task.mm.resident_bytes() for task in {id(t.mm): t for t in kernel.pids.tasks.values()}.values())
    cached = kernel.expando.get(ImageCache).resident_bytes()
    host_free = os.sysconf("SC_AVPHYS_PAGES") * page
    free = max(min(total - used, host_free), 0)
    rows = (
        ("MemTotal", total), ("MemFree", free), ("MemAvailable", free), ("Buffers", 0), ("Cached", cached), ("SwapCached", 0), ("Active", used),
        ("Inactive", 0), ("SwapTotal", 0), ("SwapFree", 0), ("Dirty", 0),
        ("Writeback", 0), ("AnonPages", used), ("Mapped", 0), ("Shmem", used), ("KReclaimable", 0), ("Slab", 0),
        ("SReclaimable", 0), ("SUnreclaim", 0),
        ("CommitLimit", total), ("Committed_AS", sum(mm.total_vm for mm in {t.mm for t in kernel.pids.tasks.values()})),
        ("VmallocTotal", 34359738367 << 10), ("VmallocUsed", 0),
    )  # fmt: skip
    lines = [f"{name + ':':<16}{value >> 10:>8} kB" for name, value in rows]
    lines += ["HugePages_Total:       0", "HugePages_Free:        0", "Hugepagesize:       2048 kB"]
    return ("\n".join(lines) + "\n").encode()


def kernel_stat(task: Task) -> bytes:
    """/proc/stat: CPU time of the guests, processes made, boot time."""
    kernel = task.kernel
    from polynix.kernelproc.task.cpu_time import group_cpu_time

    user = system = 0
    blocked = sum(1 for each in kernel.pids.tasks.values() if state(each) == "D")
    for group in kernel.pids.thread_groups.values():
        group_user, group_system = group_cpu_time(group)
        user += group_user
        system += group_system
    running = sum(1 for each in kernel.pids.tasks.values() if state(each) == "R")
    uptime = kernel.clock.boottime_ns() - kernel.boot_time_ns
    cpus = len(kernel.cpus)
    idle = max(uptime * cpus - user - system, 0)
    lines = [b"cpu  %d 0 %d %d 0 0 0 0 0 0" % tuple(map(nanoseconds_to_ticks, (user, system, idle)))]
    for index in range(cpus):
        lines.append(b"cpu%d %d 0 %d %d 0 0 0 0 0 0" % (index, *map(nanoseconds_to_ticks, (user // cpus, system // cpus, idle // cpus))))
    boot = (kernel.clock.realtime_ns() - uptime) // 10**9
    exits = sum(int(each.counters[5]) for each in kernel.pids.tasks.values())
    lines += [
        b"intr 0",
        b"ctxt %d" % exits,
        b"btime %d" % boot,
        b"processes %d" % kernel.pids.forks,
        b"procs_running %d" % running,
        b"procs_blocked %d" % blocked,
    ]
    return b"\n".join(lines) + b"\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n"


def uptime(task: Task) -> bytes:
    """/proc/uptime"""
    kernel = task.kernel
    up = kernel.clock.boottime_ns() - kernel.boot_time_ns
    return b"%d.%02d %d.%02d\n" % (up // 10**9, up // 10**7 % 100, up * len(kernel.cpus) // 10**9, 0)


def loadavg(task: Task) -> bytes:
    """/proc/loadavg"""
    pids = task.kernel.pids
    running = sum(1 for each in pids.tasks.values() if state(each) == "R")
    one, five, fifteen = os.getloadavg()
    return f"{one:.2f} {five:.2f} {fifteen:.2f} {running}/{len(pids.tasks)} {pids.last_pid}\n".encode()


def version(task: Task) -> bytes:
    """/proc/version"""
    return b"Linux version %s (polynix@%s) (Python %s) %s\n" % (RELEASE, task.uts.nodename, platform.python_version().encode(), VERSION)


def filesystems(task: Task) -> bytes:
    """/proc/filesystems"""
    return b"".join((b"" if requires else b"nodev") + b"\t" + name + b"\n" for name, (_, requires) in task.kernel.filesystems.types.items())


def devices(task: Task) -> bytes:
    """/proc/devices"""
    return task.kernel.devices.describe()


def cpuinfo(task: Task) -> bytes:
    """/proc/cpuinfo: the CPUs that the container may use, as the host describes them."""
    blocks = _host_file("/proc/cpuinfo").split(b"\n\n")
    wanted = task.kernel.cpus
    return b"".join(block + b"\n\n" for block in blocks if block and int(block.split(b":", 1)[1].split(b"\n", 1)[0]) in wanted)


class ProcRoot(Directory):
    """/proc itself."""

    volatile = True
    keeps_names = False

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._tasks: dict[int, tuple[object, FsNode]] = {}
        super().__init__(
            {
                b"cmdline": constant(b"polynix\n"),
                b"consoles": constant(b"tty1                 -WU (EC  p  )    4:1\n"),
                b"cpuinfo": text(cpuinfo),
                b"devices": text(devices),
                b"diskstats": constant(b""),
                b"filesystems": text(filesystems),
                b"interrupts": constant(b""),
                b"loadavg": text(loadavg),
                b"locks": text(file_locks),
                b"meminfo": text(meminfo),
                b"misc": constant(b""),
                b"modules": constant(b""),
                b"mounts": link(b"self/mounts"),
                b"net": link(b"self/net"),
                b"partitions": constant(b"major minor  #blocks  name\n\n"),
                b"self": lambda fs: _self_link(fs, lambda task: b"%d" % task.group.pid),
                b"stat": text(kernel_stat),
                b"swaps": constant(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"),
                b"sys": sys_directory,
                b"sysvipc": directory(
                    {
                        b"msg": text(lambda task: task.kernel.expando.get(MessageQueueTable).listing()),
                        b"sem": text(lambda task: task.kernel.expando.get(SemaphoreTable).listing()),
                        b"shm": text(lambda task: task.kernel.expando.get(SegmentTable).listing()),
                    }
                ),
                b"thread-self": lambda fs: _self_link(fs, lambda task: b"%d/task/%d" % (task.group.pid, task.tid)),
                b"tty": directory({b"drivers": constant(TTY_DRIVERS)}),
                b"uptime": text(uptime),
                b"version": text(version),
                b"vmstat": constant(b"nr_free_pages 0\npgfault 0\n"),
                b"zoneinfo": constant(b""),
            }
        )

    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        if not name.isdigit():
            return super().lookup(node, name)
        pid = int(name)
        group = self.kernel.pids.thread_groups.get(pid)
        # A thread's directory can be entered by name, and shows that thread, but is not listed.
        task = group.leader if group is not None else self.kernel.pids.tasks.get(pid)
        if task is None or name != b"%d" % pid:
            self._tasks.pop(pid, None)
            raise Errno(ENOENT)
        cached = self._tasks.get(pid)
        if cached is not None and cached[0] is task:
            return cached[1]
        made = task_node(node.fs, task)
        if len(self._tasks) > 2 * len(self.kernel.pids.thread_groups) + 8:
            self._tasks = {number: kept for number, kept in self._tasks.items() if number in self.kernel.pids.thread_groups}
        self._tasks[pid] = (task, made)
        return made

    def list(self, node: FsNode) -> Iterable[tuple[bytes, int]]:
        for pid in sorted(self.kernel.pids.thread_groups):
            yield b"%d" % pid, DT_DIR
        for name in self.children:
            yield name, kind_of(super().lookup(node, name))

    def refresh(self, node: FsNode) -> None:
        node.nlink = 2 + len(self.kernel.pids.thread_groups)


def _self_link(fs: FileSystem, target: object) -> FsNode:
    return FsNode(fs, fs.new_ino(), stat.S_IFLNK | 0o777, Link(target))  # type: ignore[arg-type]


def new_proc(kernel: Kernel, task: Task | None = None, source: bytes = b"proc", flags: int = 0, data: bytes = b"") -> FileSystem:
    """A proc file system, for the registry."""
    fs = FileSystem(ProcFileSystem(), source)
    fs.root = FsNode(fs, fs.new_ino(), stat.S_IFDIR | 0o555, ProcRoot(kernel), nlink=2)
    return fs
