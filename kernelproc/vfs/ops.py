"""The interfaces of the virtual file system, in one place: what a file system, a device or a socket implements.

``FileSystemOps`` (one mounted file system), ``FsNodeOps`` (one inode), ``FileOps`` (one open file description). The defaults answer what Linux
answers for an object that lacks the operation. Nothing here blocks, except where a method is ``async`` or may return an awaitable:
``Result = int | Awaitable[int]``; an ``int`` below zero is ``-errno``. Any method may raise ``Errno`` instead.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EBADF, EINVAL, EISDIR, ENODATA, ENODEV, ENOTDIR, ENOTTY, EOPNOTSUPP, EPERM, ESPIPE
from polynix.kernelproc.uapi.fcntl import F_GETPIPE_SZ, F_SETPIPE_SZ, SEEK_CUR, SEEK_END, SEEK_SET
from polynix.kernelproc.uapi.poll import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM

if TYPE_CHECKING:
    from polynix.addrspace._usercopy import MemoryObject
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.file_system import FileSystem
    from polynix.kernelproc.vfs.fs_node import FsNode
    from polynix.kernelproc.wait_queue import WaitQueue

Result = int | Awaitable[int]


class DirectorySink(Protocol):
    """Where ``readdir`` puts entries; False means the buffer is full and the entry was not taken."""

    def add(self, inode: int, next_offset: int, kind: int, name: bytes) -> bool:
        """One entry: inode number, the directory offset *after* it, DT_* kind, name."""


class FileOps:
    """One open file description's behaviour. The default is a seekable nothing; override what the object can do."""

    seekable: ClassVar[bool] = True  # False: lseek, pread, pwrite give ESPIPE
    always_ready: ClassVar[bool] = True  # True: epoll refuses it with EPERM, poll says ready (regular files)
    whole_writes: ClassVar[bool] = False  # True: a blocking write(2) goes on after a partial count (pipes, stream sockets, terminals)

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        """Fill ``out`` from ``offset`` (ignored by streams); returns the count, 0 at the end, or -EAGAIN when a blocking caller should wait for POLLIN."""
        return -EINVAL

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        """Store from ``data`` at ``offset``; returns the count or -EAGAIN when a blocking caller should wait for POLLOUT.

        O_APPEND is resolved by the caller through ``size``. The caller sends SIGPIPE for -EPIPE.
        """
        return -EINVAL

    def seek(self, file: FileObject, offset: int, whence: int) -> int:
        """The new offset (not stored here). SEEK_DATA/SEEK_HOLE included where they make sense."""
        if not self.seekable:
            raise Errno(ESPIPE)
        if whence == SEEK_SET:
            target = offset
        elif whence == SEEK_CUR:
            target = file.offset + offset
        elif whence == SEEK_END:
            target = file.node.refreshed_size() + offset
        else:
            raise Errno(EINVAL)
        if target < 0 or target >= 1 << 63:
            raise Errno(EINVAL)
        return target

    def readdir(self, file: FileObject, sink: DirectorySink) -> None:
        """Feed entries from ``file.offset`` on (0 and 1 are . and ..) until the sink is full; advance ``file.offset`` past each taken one."""
        raise Errno(ENOTDIR)

    def ioctl(self, file: FileObject, task: Task, request: int, argument: int) -> Result:
        """Device control; ``argument`` is the raw third register. FIONBIO, FIOCLEX and FIONCLEX are handled by the caller."""
        return -ENOTTY

    def fcntl(self, file: FileObject, task: Task, command: int, argument: int) -> Result:
        """fcntl commands of one kind of file: F_GETPIPE_SZ, F_SETPIPE_SZ, F_ADD_SEALS, F_GET_SEALS … ``argument`` is the raw third register."""
        return -EBADF if command in (F_GETPIPE_SZ, F_SETPIPE_SZ) else -EINVAL

    def query_events(self, file: FileObject) -> int:
        """POLL* bits that hold now."""
        return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM

    def wait_queue(self, file: FileObject) -> WaitQueue | None:
        """The queue that is notified with POLL* bits when ``query_events`` may have changed; None if it never changes."""
        return None

    def get_memory(self, file: FileObject, task: Task, length: int, offset: int, protection: int, shared: bool) -> tuple[MemoryObject, int]:
        """The memory object behind a map of this file, and the offset in it that corresponds to file offset 0. Errors: ENODEV, EACCES."""
        raise Errno(ENODEV)

    def mapped(self, file: FileObject, length: int, offset: int) -> None:
        """A map of the file was made (for accounting and atime)."""

    def fsync(self, file: FileObject, data_only: bool) -> Result:
        """Make the file durable. EINVAL for objects without storage."""
        return -EINVAL

    def flush(self, file: FileObject, task: Task) -> None:
        """One descriptor of this description was closed (each close, not the last only)."""

    def close(self, file: FileObject) -> None:
        """The last reference went away."""

    def set_flags(self, file: FileObject, flags: int) -> None:
        """F_SETFL changed the status flags (already stored in ``file.flags``)."""

    def fdinfo(self, file: FileObject) -> str:
        """Extra lines for /proc/PID/fdinfo."""
        return ""


class FsNodeOps:
    """One inode's behaviour. A directory overrides the look-up part, a file ``create_file_ops``, a symlink ``readlink``."""

    opens_itself: ClassVar[bool] = False  # True: a fifo or device node that ``create_file_ops`` opens, not the kernel's own pipe or device

    volatile: ClassVar[bool] = False  # True for a directory whose names come and go by themselves: path walking asks ``lookup`` each time
    keeps_names: ClassVar[bool] = True  # False for a volatile one whose entries (and so nodes) live only as long as someone holds them

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        """Open: the operations of a new file description. O_TRUNC is done by the caller through ``truncate``."""
        raise Errno(EOPNOTSUPP)

    def prepare_open(self, node: FsNode, flags: int) -> Awaitable[None] | None:
        """Before an open for writing: what must be awaited first, because it takes long (a big copy-up)."""
        return None

    def is_immutable(self, node: FsNode) -> bool:
        """Whether the content is taken never to change (a file of the tree below the overlay)."""
        return False

    # directories ----------------------------------------------------------------------------------------------------------------------------
    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        """The child called ``name``. Errors: ENOENT, ENOTDIR."""
        raise Errno(ENOTDIR)

    def mkdir(self, node: FsNode, name: bytes, mode: int, uid: int, gid: int) -> FsNode:
        """A new directory; ``mode`` has the umask applied."""
        raise Errno(EPERM)

    def mknod(self, node: FsNode, name: bytes, mode: int, rdev: int, uid: int, gid: int) -> FsNode:
        """A new regular file (S_IFREG), fifo, socket or device node."""
        raise Errno(EPERM)

    def symlink(self, node: FsNode, name: bytes, target: bytes, uid: int, gid: int) -> FsNode:
        """A new symbolic link."""
        raise Errno(EPERM)

    def create_tmpfile(self, node: FsNode, mode: int, uid: int, gid: int) -> FsNode:
        """O_TMPFILE: a regular file with no name (link count 0)."""
        raise Errno(EOPNOTSUPP)

    def link(self, node: FsNode, name: bytes, child: FsNode) -> None:
        """A new hard link to ``child`` (same file system)."""
        raise Errno(EPERM)

    def unlink(self, node: FsNode, name: bytes, child: FsNode) -> None:
        """Remove a name that is no directory."""
        raise Errno(EPERM)

    def rmdir(self, node: FsNode, name: bytes, child: FsNode) -> None:
        """Remove an empty directory. Errors: ENOTEMPTY."""
        raise Errno(EPERM)

    def rename(self, node: FsNode, name: bytes, child: FsNode, new_parent: FsNode, new_name: bytes, replaced: FsNode | None, flags: int) -> None:
        """Move ``child``; with RENAME_EXCHANGE swap it with ``replaced``; RENAME_WHITEOUT leaves a whiteout. Checks of the VFS are done."""
        raise Errno(EPERM)

    # files ----------------------------------------------------------------------------------------------------------------------------------
    def readlink(self, node: FsNode, task: Task) -> bytes:
        """The target of a symlink."""
        raise Errno(EINVAL)

    def follow(self, node: FsNode, task: Task) -> Any:
        """Magic links of /proc: a NamespaceNode to jump to, or None to walk ``readlink``."""
        return None

    def dynamic_name(self, node: FsNode) -> bytes:
        """What /proc/PID/fd shows for a file that was not opened by name: ``pipe:[ino]``, ``socket:[ino]``, ``anon_inode:[eventfd]``."""
        return b"%s:[%d]" % (node.fs.ops.name, node.ino)

    def truncate(self, node: FsNode, length: int) -> None:
        """Set the size. Permission, RLIMIT_FSIZE and seals of the description were checked by the caller."""
        raise Errno(EISDIR if node.is_directory else EINVAL)

    def allocate(self, node: FsNode, mode: int, offset: int, length: int) -> None:
        """fallocate(2)."""
        raise Errno(EOPNOTSUPP)

    def refresh(self, node: FsNode) -> None:
        """Bring ``node``'s attributes up to date before they are shown (files that change underneath, /proc)."""

    def set_attributes(self, node: FsNode, changes: dict[str, int]) -> None:
        """Persist changed attributes among mode, uid, gid, atime_ns, mtime_ns, ctime_ns; the node's fields are stored by the caller after this returns."""

    def get_xattr(self, node: FsNode, name: bytes) -> bytes:
        """Errors: ENODATA, EOPNOTSUPP."""
        raise Errno(EOPNOTSUPP)

    def set_xattr(self, node: FsNode, name: bytes, value: bytes, flags: int) -> None:
        """XATTR_CREATE / XATTR_REPLACE in ``flags``."""
        raise Errno(EOPNOTSUPP)

    def list_xattrs(self, node: FsNode) -> list[bytes]:
        """All names."""
        return []

    def remove_xattr(self, node: FsNode, name: bytes) -> None:
        raise Errno(ENODATA)

    def forget(self, node: FsNode) -> None:
        """The last name and the last reference are gone: free the storage."""


class FileSystemOps:
    """One file system instance."""

    name: ClassVar[bytes] = b"none"
    magic: ClassVar[int] = 0
    creates: ClassVar[bool] = True  # False: who would make a name is told ENOENT, whatever he may do

    def statfs(self, fs: FileSystem) -> dict[str, int]:
        """Fields of struct statfs that differ from zero."""
        return {"f_type": self.magic, "f_bsize": 4096, "f_namelen": 255, "f_frsize": 4096}

    def sync(self, fs: FileSystem) -> Result:
        """Write everything back."""
        return 0

    def unmount(self, fs: FileSystem) -> None:
        """The last mount went away, and nobody uses what it showed."""
