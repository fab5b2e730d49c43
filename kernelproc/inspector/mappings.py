"""``maps``: the mappings of processes as the kernel sees them, with what backs each, so that the host's view can be held against it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from polynix.addrspace._restricted import GUEST_LIMIT
from polynix.addrspace.vma import Vma
from polynix.kernelproc.fs.proc.memory_maps import resident
from polynix.kernelproc.inspector import requests
from polynix.kernelproc.inspector.tasks import chosen_groups
from polynix.kernelproc.inspector.waiting import file_label
from polynix.kernelproc.vfs.file_object import FileObject

if TYPE_CHECKING:
    from polynix.addrspace.text_store import PatchedText
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task


def describe_vma(task: Task, vma: Vma) -> dict[str, Any]:
    """One mapping. ``device``, ``inode`` and ``offset`` are the host's, of the object that holds the pages; sizes are bytes."""
    name = file_label(task, vma.file) if isinstance(vma.file, FileObject) else vma.name.decode(errors="replace")
    status = os.fstat(vma.object.fd)
    return {
        "start": vma.start,
        "end": vma.end,
        "protection": "".join(letter if vma.prot & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4))),
        "kind": vma.kind.name.lower(),
        "name": name,
        "file_offset": vma.file_offset,
        "resident": resident(vma),
        "device": status.st_dev,
        "inode": status.st_ino,
        "offset": vma.offset,
    }


def describe_trampolines(place: int, text: PatchedText) -> dict[str, Any]:
    """Trampolines of patched text: the guest's mappings do not show them, the restricted process has them."""
    status = os.fstat(text.object.fd)
    return {
        "start": place,
        "end": place + text.trampolines_length,
        "protection": "r-x",
        "kind": "stub",
        "device": status.st_dev,
        "inode": status.st_ino,
        "offset": text.length,
    }


@requests.handler("maps")
def maps(kernel: Kernel, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Address spaces, each with the processes that live in it: ``pid`` of the arguments chooses one process."""
    spaces: dict[int, dict[str, Any]] = {}
    for group in chosen_groups(kernel, arguments):
        task = next(iter(group.tasks.values()), None)
        if task is None or task.mm.dead or not task.mm.users:
            continue
        mm = task.mm
        space = spaces.get(id(mm))
        if space is None:
            space = spaces[id(mm)] = {
                "pids": [],
                "comm": task.comm.decode(errors="replace"),
                "host_pid": mm.stub.pid,
                "guest_limit": GUEST_LIMIT,  # from here on a restricted process has mappings of polynix's own
                "copied_bytes": mm.copied_bytes,
                "region_resident": mm.resident_bytes(),
                "mappings": [describe_vma(task, vma) for vma in list(mm.vmas)],
                "trampolines": [describe_trampolines(place, text) for place, text in mm.trampolines.items()],
            }
        space["pids"].append(group.pid)
    return list(spaces.values())
