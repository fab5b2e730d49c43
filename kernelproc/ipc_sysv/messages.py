"""System V message queues: messages of a type and at most msgmax bytes (man 7 sysvipc, man 2 msgop; ipc/msg.c).

A message that a receiver waits for goes to it and never enters the queue, so that receivers are served in order of arrival. Senders that find no room try again
when something was taken out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import ERESTARTNOHAND, Errno
from polynix.kernelproc.ipc_sysv.objects import S_IRUGO, S_IWUGO, IpcObject, IpcTable, now_seconds
from polynix.kernelproc.tunables import Tunables
from polynix.kernelproc.uapi.errno import E2BIG, EAGAIN, EIDRM, ENOMSG, EPERM
from polynix.kernelproc.uapi.ipc import IPC_NOWAIT, MSG_COPY, MSG_EXCEPT, MSG_NOERROR
from polynix.kernelproc.uapi.structs import msqid64_ds
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

_LONGEST: Final = (1 << 63) - 1


class Message(NamedTuple):
    """One message; ``kind`` is its mtype, above zero."""

    kind: int
    text: bytes


class Wanted(NamedTuple):
    """What a msgrcv asks for: the mtype argument, its flags, and how many bytes it has room for."""

    kind: int
    flags: int
    size: int

    def matches(self, message: Message) -> bool:
        """Whether ``message`` is of a type that is asked for."""
        if not self.kind:
            return True
        if self.kind < 0:
            return message.kind <= min(-self.kind, _LONGEST)
        return (message.kind == self.kind) != bool(self.flags & MSG_EXCEPT)

    def too_long(self, message: Message) -> bool:
        return len(message.text) > self.size and not self.flags & MSG_NOERROR


class Receiver:
    """A msgrcv that waits; ``message`` or ``error`` is set before ``queue`` is notified, neither if it shall look again."""

    __slots__ = ("error", "message", "pid", "queue", "wanted")

    def __init__(self, wanted: Wanted, pid: int) -> None:
        self.wanted = wanted
        self.pid = pid
        self.message: Message | None = None
        self.error = 0
        self.queue = WaitQueue()


class MessageQueue(IpcObject):
    """One queue (``struct msg_queue``). Times are in seconds, 0 for never."""

    def __init__(self, task: Task, identifier: int, key: int, mode: int) -> None:
        super().__init__(task, identifier, key, mode)
        self.kernel = task.kernel
        self.messages: list[Message] = []
        self.bytes = 0  # of text, in all messages
        self.most_bytes = task.kernel.expando.get(Tunables).get("kernel.msgmnb")
        self.sent_at = self.received_at = 0
        self.sender_pid = self.receiver_pid = 0
        self._receivers: dict[Receiver, None] = {}
        self._senders = WaitQueue()

    def status(self) -> bytes:
        return msqid64_ds.pack(
            **self.permissions(), msg_stime=self.sent_at, msg_rtime=self.received_at, msg_ctime=self.changed_at, msg_cbytes=self.bytes,
            msg_qnum=len(self.messages), msg_qbytes=self.most_bytes, msg_lspid=self.sender_pid, msg_lrpid=self.receiver_pid,
        )  # fmt: skip

    # -- sending --------------------------------------------------------------------------------------------------------------

    async def send(self, task: Task, message: Message, flags: int) -> int:
        """msgsnd(2), its arguments checked. Errors: EACCES, EAGAIN, EIDRM; interrupted by a handler."""
        while True:
            self.check(task, S_IWUGO)
            if self._has_room(len(message.text)):
                break
            if flags & IPC_NOWAIT:
                raise Errno(EAGAIN)
            try:
                await self._senders.wait()
            except Interrupted:
                raise Errno(ERESTARTNOHAND) from None
            if self.removed:
                raise Errno(EIDRM)
        self.sender_pid = task.pid
        self.sent_at = now_seconds(self.kernel)
        if not self._hand_over(message):
            self.messages.append(message)
            self.bytes += len(message.text)
        return 0

    def _has_room(self, length: int) -> bool:
        """As many messages as bytes fit, so that empty ones don't pile up."""
        return self.bytes + length <= self.most_bytes and len(self.messages) + 1 <= self.most_bytes

    def _hand_over(self, message: Message) -> bool:
        """Give ``message`` to the first receiver that waits for it; one that has no room for it gets E2BIG, and the next is asked."""
        for receiver in list(self._receivers):
            if not receiver.wanted.matches(message):
                continue
            del self._receivers[receiver]
            if receiver.wanted.too_long(message):
                receiver.error = E2BIG
                receiver.queue.notify()
                continue
            receiver.message = message
            self._received_by(receiver.pid)
            receiver.queue.notify()
            return True
        return False

    # -- receiving ------------------------------------------------------------------------------------------------------------

    async def receive(self, task: Task, wanted: Wanted) -> Message:
        """msgrcv(2), its arguments checked. Errors: EACCES, ENOMSG, E2BIG, EIDRM; interrupted by a handler."""
        while True:
            self.check(task, S_IRUGO)
            index = wanted.kind if wanted.flags & MSG_COPY else self._find(wanted)
            if 0 <= index < len(self.messages):
                return self._take(task, index, wanted)
            if wanted.flags & IPC_NOWAIT:
                raise Errno(ENOMSG)
            receiver = Receiver(wanted, task.pid)
            self._receivers[receiver] = None
            interrupted = False
            try:
                await receiver.queue.wait()
            except Interrupted:
                interrupted = True  # unless a message came first, which nobody else would get
            finally:
                self._receivers.pop(receiver, None)
            if receiver.message is not None:
                return receiver.message
            if receiver.error:
                raise Errno(receiver.error)
            if interrupted:
                raise Errno(ERESTARTNOHAND)

    def _find(self, wanted: Wanted) -> int:
        """The index of the message that ``wanted`` gets, -1 for none: the first that matches, or with a negative type the first of the lowest."""
        matching = [index for index, message in enumerate(self.messages) if wanted.matches(message)]
        if not matching:
            return -1
        return min(matching, key=lambda index: self.messages[index].kind) if wanted.kind < 0 else matching[0]

    def _take(self, task: Task, index: int, wanted: Wanted) -> Message:
        message = self.messages[index]
        if wanted.too_long(message):
            raise Errno(E2BIG)
        if not wanted.flags & MSG_COPY:
            del self.messages[index]
            self.bytes -= len(message.text)
            self._received_by(task.pid)
            self._senders.notify()
        return message

    def _received_by(self, pid: int) -> None:
        self.receiver_pid = pid
        self.received_at = now_seconds(self.kernel)

    # -- what msgctl does -----------------------------------------------------------------------------------------------------

    def check_limit(self, most_bytes: int, privileged: bool) -> None:
        """IPC_SET's msg_qbytes. Errors: EPERM above msgmnb unless ``privileged``."""
        if most_bytes > self.kernel.expando.get(Tunables).get("kernel.msgmnb") and not privileged:
            raise Errno(EPERM)

    def look_again(self) -> None:
        """Permissions or limits have changed: whoever waits tries again."""
        for receiver in list(self._receivers):
            receiver.queue.notify()
        self._senders.notify()

    def removed_by_rmid(self) -> None:
        """Its messages are gone, and nobody waits for any."""
        self.removed = True
        self.messages.clear()
        for receiver in self._receivers:
            receiver.error = EIDRM
        self.look_again()


class MessageQueueTable(IpcTable[MessageQueue]):
    """All message queues of one kernel, in its expando."""

    def get(self, task: Task, key: int, flags: int) -> MessageQueue:
        """msgget(2). Errors: EEXIST, ENOENT, EACCES, ENOSPC."""
        most = task.kernel.expando.get(Tunables).get("kernel.msgmni")
        return self.get_or_make(task, key, flags, lambda _existing: True, lambda identifier: MessageQueue(task, identifier, key, flags), most)

    def remove(self, queue: MessageQueue) -> None:
        """IPC_RMID."""
        self.forget(queue)
        queue.removed_by_rmid()

    def listing(self) -> bytes:
        """/proc/sysvipc/msg."""
        return self.rows(
            b"       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n",
            b"%10d %10d  %4o  %10d %10d %5d %5d %5d %5d %5d %5d %10d %10d %10d\n",
            lambda each: (
                each.key, each.id, each.shown_mode(), each.bytes, len(each.messages), each.sender_pid, each.receiver_pid, each.uid, each.gid,
                each.creator_uid, each.creator_gid, each.sent_at, each.received_at, each.changed_at,
            ),
        )  # fmt: skip
