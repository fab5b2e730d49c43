"""``fds``: the open descriptors of processes, and which of them are one description."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polynix.kernelproc.inspector import requests
from polynix.kernelproc.inspector.tasks import chosen_groups
from polynix.kernelproc.inspector.waiting import file_label
from polynix.kernelproc.uapi.fcntl import O_APPEND, O_NONBLOCK, O_PATH

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel


@requests.handler("fds")
def fds(kernel: Kernel, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a descriptor; equal ``file`` numbers are one open file description. ``pid`` of the arguments chooses one process."""
    rows = []
    for group in chosen_groups(kernel, arguments):
        task = next(iter(group.tasks.values()), None)
        if task is None:
            continue
        table = task.files
        for fd in table.fds():
            file = table.files[fd]
            mode = ("r" if file.readable else "") + ("w" if file.writable else "") or ("path" if file.flags & O_PATH else "-")
            flags = (("append", file.flags & O_APPEND), ("nonblock", file.flags & O_NONBLOCK), ("cloexec", table.cloexec(fd)))
            rows.append(
                {
                    "pid": group.pid,
                    "comm": task.comm.decode(errors="replace"),
                    "fd": fd,
                    "file": file.id,
                    "mode": mode,
                    "flags": [word for word, holds in flags if holds],
                    "offset": file.offset,
                    "references": file.references,
                    "name": file_label(task, file),
                }
            )
    return rows
