"""memfd_create(2): a file of tmpfs that no directory names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.tmpfs import new_memfd_node
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Flags
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.errno import EINVAL, ENOSYS
from polynix.kernelproc.uapi.fcntl import F_SEAL_SEAL, O_LARGEFILE, O_RDWR
from polynix.kernelproc.uapi.limits import NAME_MAX
from polynix.kernelproc.uapi.mman import MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_HUGE_MASK, MFD_HUGE_SHIFT, MFD_HUGETLB
from polynix.kernelproc.vfs.file_object import FileObject

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

LONGEST_NAME: Final = NAME_MAX - len("memfd:")  # what is left of a name after the prefix that Linux gives it


@syscall()
def memfd_create(task: Task, name: UserAddress, flags: Flags) -> int:
    """man 2 memfd_create."""
    known = MFD_CLOEXEC | MFD_ALLOW_SEALING
    if flags & MFD_HUGETLB:
        known |= MFD_HUGETLB | MFD_HUGE_MASK << MFD_HUGE_SHIFT
    if flags & ~known:
        raise Errno(EINVAL)
    label = task.user.read_cstring(name, LONGEST_NAME + 1)
    if label is None:
        raise Errno(EINVAL)
    if flags & MFD_HUGETLB:
        track_stub("memfd_create: MFD_HUGETLB", flags)
        raise Errno(ENOSYS)
    place = new_memfd_node(task.kernel, label, 0 if flags & MFD_ALLOW_SEALING else F_SEAL_SEAL)
    node = place.node
    file = FileObject(node.ops.create_file_ops(node, task, O_RDWR), node, O_RDWR | O_LARGEFILE, place)
    node.writers -= 1  # the first description doesn't count as a writer: fexecve of a memfd works (fs/file_table.c, alloc_file_pseudo)
    return task.files.install(file, bool(flags & MFD_CLOEXEC))
