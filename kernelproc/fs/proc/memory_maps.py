"""/proc/PID/maps, smaps, smaps_rollup: the VMAs as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace.paged_memory import PagedMemory
from polynix.addrspace.vma import Vma, VmaKind
from polynix.kernelproc.task.cpu_time import thread_cpu_time
from polynix.kernelproc.vfs.file_object import FileObject

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task


def cpu_time(task: Task) -> tuple[int, int]:
    """(user, system) ns of a thread."""
    return thread_cpu_time(task)


def _line(task: Task, vma: Vma) -> bytes:
    prot = b"".join(letter if vma.prot & bit else b"-" for letter, bit in ((b"r", 1), (b"w", 2), (b"x", 4)))
    dev = ino = 0
    name = vma.name
    if isinstance(vma.file, FileObject):
        dev, ino = vma.file.node.fs.dev, vma.file.node.ino
        if vma.file.name is not None:
            name = vma.file.name.path(task.fs)
    head = b"%x-%x %s%s %08x %02x:%02x %d" % (
        vma.start,
        vma.end,
        prot,
        b"p" if vma.private else b"s",
        vma.file_offset,
        dev >> 8 & 0xFFF,
        (dev & 0xFF) | (dev >> 12 & ~0xFF),
        ino,
    )
    return head.ljust(72) + b" " + name if name else head + b" "


def maps(task: Task) -> bytes:
    """/proc/PID/maps"""
    return b"".join(_line(task, vma) + b"\n" for vma in list(task.mm.vmas))


def resident(vma: Vma) -> int:
    """Bytes of a VMA that hold pages. Pages of host files count as present: they are the host's page cache."""
    if vma.kind is VmaKind.FILE and not isinstance(vma.object, PagedMemory):
        return vma.length
    return sum(end - start for start, end in vma.object.data_ranges(vma.offset, vma.length))


def _measure(vma: Vma) -> dict[str, int]:
    rss = resident(vma) // 1024
    private = rss if vma.private and vma.kind is not VmaKind.FILE else 0
    return {
        "Size": vma.length // 1024,
        "KernelPageSize": 4,
        "MMUPageSize": 4,
        "Rss": rss,
        "Pss": rss,
        "Shared_Clean": rss - private if vma.kind is VmaKind.FILE else 0,
        "Shared_Dirty": rss - private if vma.kind is VmaKind.SHARED else 0,
        "Private_Clean": 0,
        "Private_Dirty": private,
        "Referenced": rss,
        "Anonymous": private,
        "Swap": 0,
        "Locked": rss if vma.locked else 0,
    }


def smaps(task: Task) -> bytes:
    """/proc/PID/smaps"""
    parts = []
    for vma in list(task.mm.vmas):
        parts.append(_line(task, vma) + b"\n")
        parts += [f"{name + ':':<16}{value:>8} kB\n".encode() for name, value in _measure(vma).items()]
        flags = [
            flag for flag, holds in (("rd", vma.prot & 1), ("wr", vma.prot & 2), ("ex", vma.prot & 4), ("sh", not vma.private), ("gd", vma.grows_down)) if holds
        ]
        parts.append(f"VmFlags: {' '.join(flags)} \n".encode())
    return b"".join(parts)


def smaps_rollup(task: Task) -> bytes:
    """/proc/PID/smaps_rollup"""
    vmas = list(task.mm.vmas)
    if not vmas:
        return b""
    total: dict[str, int] = {}
    for vma in vmas:
        for name, value in _measure(vma).items():
            total[name] = total.get(name, 0) + value
    for name in ("Size", "KernelPageSize", "MMUPageSize"):
        del total[name]
    head = b"%x-%x ---p 00000000 00:00 0 " % (vmas[0].start, vmas[-1].end)
    return head.ljust(72) + b" [rollup]\n" + b"".join(f"{name + ':':<16}{value:>8} kB\n".encode() for name, value in total.items())
