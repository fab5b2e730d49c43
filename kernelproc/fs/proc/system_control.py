"""/proc/sys: the kernel's tunables (sysctl), as far as programs read or set them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.pseudo import constant, directory, text
from polynix.kernelproc.task.aio import AioContexts
from polynix.kernelproc.tunables import Tunables
from polynix.kernelproc.uapi.errno import EINVAL, EPERM
from polynix.kernelproc.uapi.ipc import SEMMNI, SEMMNS, SEMMSL, SEMOPM

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_system import FileSystem
    from polynix.kernelproc.vfs.fs_node import FsNode

CAP_SYS_ADMIN = 21
_boot_id = str(uuid.uuid4()).encode()


def tunable(name: str) -> Callable[[FileSystem], FsNode]:
    """A whole number that a privileged guest can set."""

    def read(task: Task) -> bytes:
        return b"%d\n" % task.kernel.expando.get(Tunables).get(name)

    def store(task: Task, content: bytes) -> None:
        if not task.credentials.has_capability(CAP_SYS_ADMIN):
            raise Errno(EPERM)
        try:
            task.kernel.expando.get(Tunables).set(name, int(content.strip(b" \n\0")))
        except ValueError:
            raise Errno(EINVAL) from None

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
        b"core_uses_pid": tunable("kernel.core_uses_pid"),
        b"domainname": text(lambda task: task.uts.domainname + b"\n", _set_domainname),
        b"hostname": text(lambda task: task.uts.nodename + b"\n", _set_hostname),
        b"io_uring_disabled": constant(b"2\n"),
        b"msgmax": tunable("kernel.msgmax"),
        b"msgmnb": tunable("kernel.msgmnb"),
        b"msgmni": tunable("kernel.msgmni"),
        b"ngroups_max": constant(b"65536\n"),
        b"osrelease": constant(RELEASE + b"\n"),
        b"ostype": constant(b"Linux\n"),
        b"overflowgid": tunable("kernel.overflowgid"),
        b"overflowuid": tunable("kernel.overflowuid"),
        b"panic": tunable("kernel.panic"),
        b"perf_event_paranoid": tunable("kernel.perf_event_paranoid"),
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
        b"sched_child_runs_first": tunable("kernel.sched_child_runs_first"),
        b"sem": constant(b"%d\t%d\t%d\t%d\n" % (SEMMSL, SEMMNS, SEMOPM, SEMMNI)),
        b"shmall": tunable("kernel.shmall"),
        b"shmmax": tunable("kernel.shmmax"),
        b"shmmni": tunable("kernel.shmmni"),
        b"tainted": constant(b"0\n"),
        b"threads-max": tunable("kernel.threads-max"),
        b"version": constant(VERSION + b"\n"),
        b"yama": directory({b"ptrace_scope": tunable("kernel.yama.ptrace_scope")}),
    }
    virtual_memory = {
        b"admin_reserve_kbytes": constant(b"8192\n"),
        b"drop_caches": tunable("vm.drop_caches"),
        b"max_map_count": constant(b"65530\n"),
        b"mmap_min_addr": constant(b"65536\n"),
        b"nr_hugepages": tunable("vm.nr_hugepages"),
        b"overcommit_kbytes": tunable("vm.overcommit_kbytes"),
        b"overcommit_memory": tunable("vm.overcommit_memory"),
        b"overcommit_ratio": tunable("vm.overcommit_ratio"),
        b"swappiness": tunable("vm.swappiness"),
    }
    filesystems = {
        b"aio-max-nr": tunable("fs.aio-max-nr"),
        b"aio-nr": text(lambda task: b"%d\n" % task.kernel.expando.get(AioContexts).asked),
        b"file-max": tunable("fs.file-max"),
        b"file-nr": text(
            lambda task: b"%d\t0\t9223372036854775807\n" % sum(len(each.files.files) for each in task.kernel.pids.tasks.values() if not each.exited)
        ),
        b"inotify": directory(
            {b"max_user_watches": constant(b"65536\n"), b"max_user_instances": constant(b"128\n"), b"max_queued_events": constant(b"16384\n")}
        ),
        b"mount-max": constant(b"100000\n"),
        b"mqueue": directory(
            {name.encode(): tunable(f"fs.mqueue.{name}") for name in ("msg_default", "msg_max", "msgsize_default", "msgsize_max", "queues_max")}
        ),
        b"nr_open": tunable("fs.nr_open"),
        b"pipe-max-size": tunable("fs.pipe-max-size"),
        b"pipe-user-pages-soft": constant(b"16384\n"),
        b"protected_hardlinks": tunable("fs.protected_hardlinks"),
        b"protected_symlinks": tunable("fs.protected_symlinks"),
        b"protected_fifos": tunable("fs.protected_fifos"),
        b"protected_regular": tunable("fs.protected_regular"),
        b"suid_dumpable": tunable("fs.suid_dumpable"),
    }
    network = {
        b"core": directory({b"somaxconn": tunable("net.core.somaxconn"), b"rmem_max": constant(b"212992\n"), b"wmem_max": constant(b"212992\n")}),
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
