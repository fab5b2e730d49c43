"""msgget, msgsnd, msgrcv, msgctl (man 2 msgget, msgop, msgctl)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.ipc_sysv.messages import Message, MessageQueueTable, Wanted
from polynix.kernelproc.ipc_sysv.objects import S_IRUGO
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Flags, Int, Long, Size
from polynix.kernelproc.tunables import Tunables
from polynix.kernelproc.uapi.capability import CAP_SYS_RESOURCE
from polynix.kernelproc.uapi.errno import EINVAL
from polynix.kernelproc.uapi.ipc import (
    IPC_INFO,
    IPC_NOWAIT,
    IPC_RMID,
    IPC_SET,
    IPC_STAT,
    MSG_COPY,
    MSG_EXCEPT,
    MSG_INFO,
    MSG_STAT,
    MSG_STAT_ANY,
    MSGMAP,
    MSGPOOL,
    MSGSEG,
    MSGSSZ,
    MSGTQL,
)
from polynix.kernelproc.uapi.structs import msginfo, msqid64_ds

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

_TYPE_SIZE: Final = 8  # long mtype, before the text


@syscall()
def msgget(task: Task, key: Int, flags: Flags) -> int:
    """man 2 msgget"""
    return task.kernel.expando.get(MessageQueueTable).get(task, key, flags).id


@syscall()
def msgsnd(task: Task, identifier: Int, buffer: UserAddress, size: Size, flags: Flags) -> Awaitable[int]:
    """man 2 msgsnd"""
    kind = int.from_bytes(task.copy_in(buffer, _TYPE_SIZE), "little", signed=True)
    if size > task.kernel.expando.get(Tunables).get("kernel.msgmax") or identifier < 0 or kind < 1:
        raise Errno(EINVAL)
    message = Message(kind, task.copy_in(buffer + _TYPE_SIZE, size))
    return task.kernel.expando.get(MessageQueueTable).find(identifier).send(task, message, flags)


@syscall()
async def msgrcv(task: Task, identifier: Int, buffer: UserAddress, size: Size, kind: Long, flags: Flags) -> int:
    """man 2 msgrcv"""
    if size >= 1 << 63 or (flags & MSG_COPY and (flags & MSG_EXCEPT or not flags & IPC_NOWAIT)):
        raise Errno(EINVAL)
    queue = task.kernel.expando.get(MessageQueueTable).find(identifier)
    message = await queue.receive(task, Wanted(kind, flags, size))
    text = message.text[:size]
    task.copy_out(buffer, message.kind.to_bytes(_TYPE_SIZE, "little") + text)
    return len(text)


@syscall()
def msgctl(task: Task, identifier: Int, command: Int, buffer: UserAddress) -> int:
    """man 2 msgctl"""
    if identifier < 0:
        raise Errno(EINVAL)
    table = task.kernel.expando.get(MessageQueueTable)
    if command in (IPC_INFO, MSG_INFO):
        task.copy_out(buffer, _totals(task, table, in_use=command == MSG_INFO))
        return table.highest_index
    if command in (MSG_STAT, MSG_STAT_ANY):
        queue = table.find_index(identifier)
        if command == MSG_STAT:
            queue.check(task, S_IRUGO)
        task.copy_out(buffer, queue.status())
        return queue.id
    if command not in (IPC_STAT, IPC_SET, IPC_RMID):
        raise Errno(EINVAL)
    wanted = task.copy_in(buffer, msqid64_ds.SIZE) if command == IPC_SET else b""
    queue = table.find(identifier)
    if command == IPC_STAT:
        queue.check(task, S_IRUGO)
        task.copy_out(buffer, queue.status())
        return 0
    queue.check_owner(task)
    if command == IPC_RMID:
        table.remove(queue)
        return 0
    values = msqid64_ds.unpack(wanted)
    queue.check_limit(values.msg_qbytes, task.credentials.has_capability(CAP_SYS_RESOURCE))
    queue.set_owner(task, values.uid, values.gid, values.mode)
    queue.most_bytes = values.msg_qbytes
    queue.look_again()
    return 0


def _totals(task: Task, table: MessageQueueTable, in_use: bool) -> bytes:
    """``struct msginfo``: the limits, and what is in use instead of three of them that mean nothing (MSG_INFO)."""
    tunables = task.kernel.expando.get(Tunables)
    queues = table.by_index.values()
    return msginfo.pack(
        msgpool=len(queues) if in_use else MSGPOOL,
        msgmap=sum(len(queue.messages) for queue in queues) if in_use else MSGMAP,
        msgmax=tunables.get("kernel.msgmax"),
        msgmnb=tunables.get("kernel.msgmnb"),
        msgmni=tunables.get("kernel.msgmni"),
        msgssz=MSGSSZ,
        msgtql=sum(queue.bytes for queue in queues) if in_use else MSGTQL,
        msgseg=MSGSEG,
    )
