"""sendmsg, recvmsg, sendmmsg, recvmmsg: messages with names and control data (``man 3 cmsg``)."""

from __future__ import annotations

import struct
from collections.abc import Awaitable
from typing import TYPE_CHECKING, NamedTuple

from polynix.addrspace._usercopy import Fault, UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.net.garbage import InFlight
from polynix.kernelproc.net.messages import SCM_MAX_FD, Ancillary, Received
from polynix.kernelproc.net.socket_file import receive_message, send_message
from polynix.kernelproc.syscalls.iovec import import_iovec
from polynix.kernelproc.syscalls.socket import SOCKADDR_MAX, import_sockaddr, send_with_signal, socket_file
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.timeouts import NANOSECONDS, deadline_after, import_timespec, time_left
from polynix.kernelproc.syscalls.types import FdNumber, Flags, UInt
from polynix.kernelproc.uapi.capability import CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN, CAP_SYS_RESOURCE
from polynix.kernelproc.uapi.errno import EAGAIN, EFAULT, EINVAL, EMSGSIZE, ENOBUFS, EPERM, ESRCH, ETOOMANYREFS
from polynix.kernelproc.uapi.limits import IOV_MAX
from polynix.kernelproc.uapi.resource import RLIMIT_NOFILE
from polynix.kernelproc.uapi.socket import (
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    MSG_DONTWAIT,
    MSG_WAITFORONE,
    SCM_CREDENTIALS,
    SCM_RIGHTS,
    SOL_SOCKET,
)
from polynix.kernelproc.uapi.structs import cmsghdr, mmsghdr, msghdr, timespec, ucred
from polynix.kernelproc.vfs.buffers import UserInputBuffer, UserOutputBuffer

if TYPE_CHECKING:
    from polynix.kernelproc.net.messages import Credentials
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.ops import Result

CONTROL_MAX = 131072  # net.core.optmem_max
_HEADER = cmsghdr.SIZE
_NAMELEN = msghdr.OFFSETS["msg_namelen"]
_CONTROLLEN = msghdr.OFFSETS["msg_controllen"]
_FLAGS = msghdr.OFFSETS["msg_flags"]
_LEN = mmsghdr.OFFSETS["msg_len"]


class _Header(NamedTuple):
    """A ``struct msghdr`` of the guest."""

    name: UserAddress
    name_length: int
    iov: list[tuple[UserAddress, int]]
    control: UserAddress
    control_length: int


def _import_header(task: Task, address: UserAddress) -> _Header:
    fields = msghdr.unpack(task.copy_in(address, msghdr.SIZE))
    name_length = fields.msg_namelen if fields.msg_name else 0
    if name_length > 0x7FFFFFFF:
        raise Errno(EINVAL)
    if fields.msg_iovlen > IOV_MAX:
        raise Errno(EMSGSIZE)
    iov = import_iovec(task, UserAddress(fields.msg_iov), fields.msg_iovlen)
    return _Header(
        UserAddress(fields.msg_name),
        min(name_length, SOCKADDR_MAX),
        iov,
        UserAddress(fields.msg_control),
        fields.msg_controllen if fields.msg_control else 0,
    )


# -- sending ---------------------------------------------------------------------------------------------------------------


def _import_control(task: Task, control: UserAddress, length: int) -> Ancillary | None:
    """Descriptors and credentials to send along. Errors: ENOBUFS, EINVAL, EBADF, EPERM, ESRCH, ETOOMANYREFS."""
    if not length:
        return None
    if length > CONTROL_MAX:
        raise Errno(ENOBUFS)
    data = task.copy_in(control, length)
    ancillary = Ancillary(task.credentials.uid)
    try:
        offset = 0
        while offset + _HEADER <= length:
            size, level, kind = cmsghdr.FORMAT.unpack_from(data, offset)
            if size < _HEADER or offset + size > length:
                raise Errno(EINVAL)
            payload = data[offset + _HEADER : offset + size]
            offset += (size + 7) & ~7
            if level != SOL_SOCKET:
                continue
            if kind == SCM_RIGHTS:
                _import_rights(task, ancillary, payload)
            elif kind == SCM_CREDENTIALS:
                if len(payload) != ucred.SIZE:
                    raise Errno(EINVAL)
                ancillary.credentials = _check_credentials(task, ucred.FORMAT.unpack(payload))
            else:
                raise Errno(EINVAL)
    except BaseException:
        ancillary.drop()
        raise
    return ancillary


def _import_rights(task: Task, ancillary: Ancillary, payload: bytes) -> None:
    count = len(payload) // 4
    if not count:
        return
    rights = ancillary.rights = ancillary.rights or []
    if count + len(rights) > SCM_MAX_FD:
        raise Errno(EINVAL)
    for (fd,) in struct.iter_unpack("<i", payload[: 4 * count]):
        rights.append(task.files.get(fd).retain())
    in_flight = task.kernel.expando.get(InFlight).by_uid[task.credentials.uid]
    if in_flight > task.group.limits.soft(RLIMIT_NOFILE):
        credentials = task.credentials
        if not (credentials.has_capability(CAP_SYS_RESOURCE) or credentials.has_capability(CAP_SYS_ADMIN)):
            raise Errno(ETOOMANYREFS)


def _check_credentials(task: Task, claimed: Credentials) -> Credentials:
    """One may say who one is; more needs capabilities. Errors: EPERM, ESRCH."""
    pid, uid, gid = claimed
    mine = task.credentials
    if pid != task.group.pid:
        if not mine.has_capability(CAP_SYS_ADMIN):
            raise Errno(EPERM)
        if pid not in task.kernel.pids.thread_groups:
            raise Errno(ESRCH)
    if uid not in (mine.uid, mine.euid, mine.suid) and not mine.has_capability(CAP_SETUID):
        raise Errno(EPERM)
    if gid not in (mine.gid, mine.egid, mine.sgid) and not mine.has_capability(CAP_SETGID):
        raise Errno(EPERM)
    return claimed


@syscall()
def sendmsg(task: Task, fd: FdNumber, message: UserAddress, flags: Flags) -> Result:
    """man 2 sendmsg."""
    file, _ = socket_file(task, fd)
    return _send(task, file, message, flags)


def _send(task: Task, file: FileObject, message: UserAddress, flags: int) -> Result:
    header = _import_header(task, message)
    name = import_sockaddr(task, header.name, header.name_length) if header.name_length else None
    ancillary = _import_control(task, header.control, header.control_length)
    data = UserInputBuffer(task.user, header.iov)
    if ancillary is None:
        return send_with_signal(task, flags, send_message(file, data, flags, name, None, task))
    result: Result = 0
    try:
        result = send_message(file, data, flags, name, ancillary, task)
    finally:
        if type(result) is int:
            ancillary.drop()
    if type(result) is not int:
        result = _drop_after(result, ancillary)  # type: ignore[arg-type]
    return send_with_signal(task, flags, result)


async def _drop_after(result: Awaitable[int], ancillary: Ancillary) -> int:
    try:
        return await result
    finally:
        ancillary.drop()


@syscall()
async def sendmmsg(task: Task, fd: FdNumber, messages: UserAddress, count: UInt, flags: Flags) -> int:
    """man 2 sendmmsg: how many were sent; an error only if that is none."""
    file, _ = socket_file(task, fd)
    file.retain()
    sent = 0
    try:
        for index in range(min(count, IOV_MAX)):
            address = messages + index * mmsghdr.SIZE
            result = _send(task, file, address, flags)
            if not isinstance(result, int):
                result = await result
            if result < 0:
                return sent or result
            task.user.store_u32(address + _LEN, result)
            sent += 1
    except (Errno, Fault):
        if not sent:
            raise
    finally:
        file.release()
    return sent


# -- receiving -------------------------------------------------------------------------------------------------------------


@syscall()
def recvmsg(task: Task, fd: FdNumber, message: UserAddress, flags: Flags) -> Result:
    """man 2 recvmsg."""
    file, _ = socket_file(task, fd)
    return _receive(task, file, message, flags)


def _receive(task: Task, file: FileObject, message: UserAddress, flags: int) -> Result:
    header = _import_header(task, message)
    received = Received()
    out = UserOutputBuffer(task.user, header.iov)
    try:
        result = receive_message(file, out, flags, received)
    except BaseException:
        received.drop()
        raise
    if type(result) is not int:
        return _receive_later(task, message, header, flags, result, received)  # type: ignore[arg-type]
    return _finish(task, message, header, flags, result, received)


async def _receive_later(task: Task, message: UserAddress, header: _Header, flags: int, result: Awaitable[int], received: Received) -> int:
    try:
        count = await result
    except BaseException:
        received.drop()
        raise
    return _finish(task, message, header, flags, count, received)


def _finish(task: Task, message: UserAddress, header: _Header, flags: int, result: int, received: Received) -> int:
    """Store what came with the bytes: descriptors are installed, the header's lengths and flags updated."""
    if result < 0:
        received.drop()
        return result
    shown = received.flags | flags & MSG_CMSG_CLOEXEC
    control = _ControlWriter(task, header.control, header.control_length)
    try:
        if header.control_length:
            if received.credentials is not None:
                control.put(SCM_CREDENTIALS, ucred.FORMAT.pack(*received.credentials))
            if received.rights:
                control.put_rights(received.rights, bool(flags & MSG_CMSG_CLOEXEC))
        elif received.credentials is not None or received.rights:
            control.truncated = True
    finally:
        received.drop()
    if control.truncated:
        shown |= MSG_CTRUNC
    user = task.user
    if header.name:
        name = received.source or b""
        if name and header.name_length:
            task.copy_out(header.name, name[: header.name_length])
        user.store_u32(message + _NAMELEN, len(name))
    user.store_u32(message + _FLAGS, shown)
    user.store_u64(message + _CONTROLLEN, control.used)
    return result


class _ControlWriter:
    """Fills the guest's control buffer from the front."""

    def __init__(self, task: Task, address: UserAddress, room: int) -> None:
        self.task = task
        self.address = address
        self.room = room
        self.used = 0
        self.truncated = False

    def put(self, kind: int, payload: bytes) -> None:
        """One control message, cut to the room there is."""
        if self.room < _HEADER:
            self.truncated = True
            return
        length = _HEADER + len(payload)
        if self.room < length:
            self.truncated = True
            length = self.room
        header = cmsghdr.FORMAT.pack(length, SOL_SOCKET, kind)
        self.task.copy_out(self.address, (header + payload)[:length])
        self._advance(length)

    def put_rights(self, rights: list[FileObject], cloexec: bool) -> None:
        """As many descriptors as there is room for, in the buffer and in the table."""
        fits = min(len(rights), (self.room - _HEADER) // 4 if self.room > _HEADER else 0)
        fds: list[int] = []
        try:
            for file in rights[:fits]:
                fds.append(self.task.files.install(file, cloexec))
                self.task.user.store_i32(self.address + (_HEADER + 4 * (len(fds) - 1)), fds[-1])
        except Errno:
            pass  # EMFILE: the rest is dropped
        except Fault:
            self.task.files.close(fds.pop(), None)
        if fds:
            length = _HEADER + 4 * len(fds)
            try:
                self.task.copy_out(self.address, cmsghdr.FORMAT.pack(length, SOL_SOCKET, SCM_RIGHTS))
            except (Errno, Fault):
                raise Errno(EFAULT) from None
            self._advance(length)
        if len(fds) < len(rights):
            self.truncated = True

    def _advance(self, length: int) -> None:
        space = min((length + 7) & ~7, self.room)
        self.address += space
        self.room -= space
        self.used += space


@syscall()
async def recvmmsg(task: Task, fd: FdNumber, messages: UserAddress, count: UInt, flags: Flags, timeout: UserAddress) -> int:
    """man 2 recvmmsg: how many were received. The timeout is looked at after each message, as on Linux."""
    timeout_ns = import_timespec(task, timeout)
    deadline = deadline_after(task, timeout_ns)
    file, socket = socket_file(task, fd)
    file.retain()
    done = 0
    try:
        socket.raise_pending()
        for index in range(min(count, IOV_MAX)):
            address = messages + index * mmsghdr.SIZE
            result = _receive(task, file, address, flags & ~MSG_WAITFORONE)
            if not isinstance(result, int):
                result = await result
            if result < 0:
                if not done:
                    return result
                if result != -EAGAIN:
                    socket.error = -result
                break
            task.user.store_u32(address + _LEN, result)
            done += 1
            if flags & MSG_WAITFORONE:
                flags |= MSG_DONTWAIT
            if deadline is not None and not time_left(task, deadline):
                break
    except (Errno, Fault) as error:
        if not done:
            raise
        if error.errno != EAGAIN and error.errno < 512:
            socket.error = error.errno
    finally:
        file.release()
    if deadline is not None:
        left = time_left(task, deadline)
        task.copy_out(timeout, timespec.FORMAT.pack(left // NANOSECONDS, left % NANOSECONDS))
    return done
