"""A guest touched a chunk of paged memory that is not there yet: ask for it while others go on, and let the guest try again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace.paged_memory import PagedMemory
from polynix.kernelproc.signals.send import force_signal
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.uapi.signal import BUS_ADRERR, SIGBUS

READ_AHEAD = 512 << 10  # bytes that are asked for when the chunk before was there: somebody reads on and on

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task


async def page_in(task: Task, address: int) -> None:
    """Mend a fault at ``address``: the chunk comes, or SIGBUS does, beyond the end of the file and when it can't be read."""
    vma = task.mm.absent_at(address)
    if vma is None:
        return
    memory = vma.object
    assert isinstance(memory, PagedMemory)
    offset = vma.offset + address - vma.start
    if offset < memory.end:
        try:
            ahead = READ_AHEAD if memory.is_present(max(0, offset - memory.chunk_size)) else 1
            await memory.require_later(offset, min(offset + ahead, vma.offset + vma.length))
        except OSError:
            pass  # and so it is absent still
    if task.exited:
        return
    vma = task.mm.find(address)  # it may be another one by now; then the guest finds out by itself
    if vma is None or vma.object is not memory:
        return
    if memory.is_present(vma.offset + address - vma.start):
        task.mm.map_again(vma, address)
    else:
        force_signal(task, SigInfo(SIGBUS, BUS_ADRERR, addr=address))
