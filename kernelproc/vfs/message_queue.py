"""POSIX message queues: messages with priorities, of bounded number and length (man 7 mq_overview; ipc/mqueue.c).

A queue is a node of the mqueue file system, and its descriptors are open files: whatever holds for files, such as permissions, poll and what fork shares, holds
for them.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, Final, NamedTuple

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.signals.send import send_to_group
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.uapi.errno import EAGAIN, EBUSY, EINVAL, EMSGSIZE, ETIMEDOUT
from polynix.kernelproc.uapi.poll import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from polynix.kernelproc.uapi.signal import SI_MESGQ, SIGEV_SIGNAL
from polynix.kernelproc.vfs.ops import FileOps, FsNodeOps
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_node import FsNode

# What a queue counts towards RLIMIT_MSGQUEUE besides its messages: sizes of Linux's own records.
_MESSAGE_RECORD: Final = 48
_PRIORITY_RECORD: Final = 48
MQ_PRIO_MAX: Final = 32768
_FILE_SIZE: Final = 80  # st_size, whatever is in the queue
_READABLE, _WRITABLE = POLLIN | POLLRDNORM, POLLOUT | POLLWRNORM


class Message(NamedTuple):
    """One message; 0 is the lowest priority."""

    priority: int
    text: bytes


class Notification(NamedTuple):
    """What mq_notify asked for: a sigevent, and the process that gets it."""

    group: ThreadGroup
    notify: int
    signo: int
    value: int


class MessageQueue(FsNodeOps):
    """One queue, which holds at most ``most_messages`` of at most ``most_bytes`` each."""

    def __init__(self, most_messages: int, most_bytes: int) -> None:
        self.most_messages = most_messages
        self.most_bytes = most_bytes
        self.messages: list[Message] = []  # the next one to receive first
        self.wait_queue = WaitQueue()
        self.notification: Notification | None = None
        self._receivers = 0  # that wait

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        return MessageQueueFile(self)

    def truncate(self, node: FsNode, length: int) -> None:
        """O_TRUNC of a plain open(2) changes nothing."""

    def refresh(self, node: FsNode) -> None:
        node.size = _FILE_SIZE

    def forget(self, node: FsNode) -> None:
        self.messages.clear()
        instance = node.fs.ops
        assert isinstance(instance, Owner)
        instance.forget(node)

    @property
    def charge(self) -> int:
        """What counts towards RLIMIT_MSGQUEUE of its owner, in bytes."""
        return charge(self.most_messages, self.most_bytes)

    # -- messages -------------------------------------------------------------------------------------------------------------

    def check_length(self, length: int) -> None:
        """Errors: EMSGSIZE for a message that is too long."""
        if length > self.most_bytes:
            raise Errno(EMSGSIZE)

    async def send(self, file: FileObject, task: Task, message: Message, deadline_ns: int | None) -> int:
        """mq_timedsend(3), its arguments checked. Errors: EAGAIN, ETIMEDOUT; restarts when interrupted."""
        while len(self.messages) >= self.most_messages:
            await self._wait(file, _WRITABLE, deadline_ns)
        insort(self.messages, message, key=lambda each: -each.priority)
        file.node.mtime_ns = file.node.ctime_ns = file.node.fs.now_ns()
        if len(self.messages) == 1 and not self._receivers:
            self._notify(task)
        self.wait_queue.notify(_READABLE)
        return 0

    async def receive(self, file: FileObject, room: int, deadline_ns: int | None) -> Message:
        """mq_timedreceive(3): the oldest of the highest priority. Errors: EMSGSIZE, EAGAIN, ETIMEDOUT; restarts when interrupted."""
        if room < self.most_bytes:
            raise Errno(EMSGSIZE)
        while not self.messages:
            self._receivers += 1
            try:
                await self._wait(file, _READABLE, deadline_ns)
            finally:
                self._receivers -= 1
        message = self.messages.pop(0)
        file.node.atime_ns = file.node.ctime_ns = file.node.fs.now_ns()
        self.wait_queue.notify(_WRITABLE)
        return message

    async def _wait(self, file: FileObject, events: int, deadline_ns: int | None) -> None:
        if file.nonblocking:
            raise Errno(EAGAIN)
        if not await self.wait_queue.wait(events, deadline_ns):
            raise Errno(ETIMEDOUT)

    # -- notification ---------------------------------------------------------------------------------------------------------

    def register(self, notification: Notification) -> None:
        """mq_notify(3). Errors: EBUSY when somebody, whoever it is, is registered."""
        if self.notification is not None:
            raise Errno(EBUSY)
        self.notification = notification

    def unregister(self, group: ThreadGroup) -> None:
        """If it is registered, ``group`` no longer is."""
        if self.notification is not None and self.notification.group is group:
            self.notification = None

    def _notify(self, sender: Task) -> None:
        """A message came into the empty queue and nobody waited for it: that is told once."""
        notification, self.notification = self.notification, None
        if notification is not None and notification.notify == SIGEV_SIGNAL and notification.signo:
            info = SigInfo(notification.signo, SI_MESGQ, pid=sender.pid, uid=sender.credentials.uid, value=notification.value)
            send_to_group(notification.group, info)


class MessageQueueFile(FileOps):
    """A descriptor of a queue. read(2) tells its state; messages go by calls of their own."""

    always_ready = False

    def __init__(self, queue: MessageQueue) -> None:
        self.queue = queue

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> int:
        queue, notification = self.queue, self.queue.notification
        text = b"QSIZE:%-10d NOTIFY:%-5d SIGNO:%-5d NOTIFY_PID:%-6d\n" % (
            sum(len(message.text) for message in queue.messages),
            notification.notify if notification is not None else 0,
            notification.signo if notification is not None and notification.notify == SIGEV_SIGNAL else 0,
            notification.group.pid if notification is not None else 0,
        )
        return out.write(text[offset : offset + out.remaining])

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> int:
        return -EINVAL

    def query_events(self, file: FileObject) -> int:
        messages = len(self.queue.messages)
        return (_READABLE if messages else 0) | (_WRITABLE if messages < self.queue.most_messages else 0)

    def wait_queue(self, file: FileObject) -> WaitQueue:
        return self.queue.wait_queue

    def flush(self, file: FileObject, task: Task) -> None:
        self.queue.unregister(task.group)


class Owner:
    """What a queue's file system does for it."""

    def forget(self, node: FsNode) -> None:
        """Neither a name nor a descriptor of the queue is left."""
        raise NotImplementedError


def charge(most_messages: int, most_bytes: int) -> int:
    """What a queue of these limits counts towards RLIMIT_MSGQUEUE, in bytes."""
    return most_messages * (_MESSAGE_RECORD + most_bytes) + min(most_messages, MQ_PRIO_MAX) * _PRIORITY_RECORD
