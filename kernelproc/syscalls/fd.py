"""Descriptors: dup, close, fcntl, ioctl. Commands about locks are in :mod:`polynix.kernelproc.syscalls.lock`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.signals.async_io import FileOwner, owner_of, set_async
from polynix.kernelproc.signals.signal_state import NSIG
from polynix.kernelproc.syscalls import lock
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, UInt, ULong, as_int
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.capability import CAP_FOWNER, CAP_SYS_RAWIO
from polynix.kernelproc.uapi.close_range import CLOSE_RANGE_CLOEXEC, CLOSE_RANGE_UNSHARE
from polynix.kernelproc.uapi.errno import EBADF, EINVAL, EMFILE, ENOTTY, EOPNOTSUPP, EPERM, ESRCH
from polynix.kernelproc.uapi.fcntl import (
    F_DUPFD,
    F_DUPFD_CLOEXEC,
    F_GET_FILE_RW_HINT,
    F_GET_RW_HINT,
    F_GETFD,
    F_GETFL,
    F_GETLEASE,
    F_GETLK,
    F_GETOWN,
    F_GETOWN_EX,
    F_GETOWNER_UIDS,
    F_GETSIG,
    F_NOTIFY,
    F_OFD_GETLK,
    F_OFD_SETLK,
    F_OFD_SETLKW,
    F_OWNER_PGRP,
    F_OWNER_PID,
    F_OWNER_TID,
    F_SET_FILE_RW_HINT,
    F_SET_RW_HINT,
    F_SETFD,
    F_SETFL,
    F_SETLEASE,
    F_SETLK,
    F_SETLKW,
    F_SETOWN,
    F_SETOWN_EX,
    F_SETSIG,
    F_UNLCK,
    FD_CLOEXEC,
    O_APPEND,
    O_ASYNC,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECT,
    O_EXCL,
    O_NOATIME,
    O_NOCTTY,
    O_NONBLOCK,
    O_PATH,
    O_TRUNC,
)
from polynix.kernelproc.uapi.ioctls import (
    FIBMAP,
    FICLONE,
    FICLONERANGE,
    FIGETBSZ,
    FIOASYNC,
    FIOCLEX,
    FIONBIO,
    FIONCLEX,
    FIONREAD,
    FIOQSIZE,
    FS_IOC_FIEMAP,
)
from polynix.kernelproc.uapi.resource import RLIMIT_NOFILE
from polynix.kernelproc.vfs.ops import Result

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject

_SETFL_MASK: Final = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | O_ASYNC
_NOT_STATUS: Final = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC  # of open's flags, what F_GETFL doesn't show

# Commands newer than the headers of some distributions (linux/fcntl.h: F_LINUX_SPECIFIC_BASE + n).
F_DUPFD_QUERY: Final = 1027
F_CREATED_QUERY: Final = 1028


# -- dup and close ---------------------------------------------------------------------------------------------------------


@syscall()
def dup(task: Task, fd: FdNumber) -> int:
    """man 2 dup."""
    return task.files.install(task.files.get(fd))


@syscall()
def dup2(task: Task, old_fd: FdNumber, new_fd: FdNumber) -> int:
    """man 2 dup2."""
    file = task.files.get(old_fd)
    if old_fd != new_fd:
        task.files.install_at(new_fd, file, False, task)
    return new_fd


@syscall()
def dup3(task: Task, old_fd: FdNumber, new_fd: FdNumber, flags: Flags) -> int:
    """man 2 dup3."""
    if flags & ~O_CLOEXEC or old_fd == new_fd:
        return -EINVAL
    if not 0 <= new_fd < task.group.limits.soft(RLIMIT_NOFILE):
        return -EBADF
    task.files.install_at(new_fd, task.files.get(old_fd), bool(flags & O_CLOEXEC), task)
    return new_fd


@syscall()
def close(task: Task, fd: FdNumber) -> int:
    """man 2 close."""
    task.files.close(fd, task)
    return 0


@syscall()
def close_range(task: Task, first: UInt, last: UInt, flags: Flags) -> int:
    """man 2 close_range."""
    if flags & ~(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) or first > last:
        return -EINVAL
    if flags & CLOSE_RANGE_UNSHARE and task.files.users > 1:
        shared = task.files
        task.files = shared.fork()
        shared.unshare(task)
    if flags & CLOSE_RANGE_CLOEXEC:
        for fd in task.files.fds():
            if first <= fd <= last:
                task.files.set_cloexec(fd, True)
    else:
        task.files.close_range(first, last, task)
    return 0


# -- fcntl -----------------------------------------------------------------------------------------------------------------


@syscall()
def fcntl(task: Task, fd: FdNumber, command: UInt, argument: ULong) -> Result:
    """man 2 fcntl."""
    file = task.files.get(fd)
    if file.flags & O_PATH and command not in _ALLOWED_ON_PATH:
        return -EBADF
    handler = _COMMANDS.get(command)
    if handler is not None:
        return handler(task, fd, file, argument)
    return file.ops.fcntl(file, task, command, argument)


def _dupfd(task: Task, _fd: int, file: FileObject, argument: int, cloexec: bool = False) -> int:
    minimum = argument & 0xFFFFFFFF
    if minimum >= task.group.limits.soft(RLIMIT_NOFILE):
        return -EINVAL
    try:
        return task.files.install(file, cloexec, minimum)
    except Errno as error:
        return -EMFILE if error.errno == EMFILE else -error.errno


def _dupfd_cloexec(task: Task, fd: int, file: FileObject, argument: int) -> int:
    return _dupfd(task, fd, file, argument, True)


def _dupfd_query(task: Task, _fd: int, file: FileObject, argument: int) -> int:
    return int(task.files.get(as_int(argument)) is file)


def _getfd(task: Task, fd: int, _file: FileObject, _argument: int) -> int:
    return FD_CLOEXEC if task.files.cloexec(fd) else 0


def _setfd(task: Task, fd: int, _file: FileObject, argument: int) -> int:
    task.files.set_cloexec(fd, bool(argument & FD_CLOEXEC))
    return 0


def _getfl(_task: Task, _fd: int, file: FileObject, _argument: int) -> int:
    return file.flags & ~_NOT_STATUS


def _setfl(task: Task, fd: int, file: FileObject, argument: int) -> int:
    if argument & O_NOATIME and not file.flags & O_NOATIME:
        credentials = task.credentials
        if credentials.fsuid != file.node.uid and not credentials.has_capability(CAP_FOWNER):
            return -EPERM
    if (argument ^ file.flags) & O_ASYNC:
        set_async(task.kernel, file, fd, bool(argument & O_ASYNC))
    file.flags = (file.flags & ~_SETFL_MASK) | (argument & _SETFL_MASK)
    file.ops.set_flags(file, file.flags)
    return 0


def _set_owner(task: Task, file: FileObject, kind: int, pid: int) -> int:
    if pid:
        pids = task.kernel.pids
        table: dict[int, object] = {  # type: ignore[assignment]
            F_OWNER_TID: pids.tasks,
            F_OWNER_PID: pids.thread_groups,
            F_OWNER_PGRP: pids.process_groups,
        }[kind]
        if pid not in table:
            return -ESRCH
    if file.expando is None:
        file.expando = {}
    file.expando[FileOwner] = FileOwner(kind, pid, task.credentials.uid, task.credentials.euid)
    return 0


def _setown(task: Task, _fd: int, file: FileObject, argument: int) -> int:
    who = as_int(argument)
    if who == -(1 << 31):
        return -EINVAL
    return _set_owner(task, file, F_OWNER_PGRP if who < 0 else F_OWNER_PID, abs(who))


def _getown(_task: Task, _fd: int, file: FileObject, _argument: int) -> int:
    owner = owner_of(file)
    return -owner.pid if owner.kind == F_OWNER_PGRP else owner.pid


def _setown_ex(task: Task, _fd: int, file: FileObject, argument: int) -> int:
    kind, pid = struct.unpack("<ii", task.copy_in(UserAddress(argument), 8))
    if kind not in (F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP):
        return -EINVAL
    return _set_owner(task, file, kind, pid) if pid >= 0 else -ESRCH


def _getown_ex(task: Task, _fd: int, file: FileObject, argument: int) -> int:
    owner = owner_of(file)
    task.copy_out(UserAddress(argument), struct.pack("<ii", owner.kind, owner.pid))
    return 0


def _getowner_uids(task: Task, _fd: int, file: FileObject, argument: int) -> int:
    owner = owner_of(file)
    task.copy_out(UserAddress(argument), struct.pack("<II", owner.uid, owner.euid))
    return 0


def _setsig(_task: Task, _fd: int, file: FileObject, argument: int) -> int:
    if argument > NSIG:
        return -EINVAL
    file.async_signal = argument
    return 0


def _getsig(_task: Task, _fd: int, file: FileObject, _argument: int) -> int:
    return file.async_signal


def _getlk(task: Task, _fd: int, file: FileObject, argument: int) -> int:
    return lock.get_record_lock(task, file, UserAddress(argument), ofd=False)


def _setlk(task: Task, fd: int, file: FileObject, argument: int) -> Result:
    return lock.set_record_lock(task, fd, file, UserAddress(argument), ofd=False, wait=False)


def _setlkw(task: Task, fd: int, file: FileObject, argument: int) -> Result:
    return lock.set_record_lock(task, fd, file, UserAddress(argument), ofd=False, wait=True)


def _ofd_getlk(task: Task, _fd: int, file: FileObject, argument: int) -> int:
    return lock.get_record_lock(task, file, UserAddress(argument), ofd=True)


def _ofd_setlk(task: Task, fd: int, file: FileObject, argument: int) -> Result:
    return lock.set_record_lock(task, fd, file, UserAddress(argument), ofd=True, wait=False)


def _ofd_setlkw(task: Task, fd: int, file: FileObject, argument: int) -> Result:
    return lock.set_record_lock(task, fd, file, UserAddress(argument), ofd=True, wait=True)


def _setlease(_task: Task, _fd: int, _file: FileObject, argument: int) -> int:
    track_stub("fcntl(F_SETLEASE)", argument)
    return -EINVAL  # as file systems without leases answer


def _getlease(_task: Task, _fd: int, _file: FileObject, _argument: int) -> int:
    return F_UNLCK


def _notify(_task: Task, _fd: int, _file: FileObject, argument: int) -> int:
    track_stub("fcntl(F_NOTIFY)", argument)
    return -EINVAL  # as without CONFIG_DNOTIFY


def _get_rw_hint(task: Task, _fd: int, _file: FileObject, argument: int) -> int:
    task.copy_out(UserAddress(argument), bytes(8))  # RWH_WRITE_LIFE_NOT_SET
    return 0


def _set_rw_hint(task: Task, _fd: int, _file: FileObject, argument: int) -> int:
    return 0 if task.user.load_u64(UserAddress(argument)) <= 5 else -EINVAL


def _created_query(_task: Task, _fd: int, _file: FileObject, _argument: int) -> int:
    return 0


_COMMANDS: Final[dict[int, Callable[[Task, int, FileObject, int], Result]]] = {
    F_DUPFD: _dupfd,
    F_DUPFD_CLOEXEC: _dupfd_cloexec,
    F_DUPFD_QUERY: _dupfd_query,
    F_CREATED_QUERY: _created_query,
    F_GETFD: _getfd,
    F_SETFD: _setfd,
    F_GETFL: _getfl,
    F_SETFL: _setfl,
    F_GETLK: _getlk,
    F_SETLK: _setlk,
    F_SETLKW: _setlkw,
    F_OFD_GETLK: _ofd_getlk,
    F_OFD_SETLK: _ofd_setlk,
    F_OFD_SETLKW: _ofd_setlkw,
    F_SETOWN: _setown,
    F_GETOWN: _getown,
    F_SETOWN_EX: _setown_ex,
    F_GETOWN_EX: _getown_ex,
    F_GETOWNER_UIDS: _getowner_uids,
    F_SETSIG: _setsig,
    F_GETSIG: _getsig,
    F_SETLEASE: _setlease,
    F_GETLEASE: _getlease,
    F_NOTIFY: _notify,
    F_GET_RW_HINT: _get_rw_hint,
    F_SET_RW_HINT: _set_rw_hint,
    F_GET_FILE_RW_HINT: _get_rw_hint,
    F_SET_FILE_RW_HINT: _set_rw_hint,
}
_ALLOWED_ON_PATH: Final = frozenset((F_DUPFD, F_DUPFD_CLOEXEC, F_DUPFD_QUERY, F_CREATED_QUERY, F_GETFD, F_SETFD, F_GETFL))


# -- ioctl -----------------------------------------------------------------------------------------------------------------


@syscall()
def ioctl(task: Task, fd: FdNumber, request: UInt, argument: ULong) -> Result:
    """man 2 ioctl: what every file answers; the rest is its operations'."""
    file = task.files.get_io(fd)
    if request in (FIOCLEX, FIONCLEX):
        task.files.set_cloexec(fd, request == FIOCLEX)
        return 0
    if request in (FIONBIO, FIOASYNC):
        flag = O_NONBLOCK if request == FIONBIO else O_ASYNC
        on = task.user.load_u32(UserAddress(argument))
        if request == FIOASYNC and bool(on) != bool(file.flags & O_ASYNC):
            set_async(task.kernel, file, fd, bool(on))
        file.flags = file.flags | flag if on else file.flags & ~flag
        file.ops.set_flags(file, file.flags)
        return 0
    node = file.node
    if request == FIOQSIZE:
        if not (node.is_directory or node.is_regular or node.is_symlink):
            return -ENOTTY
        task.user.store_u64(UserAddress(argument), node.refreshed_size())
        return 0
    if node.is_regular:
        if request == FIONREAD:
            task.user.store_u32(UserAddress(argument), (node.refreshed_size() - file.offset) & 0xFFFFFFFF)
            return 0
        if request == FIBMAP:
            return -EINVAL if task.credentials.has_capability(CAP_SYS_RAWIO) else -EPERM
    if request in (FICLONE, FICLONERANGE, FS_IOC_FIEMAP):
        return -EOPNOTSUPP
    if request == FIGETBSZ and (node.is_regular or node.is_directory):
        task.user.store_u32(UserAddress(argument), node.blksize)
        return 0
    return file.ops.ioctl(file, task, request, argument)
