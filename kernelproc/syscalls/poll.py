"""poll, ppoll, select, pselect6."""

from __future__ import annotations

import functools
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import Fault, UserAddress
from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, Errno
from polynix.kernelproc.signals.send import set_temporary_mask
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.timeouts import NANOSECONDS, deadline_after, import_timespec, import_timeval, time_left
from polynix.kernelproc.syscalls.types import Int, Size, UInt
from polynix.kernelproc.uapi.errno import EBADF, EINTR, EINVAL
from polynix.kernelproc.uapi.fcntl import O_PATH
from polynix.kernelproc.uapi.poll import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    POLLOUT,
    POLLPRI,
    POLLRDBAND,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
)
from polynix.kernelproc.uapi.resource import RLIMIT_NOFILE
from polynix.kernelproc.uapi.structs import timespec, timeval
from polynix.kernelproc.wait_queue import wait

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.ops import Result

ALWAYS = POLLERR | POLLHUP | POLLNVAL
READ_SET = POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR
WRITE_SET = POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR
EXCEPT_SET = POLLPRI

_POLLFD = struct.Struct("<iHH")
SIGSET_SIZE = 8

# A descriptor as poll sees it: its description (None: not open, or a negative number) and the events wanted.
Wanted = tuple["FileObject | None", int]


async def wait_for_any(wanted: list[Wanted], scan: Callable[[], int], deadline_ns: int | None) -> int:
    """Wait until ``scan`` finds something; its result, 0 at the deadline. Descriptions stay open meanwhile."""
    files = [file.retain() for file, _ in wanted if file is not None]
    try:
        queues = []
        for file, events in wanted:
            queue = file.ops.wait_queue(file) if file is not None else None
            if queue is not None:
                queues.append((queue, events | ALWAYS))
        while await wait(queues, deadline_ns):
            found = scan()
            if found:
                return found
        return scan()
    finally:
        for file in files:
            file.release()


# -- poll ------------------------------------------------------------------------------------------------------------------


@syscall()
def poll(task: Task, fds: UserAddress, nfds: UInt, timeout: Int) -> Result:
    """man 2 poll; ``timeout`` in milliseconds, negative for ever."""
    deadline = deadline_after(task, timeout * 1_000_000 if timeout >= 0 else None)
    result = _poll(task, fds, nfds, deadline)
    return result if type(result) is int else _restartable_poll(task, fds, nfds, deadline, result)


async def _restartable_poll(task: Task, fds: UserAddress, nfds: int, deadline: int | None, result: Result) -> int:
    try:
        return result if isinstance(result, int) else await result
    except Interrupted:
        task.restart = functools.partial(_restart_poll, task, fds, nfds, deadline)
        raise Errno(ERESTART_RESTARTBLOCK) from None


async def _restart_poll(task: Task, fds: UserAddress, nfds: int, deadline: int | None) -> int:
    return await _restartable_poll(task, fds, nfds, deadline, _poll(task, fds, nfds, deadline))


@syscall()
def ppoll(task: Task, fds: UserAddress, nfds: UInt, timeout: UserAddress, sigmask: UserAddress, sigsetsize: Size) -> Result:
    """man 2 ppoll; what is left of the timeout is stored back."""
    deadline = deadline_after(task, import_timespec(task, timeout))
    import_sigmask(task, sigmask, sigsetsize)
    return _finish(task, _poll(task, fds, nfds, deadline), deadline, timeout, _export_timespec)


def _poll(task: Task, fds: UserAddress, nfds: int, deadline: int | None) -> Result:
    if nfds > task.group.limits.soft(RLIMIT_NOFILE):
        return -EINVAL
    entries = list(_POLLFD.iter_unpack(task.copy_in(fds, nfds * _POLLFD.size))) if nfds else []
    files = task.files.files
    wanted: list[Wanted] = []
    for fd, events, _ in entries:
        file = files.get(fd) if fd >= 0 else None
        wanted.append((file if file is None or not file.flags & O_PATH else None, events))
    revents = [0] * nfds

    def scan() -> int:
        found = 0
        for index, (file, events) in enumerate(wanted):
            if file is not None:
                mask = file.ops.query_events(file) & (events | ALWAYS)
            else:
                mask = POLLNVAL if entries[index][0] >= 0 else 0
            revents[index] = mask
            if mask:
                found += 1
        return found

    def store() -> None:
        if nfds:
            task.copy_out(fds, b"".join([_POLLFD.pack(fd, events, revents[i]) for i, (fd, events, _) in enumerate(entries)]))

    found = scan()
    if found or deadline == 0:
        store()
        return found
    return _poll_on(wanted, scan, store, deadline)


async def _poll_on(wanted: list[Wanted], scan: Callable[[], int], store: Callable[[], None], deadline: int | None) -> int:
    found = await wait_for_any(wanted, scan, deadline)
    store()
    return found


# -- select ----------------------------------------------------------------------------------------------------------------


@syscall()
def select(task: Task, nfds: Int, readfds: UserAddress, writefds: UserAddress, exceptfds: UserAddress, timeout: UserAddress) -> Result:
    """man 2 select; what is left of the timeout is stored back."""
    deadline = deadline_after(task, import_timeval(task, timeout))
    return _finish(task, _select(task, nfds, (readfds, writefds, exceptfds), deadline), deadline, timeout, _export_timeval)


@syscall()
def pselect6(
    task: Task,
    nfds: Int,
    readfds: UserAddress,
    writefds: UserAddress,
    exceptfds: UserAddress,
    timeout: UserAddress,
    sigmask: UserAddress,
) -> Result:
    """man 2 select; the sixth argument points to the address and size of the signal mask."""
    address, size = struct.unpack("<QQ", task.copy_in(sigmask, 16)) if sigmask else (0, 0)
    deadline = deadline_after(task, import_timespec(task, timeout))
    import_sigmask(task, UserAddress(address), size)
    return _finish(task, _select(task, nfds, (readfds, writefds, exceptfds), deadline), deadline, timeout, _export_timespec)


def _select(task: Task, nfds: int, addresses: tuple[UserAddress, ...], deadline: int | None) -> Result:
    if nfds < 0:
        return -EINVAL
    files = task.files.files
    nfds = min(nfds, max(64, (max(files, default=0) + 64) & ~63))  # as far as Linux's descriptor table goes
    size = (nfds + 63) // 64 * 8
    limit = (1 << nfds) - 1
    sets = [int.from_bytes(task.copy_in(address, size), "little") & limit if address and size else 0 for address in addresses]
    reading, writing, excepting = sets
    wanted: list[Wanted] = []
    bits: list[int] = []
    union = reading | writing | excepting
    while union:
        bit = union & -union
        union ^= bit
        file = files.get(bit.bit_length() - 1)
        if file is None or file.flags & O_PATH:
            return -EBADF
        events = (READ_SET if reading & bit else 0) | (WRITE_SET if writing & bit else 0) | (EXCEPT_SET if excepting & bit else 0)
        wanted.append((file, events))
        bits.append(bit)
    results = [0, 0, 0]

    def scan() -> int:
        found_read = found_write = found_except = count = 0
        for bit, (file, _) in zip(bits, wanted, strict=True):
            assert file is not None
            mask = file.ops.query_events(file)
            if mask & READ_SET and reading & bit:
                found_read |= bit
                count += 1
            if mask & WRITE_SET and writing & bit:
                found_write |= bit
                count += 1
            if mask & EXCEPT_SET and excepting & bit:
                found_except |= bit
                count += 1
        results[:] = found_read, found_write, found_except
        return count

    def store() -> None:
        for address, result in zip(addresses, results, strict=True):
            if address and size:
                task.copy_out(address, result.to_bytes(size, "little"))

    found = scan()
    if found or deadline == 0:
        store()
        return found
    return _poll_on(wanted, scan, store, deadline)


# -- what they share -------------------------------------------------------------------------------------------------------


def import_sigmask(task: Task, address: UserAddress, size: int) -> None:
    """Block the signals of the set at ``address`` until the call ends; nothing for a null pointer. Errors: EINVAL, EFAULT."""
    if address:
        if size != SIGSET_SIZE:
            raise Errno(EINVAL)
        set_temporary_mask(task, int.from_bytes(task.copy_in(address, SIGSET_SIZE), "little"))


def _export_timespec(task: Task, address: UserAddress, left: int) -> None:
    task.copy_out(address, timespec.FORMAT.pack(left // NANOSECONDS, left % NANOSECONDS))


def _export_timeval(task: Task, address: UserAddress, left: int) -> None:
    task.copy_out(address, timeval.FORMAT.pack(left // NANOSECONDS, left % NANOSECONDS // 1000))


def _finish(task: Task, result: Result, deadline: int | None, timeout: UserAddress, export: Callable[[Task, UserAddress, int], None]) -> Result:
    if type(result) is not int:
        return _finish_later(task, result, deadline, timeout, export)  # type: ignore[arg-type]
    if result >= 0:
        _store_left(task, deadline, timeout, export)
    return result


async def _finish_later(
    task: Task,
    result: Awaitable[int],
    deadline: int | None,
    timeout: UserAddress,
    export: Callable[[Task, UserAddress, int], None],
) -> int:
    try:
        value = await result
    except Interrupted:
        # A restart goes on with the time that is left, so it needs that stored.
        raise Errno(ERESTARTNOHAND if _store_left(task, deadline, timeout, export) else EINTR) from None
    _store_left(task, deadline, timeout, export)
    return value


def _store_left(task: Task, deadline: int | None, timeout: UserAddress, export: Callable[[Task, UserAddress, int], None]) -> bool:
    if deadline:
        try:
            export(task, timeout, time_left(task, deadline))
        except (Errno, Fault):
            return False  # a timeout in read-only memory is no error
    return True
