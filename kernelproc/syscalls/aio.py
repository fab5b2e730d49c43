"""io_setup, io_destroy, io_submit, io_cancel, io_getevents, io_pgetevents (man 2 io_submit)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import Fault, UserAddress
from polynix.addrspace.addresses import PROT_READ, PROT_WRITE
from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import ERESTARTNOHAND, Errno
from polynix.kernelproc.syscalls.file import UNREADABLE, is_writable
from polynix.kernelproc.syscalls.iovec import MAX_RW_COUNT, import_iovec
from polynix.kernelproc.syscalls.poll import ALWAYS, import_sigmask
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.timeouts import deadline_after, import_timespec
from polynix.kernelproc.syscalls.types import Long, UInt, ULong
from polynix.kernelproc.syscalls.vector_io import read_with_flags, write_with_flags
from polynix.kernelproc.task.aio import AioContext, AioContexts, Request
from polynix.kernelproc.tunables import Tunables
from polynix.kernelproc.uapi.aio import (
    IOCB_CMD_FDSYNC,
    IOCB_CMD_FSYNC,
    IOCB_CMD_POLL,
    IOCB_CMD_PREAD,
    IOCB_CMD_PREADV,
    IOCB_CMD_PWRITE,
    IOCB_CMD_PWRITEV,
    IOCB_FLAG_IOPRIO,
    IOCB_FLAG_RESFD,
)
from polynix.kernelproc.uapi.errno import EAGAIN, EBADF, EFAULT, EINPROGRESS, EINTR, EINVAL
from polynix.kernelproc.uapi.structs import io_event, iocb
from polynix.kernelproc.vfs.buffers import UserInputBuffer, UserOutputBuffer
from polynix.kernelproc.vfs.eventfd import EventFdOps

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.ops import Result

_PAGE: Final = 4096
_KEY: Final = 8  # offset of aio_key, which the kernel sets
_MOST: Final = 0x10000000 // io_event.SIZE
_FSYNC: Final = (IOCB_CMD_FSYNC, IOCB_CMD_FDSYNC)


def _context(task: Task, identifier: int) -> AioContext:
    return task.kernel.expando.get(AioContexts).find(task.mm, identifier)


@syscall()
def io_setup(task: Task, count: UInt, identifier: UserAddress) -> int:
    """man 2 io_setup. The id is the address of a page, where Linux has a ring of events: libaio looks for its mark there, finds none, and asks us."""
    if task.user.load_u64(identifier) or not count or count > _MOST:
        raise Errno(EINVAL)
    contexts = task.kernel.expando.get(AioContexts)
    if contexts.asked + count > task.kernel.expando.get(Tunables).get("fs.aio-max-nr"):
        raise Errno(EAGAIN)
    mm = task.mm
    page = mm.find_free(_PAGE, 0)
    mm.map_anonymous(page, _PAGE, PROT_READ | PROT_WRITE, name=b"/[aio] (deleted)")
    try:
        task.user.store_u64(identifier, page)
    except Fault:
        mm.unmap(page, page + _PAGE)
        raise
    contexts.add(mm, page, AioContext(count, 2 * max(count, 4 * len(task.kernel.cpus))))
    return 0


@syscall()
def io_destroy(task: Task, identifier: ULong) -> int:
    """man 2 io_destroy"""
    task.kernel.expando.get(AioContexts).remove(task.mm, identifier)
    task.mm.unmap(identifier, identifier + _PAGE)
    return 0


@syscall()
def io_submit(task: Task, identifier: ULong, count: Long, addresses: UserAddress) -> int:
    """man 2 io_submit: how many were taken; an error only if that is none."""
    if count < 0:
        raise Errno(EINVAL)
    context = _context(task, identifier)
    taken = 0
    try:
        while taken < min(count, context.most):
            _submit(task, context, UserAddress(task.user.load_u64(addresses + 8 * taken)))
            taken += 1
    except (Errno, Fault):
        if not taken:
            raise
    return taken


def _submit(task: Task, context: AioContext, address: UserAddress) -> None:
    """Begin one request. Errors: EFAULT, EINVAL, EBADF, EAGAIN: as of a request that was not taken."""
    raw = task.copy_in(address, iocb.SIZE)
    block = iocb.unpack(raw)
    if block.aio_reserved2 or block.aio_nbytes >= 1 << 63:
        raise Errno(EINVAL)
    context.check_room()
    file = task.files.get_io(block.aio_fildes)
    eventfd = None
    if block.aio_flags & IOCB_FLAG_RESFD:
        eventfd_file = task.files.get_io(block.aio_resfd)
        if not isinstance(eventfd_file.ops, EventFdOps):
            raise Errno(EINVAL)
        eventfd = eventfd_file, eventfd_file.ops
    task.user.store_u32(address + _KEY, 0)
    if block.aio_flags & ~(IOCB_FLAG_RESFD | IOCB_FLAG_IOPRIO):
        raise Errno(EINVAL)
    request = Request(address.ptr, block.aio_data, file, eventfd, cancellable=block.aio_lio_opcode == IOCB_CMD_POLL)
    try:
        result = _begin(task, file, block)
    except BaseException:
        request.release()
        raise
    if isinstance(result, int):
        context.finish(request, result)
    else:
        context.finish_later(request, result)  # type: ignore[arg-type]


def _begin(task: Task, file: FileObject, block: iocb) -> Result:
    """The operation of a request: its result, or what gives it. Errors: those of a request that was not taken."""
    operation = block.aio_lio_opcode
    if operation in _FSYNC:
        if block.aio_buf or block.aio_offset or block.aio_nbytes or block.aio_rw_flags:
            raise Errno(EINVAL)
        synced = file.ops.fsync(file, operation == IOCB_CMD_FDSYNC)
        if synced == -EINVAL:  # there is nothing that could be
            raise Errno(EINVAL)
        return synced
    if operation == IOCB_CMD_POLL:
        if block.aio_buf > 0xFFFF or block.aio_offset or block.aio_nbytes or block.aio_rw_flags or file.ops.wait_queue(file) is None:
            raise Errno(EINVAL)
        return _poll(file, block.aio_buf | ALWAYS)
    reads = operation in (IOCB_CMD_PREAD, IOCB_CMD_PREADV)
    if not reads and operation not in (IOCB_CMD_PWRITE, IOCB_CMD_PWRITEV):
        raise Errno(EINVAL)
    if bool(file.flags & UNREADABLE) if reads else not is_writable(file.flags):
        raise Errno(EBADF)
    if operation in (IOCB_CMD_PREADV, IOCB_CMD_PWRITEV):
        buffers = import_iovec(task, UserAddress(block.aio_buf), block.aio_nbytes)
    else:
        buffers = [(UserAddress(block.aio_buf), min(block.aio_nbytes, MAX_RW_COUNT))]
    if block.aio_offset < 0:
        raise Errno(EINVAL)
    offset = block.aio_offset if file.ops.seekable else -1
    try:
        if reads:
            return read_with_flags(file, UserOutputBuffer(task.user, buffers), offset, block.aio_rw_flags)
        return write_with_flags(task, file, UserInputBuffer(task.user, buffers), offset, block.aio_rw_flags)
    except Errno as error:
        return -error.errno
    except Fault:
        return -EFAULT


def _poll(file: FileObject, wanted: int) -> Result:
    events = file.ops.query_events(file) & wanted
    return events or _poll_on(file, wanted)


async def _poll_on(file: FileObject, wanted: int) -> int:
    queue = file.ops.wait_queue(file)
    assert queue is not None
    while not file.ops.query_events(file) & wanted:
        await queue.wait(wanted)
    return file.ops.query_events(file) & wanted


@syscall()
def io_cancel(task: Task, identifier: ULong, address: UserAddress, _result: UserAddress) -> int:
    """man 2 io_cancel: the event comes as ever, so the answer is EINPROGRESS."""
    context = _context(task, identifier)
    task.user.load_u32(address + _KEY)
    context.cancel(address.ptr)
    return -EINPROGRESS


@syscall()
async def io_getevents(task: Task, identifier: ULong, least: Long, most: Long, events: UserAddress, timeout: UserAddress) -> int:
    """man 2 io_getevents"""
    deadline = deadline_after(task, import_timespec(task, timeout))
    try:
        return await _get_events(task, identifier, least, most, events, deadline)
    except Interrupted:
        return -EINTR


@syscall()
async def io_pgetevents(task: Task, identifier: ULong, least: Long, most: Long, events: UserAddress, timeout: UserAddress, mask: UserAddress) -> int:
    """man 2 io_pgetevents: with a signal mask for the time of the wait."""
    deadline = deadline_after(task, import_timespec(task, timeout))
    if mask:
        import_sigmask(task, UserAddress(task.user.load_u64(mask)), task.user.load_u64(mask + 8))
    try:
        return await _get_events(task, identifier, least, most, events, deadline)
    except Interrupted:
        raise Errno(ERESTARTNOHAND) from None


async def _get_events(task: Task, identifier: int, least: int, most: int, events: UserAddress, deadline_ns: int | None) -> int:
    """Between ``least`` and ``most`` events; fewer at the deadline, or when a signal comes after the first."""
    context = _context(task, identifier)
    if not 0 <= least <= most:
        raise Errno(EINVAL)
    done = 0
    while True:
        while context.events and done < most:
            task.copy_out(events + done * io_event.SIZE, context.events[0])
            context.events.popleft()
            done += 1
        if done >= least or context.ended or deadline_ns == 0:
            return done
        try:
            if not await context.queue.wait(deadline_ns=deadline_ns):
                deadline_ns = 0
        except Interrupted:
            if done:
                return done
            raise
