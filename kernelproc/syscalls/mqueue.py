"""mq_open, mq_unlink, mq_timedsend, mq_timedreceive, mq_notify, mq_getsetattr (man 7 mq_overview)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.mqueue import open_queue, unlink_queue
from polynix.kernelproc.signals.signal_state import NSIG
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.timeouts import import_timespec
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Mode, Size, UInt
from polynix.kernelproc.task.clocks import deadline_of
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.errno import EBADF, EINVAL
from polynix.kernelproc.uapi.fcntl import O_ACCMODE, O_CREAT, O_EXCL, O_NONBLOCK
from polynix.kernelproc.uapi.signal import SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD
from polynix.kernelproc.uapi.structs import mq_attr, sigevent
from polynix.kernelproc.uapi.time import CLOCK_REALTIME
from polynix.kernelproc.vfs.message_queue import MQ_PRIO_MAX, Message, MessageQueueFile, Notification

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject

_OPEN_FLAGS: Final = O_ACCMODE | O_CREAT | O_EXCL | O_NONBLOCK


@syscall()
def mq_open(task: Task, name: UserAddress, flags: Flags, mode: Mode, attributes: UserAddress) -> int:
    """man 3 mq_open; the C library has taken the slash off the name."""
    limits = None
    if attributes:
        wanted = mq_attr.unpack(task.copy_in(attributes, mq_attr.SIZE))
        limits = wanted.mq_maxmsg, wanted.mq_msgsize
    return task.files.install_new(open_queue(task, task.read_path(name), flags & _OPEN_FLAGS, mode, limits), True)


@syscall()
def mq_unlink(task: Task, name: UserAddress) -> int:
    """man 3 mq_unlink"""
    unlink_queue(task, task.read_path(name))
    return 0


def _queue_file(task: Task, fd: int) -> tuple[FileObject, MessageQueueFile]:
    file = task.files.get_io(fd)
    if not isinstance(file.ops, MessageQueueFile):
        raise Errno(EBADF)
    return file, file.ops


def _deadline(task: Task, timeout: UserAddress) -> int | None:
    """When to give up: an absolute time of CLOCK_REALTIME. Errors: EFAULT, EINVAL."""
    time_ns = import_timespec(task, timeout)
    return None if time_ns is None else deadline_of(task.kernel.clock, CLOCK_REALTIME, time_ns, True)


@syscall()
async def mq_timedsend(task: Task, fd: FdNumber, text: UserAddress, length: Size, priority: UInt, timeout: UserAddress) -> int:
    """man 3 mq_send"""
    deadline = _deadline(task, timeout)
    if priority >= MQ_PRIO_MAX:
        raise Errno(EINVAL)
    file, ops = _queue_file(task, fd)
    if not file.writable:
        raise Errno(EBADF)
    ops.queue.check_length(length)
    return await ops.queue.send(file, task, Message(priority, task.copy_in(text, length)), deadline)


@syscall()
async def mq_timedreceive(task: Task, fd: FdNumber, text: UserAddress, length: Size, priority: UserAddress, timeout: UserAddress) -> int:
    """man 3 mq_receive"""
    deadline = _deadline(task, timeout)
    file, ops = _queue_file(task, fd)
    if not file.readable:
        raise Errno(EBADF)
    message = await ops.queue.receive(file, length, deadline)
    if priority:
        task.user.store_u32(priority, message.priority)
    task.copy_out(text, message.text)
    return len(message.text)


@syscall()
def mq_notify(task: Task, fd: FdNumber, event_address: UserAddress) -> int:
    """man 3 mq_notify. SIGEV_THREAD is the C library's affair, which waits at a netlink socket."""
    if not event_address:
        _queue_file(task, fd)[1].queue.unregister(task.group)
        return 0
    event = sigevent.unpack(task.copy_in(event_address, sigevent.SIZE))
    if event.sigev_notify not in (SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD):
        raise Errno(EINVAL)
    if event.sigev_notify == SIGEV_SIGNAL and not 0 <= event.sigev_signo <= NSIG:
        raise Errno(EINVAL)
    if event.sigev_notify == SIGEV_THREAD:
        track_stub("mq_notify: SIGEV_THREAD without netlink")
        raise Errno(EBADF)
    queue = _queue_file(task, fd)[1].queue
    queue.register(Notification(task.group, event.sigev_notify, event.sigev_signo, event.sigev_value))
    return 0


@syscall()
def mq_getsetattr(task: Task, fd: FdNumber, new: UserAddress, old: UserAddress) -> int:
    """man 3 mq_getattr"""
    wanted = mq_attr.unpack(task.copy_in(new, mq_attr.SIZE)).mq_flags if new else None
    if wanted is not None and wanted & ~O_NONBLOCK:
        raise Errno(EINVAL)
    file, ops = _queue_file(task, fd)
    queue = ops.queue
    before = mq_attr.pack(mq_flags=file.flags & O_NONBLOCK, mq_maxmsg=queue.most_messages, mq_msgsize=queue.most_bytes, mq_curmsgs=len(queue.messages))
    if wanted is not None:
        file.flags = file.flags & ~O_NONBLOCK | wanted
    if old:
        task.copy_out(old, before)
    return 0
