"""/proc/sys: the kernel's tunables (sysctl), as far as programs read or set them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.pseudo import constant, directory, text
from polynix.kernelproc.uapi.errno import EINVAL, EPERM

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_system import FileSystem
    from polynix.kernelproc.vfs.fs_node import FsNode

CAP_SYS_ADMIN = 21
_boot_id = str(uuid.uuid4()).encode()


class Tunables:
    """Values that guests may set and that nothing else owns; one per kernel, in its expando."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}


def tunable(name: str, default: int, low: int = 0, high: int = (1 << 63) - 1) -> Callable[[FileSystem], FsNode]:
    """A whole number that a privileged guest can set."""

    def read(task: Task) -> bytes:
        return b"%d\n" % task.kernel.expando.get(Tunables).values.get(name, default)

    def store(task: Task, content: bytes) -> None:
        if not task.credentials.has_capability(CAP_SYS_ADMIN):
            raise Errno(EPERM)
        try:
            value = int(content.strip(b" \n\0"))
        except ValueError:
            raise Errno(EINVAL) from None
        if not low <= value <= high:
            raise Errno(EINVAL)
        task.kernel.expando.get(Tunables).values[name] = value

    return text(read, store)


def _set_hostname(task: Task, content: bytes) -> None:
    if not task.credentials.has_capability(CAP_SYS_ADMIN):
        raise Errno(EPERM)
    task.uts.nodename = content.split(b"\n", 1)[0][:64]


def _set_domainname(task: Task, content: bytes) -> None:
    if not task.credentials.has_capability(CAP_SYS_ADMIN):
        raise Errno(EPERM)
    task.uts.domainname = content.split(b"\n", 1)[0][:64]


def _set_pid_max(task: Task, content: bytes) -> None:
    if not task.credentials.has_capability(CAP_SYS_ADMIN):
        raise Errno(EPERM)
    try:
        value = int(content)
    except ValueError:
        raise Errno(EINVAL) from None
    if not 301 <= value <= 4194304:
        raise Errno(EINVAL)
    task.kernel.pids.pid_max = value


def sys_directory(fs: FileSystem) -> FsNode:
    """The node of /proc/sys."""
    from polynix.kernelproc.fs.proc.root import RELEASE, VERSION

    kernel = {
        b"acct": constant(b"4\t2\t30\n"),
        b"cap_last_cap": constant(b"40\n"),
        b"core_pattern": constant(b"core\n"),
        b"core_uses_pid": tunable("kernel.core_uses_pid", 0),
        b"domainname": text(lambda task: task.uts.domainname + b"\n", _set_domainname),
        b"hostname": text(lambda task: task.uts.nodename + b"\n", _set_hostname),
        b"io_uring_disabled": constant(b"2\n"),
        b"msgmax": tunable("kernel.msgmax", 8192),
        b"ngroups_max": constant(b"65536\n"),
        b"osrelease": constant(RELEASE + b"\n"),
        b"ostype": constant(b"Linux\n"),
        b"overflowgid": tunable("kernel.overflowgid", 65534),
        b"overflowuid": tunable("kernel.overflowuid", 65534),
        b"panic": tunable("kernel.panic", 0),
        b"perf_event_paranoid": tunable("kernel.perf_event_paranoid", 4),
        b"pid_max": text(lambda task: b"%d\n" % task.kernel.pids.pid_max, _set_pid_max),
        b"printk": constant(b"4\t4\t1\t7\n"),
        b"random": directory(
            {
                b"boot_id": constant(_boot_id + b"\n"),
                b"entropy_avail": constant(b"256\n"),
                b"poolsize": constant(b"256\n"),
                b"uuid": text(lambda _task: str(uuid.uuid4()).encode() + b"\n"),
            }
        ),
        b"randomize_va_space": constant(b"0\n"),
        b"sched_child_runs_first": tunable("kernel.sched_child_runs_first", 0),
        b"sem": constant(b"32000\t1024000000\t500\t32000\n"),
        b"shmall": tunable("kernel.shmall", 18446744073692774399, 0, 1 << 64),
        b"shmmax": tunable("kernel.shmmax", 18446744073692774399, 0, 1 << 64),
        b"shmmni": tunable("kernel.shmmni", 4096),
        b"tainted": constant(b"0\n"),
        b"threads-max": tunable("kernel.threads-max", 127000),
        b"version": constant(VERSION + b"\n"),
        b"yama": directory({b"ptrace_scope": tunable("kernel.yama.ptrace_scope", 0, 0, 3)}),
    }
    virtual_memory = {
        b"admin_reserve_kbytes": constant(b"8192\n"),
        b"drop_caches": tunable("vm.drop_caches", 0),
        b"max_map_count": constant(b"65530\n"),
        b"mmap_min_addr": constant(b"65536\n"),
        b"nr_hugepages": tunable("vm.nr_hugepages", 0),
        b"overcommit_kbytes": tunable("vm.overcommit_kbytes", 0),
        b"overcommit_memory": tunable("vm.overcommit_memory", 1, 0, 2),
        b"overcommit_ratio": tunable("vm.overcommit_ratio", 50),
        b"swappiness": tunable("vm.swappiness", 60, 0, 200),
    }
    filesystems = {
        b"aio-max-nr": constant(b"65536\n"),
        b"file-max": tunable("fs.file-max", 9223372036854775807),
        b"file-nr": text(
            lambda task: b"%d\t0\t9223372036854775807\n" % sum(len(each.files.files) for each in task.kernel.pids.tasks.values() if not each.exited)
        ),
        b"inotify": directory(
            {b"max_user_watches": constant(b"65536\n"), b"max_user_instances": constant(b"128\n"), b"max_queued_events": constant(b"16384\n")}
        ),
        b"mount-max": constant(b"100000\n"),
        b"nr_open": tunable("fs.nr_open", 1048576),
        b"pipe-max-size": tunable("fs.pipe-max-size", 1048576),
        b"pipe-user-pages-soft": constant(b"16384\n"),
        b"protected_hardlinks": tunable("fs.protected_hardlinks", 0),
        b"protected_symlinks": tunable("fs.protected_symlinks", 0),
        b"protected_fifos": tunable("fs.protected_fifos", 0),
        b"protected_regular": tunable("fs.protected_regular", 0),
        b"suid_dumpable": tunable("fs.suid_dumpable", 0),
    }
    network = {
        b"core": directory({b"somaxconn": tunable("net.core.somaxconn", 4096), b"rmem_max": constant(b"212992\n"), b"wmem_max": constant(b"212992\n")}),
        b"unix": directory({b"max_dgram_qlen": constant(b"512\n")}),
        b"ipv4": directory({b"ip_local_port_range": constant(b"32768\t60999\n"), b"tcp_fin_timeout": constant(b"60\n")}),
    }
    make = directory(
        {
            b"kernel": directory(kernel),
            b"vm": directory(virtual_memory),
            b"fs": directory(filesystems),
            b"net": directory(network),
            b"debug": directory({}),
            b"dev": directory({}),
        }
    )
    return make(fs)
