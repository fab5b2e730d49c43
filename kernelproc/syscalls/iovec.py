"""Arrays of ``struct iovec`` from guest memory, as readv, writev, sendmsg, vmsplice and process_vm_readv take them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EFAULT, EINVAL
from polynix.kernelproc.uapi.limits import IOV_MAX, SSIZE_MAX

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

MAX_RW_COUNT: Final = 0x7FFFF000  # INT_MAX rounded down to a page: what one call transfers at most (man 2 read)
TASK_SIZE_MAX: Final = (1 << 47) - 4096  # no user address lies above: access_ok, which comes before a file's own answer


def copy_iovec(task: Task, address: UserAddress, count: int) -> list[tuple[UserAddress, int]]:
    """The (base, length) pairs of ``count`` iovecs, wherever they point: of another process, say. Errors: EINVAL (count, negative length), EFAULT."""
    if count > IOV_MAX:
        raise Errno(EINVAL)
    words = struct.unpack(f"<{2 * count}Q", task.copy_in(address, 16 * count)) if count else ()
    if any(length > SSIZE_MAX for length in words[1::2]):
        raise Errno(EINVAL)
    return [(UserAddress(words[index]), words[index + 1]) for index in range(0, 2 * count, 2)]


def import_iovec(task: Task, address: UserAddress, count: int) -> list[tuple[UserAddress, int]]:
    """The (base, length) pairs of ``count`` iovecs, the total cut at MAX_RW_COUNT. Errors: EINVAL (count, negative length), EFAULT."""
    if count > IOV_MAX:
        raise Errno(EINVAL)
    if count == 0:
        return []
    words = struct.unpack(f"<{2 * count}Q", task.copy_in(address, 16 * count))
    iov = []
    room = MAX_RW_COUNT
    for index in range(0, 2 * count, 2):
        length = words[index + 1]
        if length > SSIZE_MAX:
            raise Errno(EINVAL)
        if words[index] + length > TASK_SIZE_MAX:
            raise Errno(EFAULT)
        if length > room:
            length = room
        room -= length
        iov.append((UserAddress(words[index]), length))
    return iov
