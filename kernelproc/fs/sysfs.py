"""sysfs, its much-read part (man 5 sysfs): CPUs, NUMA nodes, kernel facts, power management."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from polynix.kernelproc.fs.proc.task_status import ranges
from polynix.kernelproc.fs.pseudo import Directory, constant, directory, text
from polynix.kernelproc.fs.sysfs_power import debug_directory, power_directory, wakeup_reasons
from polynix.kernelproc.uapi.magic import SYSFS_MAGIC
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.ops import FileSystemOps

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task


class SysFileSystem(FileSystemOps):
    """sysfs."""

    name = b"sysfs"
    magic = SYSFS_MAGIC


def _host(path: str) -> bytes:
    """A fact of the host's CPUs, which are the guests' CPUs."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _cpu_directory(index: int) -> dict[bytes, object]:
    base = f"/sys/devices/system/cpu/cpu{index}/topology"
    topology = {
        name: constant(content)
        for name in (b"core_id", b"physical_package_id", b"thread_siblings", b"thread_siblings_list", b"core_siblings", b"core_siblings_list")
        if (content := _host(f"{base}/{name.decode()}"))
    }
    return {b"online": constant(b"1\n"), b"topology": directory(topology)}


def new_sysfs(kernel: Kernel, task: Task | None = None, source: bytes = b"sysfs", flags: int = 0, data: bytes = b"") -> FileSystem:
    """A sysfs, for the registry."""
    cpus = sorted(kernel.cpus)
    online = ranges(cpus).encode() + b"\n"
    mask = b"%x\n" % sum(1 << cpu for cpu in cpus)
    cpu = {
        b"online": constant(online),
        b"possible": constant(online),
        b"present": constant(online),
        b"offline": constant(b"\n"),
        b"isolated": constant(b"\n"),
        b"kernel_max": constant(b"8191\n"),
        **{b"cpu%d" % index: directory(_cpu_directory(index)) for index in cpus},  # type: ignore[arg-type]
    }

    def node_meminfo(task: Task) -> bytes:
        from polynix.kernelproc.fs.proc.root import meminfo

        return b"".join(b"Node 0 " + line + b"\n" for line in meminfo(task).splitlines()[:2])

    node = {
        b"online": constant(b"0\n"),
        b"possible": constant(b"0\n"),
        b"has_cpu": constant(b"0\n"),
        b"has_memory": constant(b"0\n"),
        b"has_normal_memory": constant(b"0\n"),
        b"node0": directory({b"cpulist": constant(online), b"cpumap": constant(mask), b"distance": constant(b"10\n"), b"meminfo": text(node_meminfo)}),
    }
    root = {
        b"block": directory({}),
        b"bus": directory({}),
        b"class": directory({b"net": directory({}), b"tty": directory({}), b"block": directory({})}),
        b"dev": directory({b"block": directory({}), b"char": directory({})}),
        b"devices": directory({b"system": directory({b"cpu": directory(cpu), b"node": directory(node)}), b"virtual": directory({})}),
        b"firmware": directory({}),
        b"fs": directory({b"cgroup": directory({})}),
        b"hypervisor": directory({}),
        b"kernel": directory(
            {
                b"mm": directory(
                    {b"transparent_hugepage": directory({b"enabled": constant(b"always madvise [never]\n"), b"hpage_pmd_size": constant(b"2097152\n")})}
                ),
                b"debug": directory(debug_directory(kernel), mode=0o700),
                b"security": directory({}),
                b"wakeup_reasons": directory(wakeup_reasons()),
                b"notes": constant(b""),
            }
        ),
        b"module": directory({}),
        b"power": directory(power_directory()),
    }
    fs = FileSystem(SysFileSystem(), source)
    fs.root = FsNode(fs, fs.new_ino(), stat.S_IFDIR | 0o555, Directory(root), nlink=len(root) + 2)
    return fs
