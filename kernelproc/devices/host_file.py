"""Open descriptions that the container's caller handed over: pipes, files, sockets, devices and terminals of the host, as open
files of a guest.

O_NONBLOCK is never set on an inherited description, which the caller's other processes share: pipes, fifos and terminals are
opened again through ``/proc/self/fd`` as descriptions of our own; sockets are asked with MSG_DONTWAIT; regular files are read
and written in place, because the offset *is* shared with the caller, as it would be natively.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, ClassVar

from polynix.addrspace._usercopy import MemoryObject, UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.registry import makedev
from polynix.kernelproc.uapi.errno import EACCES, EAGAIN, EINVAL, EIO, ENODEV, ENOTTY, EOPNOTSUPP
from polynix.kernelproc.uapi.fcntl import AT_FDCWD, O_ACCMODE, O_APPEND, O_NONBLOCK, O_RDWR, SEEK_CUR, SEEK_DATA, SEEK_HOLE, SEEK_SET
from polynix.kernelproc.uapi.ioctls import FIONREAD, TCGETS, TCSETS, TCSETSF, TCSETSW, TIOCGWINSZ
from polynix.kernelproc.uapi.major import MEM_MAJOR
from polynix.kernelproc.uapi.mman import PROT_WRITE
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.lookup import lookup
from polynix.kernelproc.vfs.namespace import NamespaceNode, anonymous_name
from polynix.kernelproc.vfs.ops import FileOps, FileSystemOps, FsNodeOps, Result
from polynix.kernelproc.wait_queue import ALL_EVENTS, Waiting, WaitQueue, wait

if TYPE_CHECKING:
    from polynix.kernelproc.devices.console import Console
    from polynix.kernelproc.engine import Engine
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer

_STATUS_FLAGS = O_ACCMODE | O_APPEND
_TERMIOS_SIZE = 36
_WINSIZE_SIZE = 8
_CHUNK = 65536


class HostDescriptorFs(FileSystemOps):
    """The pseudo file system of inherited descriptions, as pipefs and sockfs are; never mounted. Kept in ``kernel.expando``."""

    name = b"hostfd"

    def __init__(self) -> None:
        self.fs = FileSystem(self, b"hostfd")


class HostDescriptorNode(FsNodeOps):
    """The inode behind an inherited description.

    Opening it again (``/dev/stdin``, ``/proc/self/fd/0``) opens the host's object again.
    """

    opens_itself: ClassVar[bool] = True

    def __init__(self, kernel: Kernel, fd: int) -> None:
        self.kernel = kernel
        self.fd = fd

    def refresh(self, node: FsNode) -> None:
        status = os.fstat(self.fd)
        node.mode = status.st_mode
        node.nlink = status.st_nlink
        node.uid, node.gid = status.st_uid, status.st_gid
        node.size, node.blocks, node.blksize = status.st_size, status.st_blocks, status.st_blksize
        node.atime_ns, node.mtime_ns, node.ctime_ns = status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns
        node.rdev = status.st_rdev

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        try:
            fd = os.open(f"/proc/self/fd/{self.fd}", flags & _STATUS_FLAGS | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise Errno(error.errno or EACCES) from None
        return HostRegularFile(fd) if node.is_regular else HostStream(self.kernel.engine, _move_up(fd))

    def truncate(self, node: FsNode, length: int) -> None:
        try:
            os.ftruncate(self.fd, length)
        except OSError as error:
            raise Errno(error.errno or EINVAL) from None


class HostFileObject(FileObject):
    """An inherited description of a regular file: its offset is the host's, so that the caller and the guest move it for each
    other.
    """

    __slots__ = ("host_fd",)

    def __init__(self, ops: HostRegularFile, node: FsNode, flags: int, name: Any) -> None:
        self.host_fd = -1  # the constructor below must not rewind the caller's file
        super().__init__(ops, node, flags, name)
        self.host_fd = ops.fd

    @property
    def offset(self) -> int:
        return os.lseek(self.host_fd, 0, SEEK_CUR)

    @offset.setter
    def offset(self, value: int) -> None:
        if self.host_fd >= 0:
            os.lseek(self.host_fd, value, SEEK_SET)


class HostRegularFile(FileOps):
    """A regular file of the host, read and written in place."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.memory: MemoryObject | None = None

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        return out.write_from_fd(self.fd, offset, out.remaining)

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        return data.read_to_fd(self.fd, offset, data.remaining)

    def seek(self, file: FileObject, offset: int, whence: int) -> int:
        if whence in (SEEK_DATA, SEEK_HOLE):
            here = os.lseek(self.fd, 0, SEEK_CUR)
            try:
                return os.lseek(self.fd, offset, whence)
            except OSError as error:
                raise Errno(error.errno or EINVAL) from None
            finally:
                os.lseek(self.fd, here, SEEK_SET)
        return super().seek(file, offset, whence)

    def get_memory(self, file: FileObject, task: Task, length: int, offset: int, protection: int, shared: bool) -> tuple[MemoryObject, int]:
        if shared and protection & PROT_WRITE and file.flags & O_ACCMODE != O_RDWR:
            raise Errno(EACCES)
        if self.memory is None:
            self.memory = MemoryObject(os.dup(self.fd), file.flags & O_ACCMODE == O_RDWR, True)
        return self.memory, 0

    def fsync(self, file: FileObject, data_only: bool) -> Result:
        try:
            (os.fdatasync if data_only else os.fsync)(self.fd)
        except OSError as error:
            return -(error.errno or EIO)
        return 0

    def set_flags(self, file: FileObject, flags: int) -> None:
        """O_APPEND belongs to the host's description too, when it is shared."""

    def close(self, file: FileObject) -> None:
        _close(file, self.fd)


class WatchedQueue(WaitQueue):
    """A wait queue fed by a host descriptor, which is watched (edge-triggered) only while somebody waits."""

    __slots__ = ("_engine", "_fd", "_token")

    def __init__(self, engine: Engine, fd: int) -> None:
        super().__init__()
        self._engine = engine
        self._fd = fd
        self._token: int | None = None

    def add(self, entry: Waiting) -> None:
        super().add(entry)
        if self._token is not None:
            # Register afresh: a descriptor that is ready already reports at once, and only then.
            self._engine.unwatch(self._fd, self._token)
        self._token = self._engine.watch(self._fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET, self._ready)

    def remove(self, entry: Waiting) -> None:
        super().remove(entry)
        if self._token is not None and not len(self):
            self._engine.unwatch(self._fd, self._token)
            self._token = None

    def wait(  # type: ignore[override]  # the long form, which calls add and remove
        self, mask: int = ALL_EVENTS, deadline_ns: int | None = None, *, interruptible: bool = True, exclusive: bool = False
    ) -> Coroutine[Any, Any, bool]:
        return wait(((self, mask),), deadline_ns, interruptible=interruptible, exclusive=exclusive)

    def _ready(self, events: int) -> None:
        self.notify(events | (POLLRDNORM if events & POLLIN else 0) | (POLLWRNORM if events & POLLOUT else 0))

    def close(self) -> None:
        """The descriptor is about to be closed."""
        if self._token is not None:
            self._engine.unwatch(self._fd, self._token)
            self._token = None


class HostStream(FileOps):
    """A pipe, fifo, terminal, device or socket of the host behind a non-blocking description of our own (``shared`` when it
    could not be opened again).
    """

    seekable: ClassVar[bool] = False
    always_ready: ClassVar[bool] = False
    whole_writes: ClassVar[bool] = True

    def __init__(self, engine: Engine, fd: int, *, shared: bool = False) -> None:
        self.fd = fd
        self.shared = shared
        self.queue = WatchedQueue(engine, fd)
        self.is_terminal = os.isatty(fd)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLRDHUP)

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        if self.shared:
            # Not "look, then read": somebody else may take what we saw, and nothing may block the kernel.
            result = out.write_from_fd(self.fd, -1, out.remaining, os.RWF_NOWAIT)
            if result != -EOPNOTSUPP:
                return result
            if not self.query_events(file) & (POLLIN | POLLHUP | POLLERR):
                return -EAGAIN
        return out.write_from_fd(self.fd, -1, out.remaining)

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        count = data.remaining
        if self.shared:
            result = data.read_to_fd(self.fd, -1, count, os.RWF_NOWAIT)
            if result != -EOPNOTSUPP:
                return result
            if not self.query_events(file) & (POLLOUT | POLLERR | POLLHUP):
                return -EAGAIN
            count = min(count, select.PIPE_BUF)  # POLLOUT promises no more
        return data.read_to_fd(self.fd, -1, count)

    def query_events(self, file: FileObject) -> int:
        ready = self._poll.poll(0)
        events = ready[0][1] if ready else 0
        return events | (POLLRDNORM if events & POLLIN else 0) | (POLLWRNORM if events & POLLOUT else 0)

    def wait_queue(self, file: FileObject) -> WaitQueue | None:
        return self.queue

    def ioctl(self, file: FileObject, task: Task, request: int, argument: int) -> Result:
        address = UserAddress(argument)
        try:
            if request == FIONREAD:
                task.copy_out(address, fcntl.ioctl(self.fd, request, bytes(4)))
            elif not self.is_terminal:
                return -ENOTTY
            elif request in (TCGETS, TIOCGWINSZ):
                task.copy_out(address, fcntl.ioctl(self.fd, request, bytes(_TERMIOS_SIZE if request == TCGETS else _WINSIZE_SIZE)))
            elif request in (TCSETS, TCSETSW, TCSETSF):
                fcntl.ioctl(self.fd, request, task.copy_in(address, _TERMIOS_SIZE))
            else:
                return -ENOTTY
        except OSError as error:
            return -(error.errno or ENOTTY)
        return 0

    def fsync(self, file: FileObject, data_only: bool) -> Result:
        return -EINVAL

    def get_memory(self, file: FileObject, task: Task, length: int, offset: int, protection: int, shared: bool) -> tuple[MemoryObject, int]:
        raise Errno(ENODEV)

    def close(self, file: FileObject) -> None:
        self.queue.close()
        _close(file, self.fd)


class HostSocket(HostStream):
    """A socket of the host: reads and writes go by MSG_DONTWAIT, which needs no flag of the shared description."""

    def __init__(self, engine: Engine, fd: int) -> None:
        super().__init__(engine, fd, shared=True)
        self.socket = socket.socket(fileno=os.dup(fd))
        # Python sets O_NONBLOCK only when a time-out is asked for; the description stays as the caller made it.

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        try:
            return out.write(self.socket.recv(min(out.remaining, _CHUNK), socket.MSG_DONTWAIT))
        except OSError as error:
            return -(error.errno or EIO)

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        try:
            sent = self.socket.send(data.peek(_CHUNK if self.socket.type == socket.SOCK_STREAM else -1), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            return -(error.errno or EIO)
        data.skip(sent)
        return sent

    def close(self, file: FileObject) -> None:
        super().close(file)
        self.socket.close()


def open_host_descriptors(kernel: Kernel, descriptors: list[int], terminal: bool) -> tuple[list[FileObject], Console | None]:
    """Open files for the descriptors 0, 1, … of a program; takes the descriptors over. With ``terminal``, those that are the
    terminal of the first one become the container's console.
    """
    console: Console | None = None
    console_file: FileObject | None = None
    console_device = -1
    if terminal and descriptors and os.isatty(descriptors[0]):
        from polynix.kernelproc.devices.console import make_console, open_console

        console_device = os.fstat(descriptors[0]).st_rdev
        console = make_console(kernel, os.dup(descriptors[0]))
        console_file = open_console(console)
    files: list[FileObject] = []
    seen: dict[tuple[int, int, int, int], FileObject] = {}
    for fd in descriptors:
        status = os.fstat(fd)
        if console_file is not None and stat.S_ISCHR(status.st_mode) and status.st_rdev == console_device:
            files.append(console_file)
            os.close(fd)
            continue
        flags = fcntl.fcntl(fd, fcntl.F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK)
        key = (status.st_dev, status.st_ino, flags, stat.S_IFMT(status.st_mode))
        if key in seen:  # 2>&1: one description, as far as anybody can tell
            files.append(seen[key])
            os.close(fd)
            continue
        seen[key] = file = open_host_descriptor(kernel, fd, flags, status)
        files.append(file)
    return files, console


def open_host_descriptor(kernel: Kernel, fd: int, flags: int, status: os.stat_result) -> FileObject:
    """One inherited descriptor as an open file; takes it over."""
    if stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == MEM_MAJOR:
        for place in _device_places(kernel, status.st_rdev):
            os.close(fd)
            from polynix.kernelproc.mounts import BootTask

            task: Any = BootTask(kernel)
            return FileObject(kernel.devices.open(task, place.node.rdev, place.node, flags, False), place.node, flags, place)
    fs = kernel.expando.get(HostDescriptorFs).fs
    node_ops = HostDescriptorNode(kernel, fd)
    node = FsNode(fs, status.st_ino or fs.new_ino(), status.st_mode, node_ops, uid=status.st_uid, gid=status.st_gid, rdev=status.st_rdev)
    node_ops.refresh(node)
    try:
        label = os.fsencode(os.readlink(f"/proc/self/fd/{fd}"))
    except OSError:
        label = b"host:[%d]" % node.ino
    name = anonymous_name(node, label)
    if stat.S_ISREG(status.st_mode):
        return HostFileObject(HostRegularFile(fd), node, flags, name)
    ops: FileOps
    if stat.S_ISSOCK(status.st_mode):
        ops = HostSocket(kernel.engine, fd)
    elif stat.S_ISDIR(status.st_mode):
        raise Errno(EOPNOTSUPP)
    else:
        own, shared = _own_description(fd, flags)
        ops = HostStream(kernel.engine, own, shared=shared)
    return FileObject(ops, node, flags & ~O_NONBLOCK, name)


def _device_places(kernel: Kernel, device: int) -> list[NamespaceNode]:
    """The container's own node of a memory device (null, zero …), which stands in for the host's."""
    from polynix.kernelproc.mounts import BootTask

    task: Any = BootTask(kernel)
    number = makedev(os.major(device), os.minor(device))
    for name, (_, dev, _) in kernel.devices.nodes.items():
        if dev == number:
            try:
                place = lookup(task, AT_FDCWD, b"/dev/" + name)
            except Errno:
                continue
            if place.node.rdev == number:
                return [place]
    return []


def _own_description(fd: int, flags: int) -> tuple[int, bool]:
    """A non-blocking description of our own of the same pipe or device: (descriptor, shared).

    The node keeps the inherited one.
    """
    try:
        return _move_up(os.open(f"/proc/self/fd/{fd}", flags & O_ACCMODE | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)), False
    except OSError:
        return os.dup(fd), True


def _close(file: FileObject, fd: int) -> None:
    """Close a description's descriptor, and with the last one the inherited one too: a pipe must not stay open for our sake."""
    node_ops = file.node.ops
    assert isinstance(node_ops, HostDescriptorNode)
    if fd != node_ops.fd:
        os.close(fd)
    if file.node.opens == 1:
        os.close(node_ops.fd)


def _move_up(fd: int) -> int:
    if fd >= 64:
        return fd
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)
    os.close(fd)
    return high
