"""Which program text gets patched, and how what is patched stays out of the guest's sight.

Of the system calls that trap, every ``SAMPLE_PERIOD``-th of a process is looked at: a process that traps so often has hot call sites, and the sample says
where. The text that it came from is patched (:mod:`polynix.addrspace.text_store`) for this process, and for every one that maps the same file from then on.
Only files of the tree below the overlay, whose content does not change under the copy, and only what everyone may read, since every restricted process could
read the copy.

What a patched call can't do, a trap does as before: other call sites, guests that have set GS base for themselves, text that lies where trampolines have no
place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace.text_store import TextStore
from polynix.addrspace.vma import VmaKind
from polynix.kernelproc.uapi.mman import PROT_EXEC
from polynix.kernelproc.uapi.unistd import SYSCALLS

if TYPE_CHECKING:
    from polynix.addrspace._restricted import Slot
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

SAMPLE_PERIOD = 64
READABLE_BY_ALL = 0o004
# These replace the registers, copy them for a new task, or never come back: nothing is won, and debuggers know rt_sigreturn by its bytes.
NEVER = ("rt_sigreturn", "restart_syscall", "clone", "clone3", "fork", "vfork", "execve", "execveat", "exit", "exit_group")


def enable_patching(kernel: Kernel) -> None:
    """Let the container's address spaces use patched text, where the host's CPU can."""
    if kernel.monitor.can_patch:
        kernel.stubs.texts = TextStore(set(SYSCALLS.values()) - {SYSCALLS[name] for name in NEVER})
        kernel.monitor.sample_period = SAMPLE_PERIOD


def consider_patching(task: Task, slot: Slot) -> None:
    """A sampled call of ``task`` trapped: patch the text that it came from, if that may be and has not been done."""
    mm = task.mm
    vma = mm.find(slot.ip - 1)
    if vma is None or vma.kind is not VmaKind.FILE or not vma.prot & PROT_EXEC or mm.texts is None or vma.file is None:
        return
    node = vma.file.node  # type: ignore[attr-defined]  # an open file description, seen from here
    if node.mode & READABLE_BY_ALL and node.ops.is_immutable(node):
        displacement = mm.displacement_of(vma.start)
        try:
            text = mm.texts.add(vma.object, vma.offset, vma.length, displacement) if displacement else None
        except OSError:  # the file can't be read now
            return
        if text is not None:
            mm.patch(vma, text)


def leave_trampoline(task: Task, slot: Slot) -> None:
    """A thread that was met in a trampoline is moved back to its call site, before the guest can see where it was."""
    place = task.mm.place_outside_trampolines(slot.ip)
    if place is not None:
        slot.ip = place
