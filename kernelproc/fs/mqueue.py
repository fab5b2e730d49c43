"""mqueue: the file system whose files are POSIX message queues. mq_open finds them here whether it is mounted or not; there is one in a container."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.tunables import Tunables
from polynix.kernelproc.uapi.capability import CAP_SYS_RESOURCE
from polynix.kernelproc.uapi.errno import EACCES, EEXIST, EINVAL, EMFILE, ENOENT, ENOSPC
from polynix.kernelproc.uapi.fcntl import O_ACCMODE, O_CREAT, O_EXCL, O_RDWR, O_WRONLY
from polynix.kernelproc.uapi.resource import RLIMIT_MSGQUEUE
from polynix.kernelproc.vfs import create
from polynix.kernelproc.vfs.directory import FIRST_COOKIE, DirectoryItem, DirectoryOps, kind_of
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.message_queue import MessageQueue, Owner, charge
from polynix.kernelproc.vfs.mount import Mount
from polynix.kernelproc.vfs.namespace import NamespaceNode
from polynix.kernelproc.vfs.ops import FileOps, FileSystemOps, FsNodeOps
from polynix.kernelproc.vfs.permissions import MAY_READ, MAY_WRITE, check_access

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

MQUEUE_MAGIC: Final = 0x19800202  # linux/magic.h does not export it
_HARD_MESSAGES, _HARD_BYTES = 65536, 16 << 20  # HARD_MSGMAX, HARD_MSGSIZEMAX: what CAP_SYS_RESOURCE may ask for
_ENTRY_SIZE: Final = 20  # what a name adds to the directory's st_size
_ACCESS: Final = (MAY_READ, MAY_WRITE, MAY_READ | MAY_WRITE)


class MqueueFileSystem(FileSystemOps, Owner):
    """The instance of a container; ``queues`` are all that exist, those included that have lost their name."""

    name = b"mqueue"
    magic = MQUEUE_MAGIC

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.queues: dict[FsNode, MessageQueue] = {}

    def tunable(self, name: str) -> int:
        """A number of /proc/sys/fs/mqueue."""
        return self.kernel.expando.get(Tunables).get(f"fs.mqueue.{name}")

    def forget(self, node: FsNode) -> None:
        del self.queues[node]

    def check_limits(self, task: Task, most_messages: int, most_bytes: int) -> None:
        """For a new queue. Errors: EINVAL, EMFILE (RLIMIT_MSGQUEUE), ENOSPC (their number)."""
        privileged = task.credentials.has_capability(CAP_SYS_RESOURCE)
        if len(self.queues) >= self.tunable("queues_max") and not privileged:
            raise Errno(ENOSPC)
        highest_messages, highest_bytes = (_HARD_MESSAGES, _HARD_BYTES) if privileged else (self.tunable("msg_max"), self.tunable("msgsize_max"))
        if not 0 < most_messages <= highest_messages or not 0 < most_bytes <= highest_bytes:
            raise Errno(EINVAL)
        used = sum(queue.charge for node, queue in self.queues.items() if node.uid == task.credentials.fsuid)
        if used + charge(most_messages, most_bytes) > task.group.limits.soft(RLIMIT_MSGQUEUE):
            raise Errno(EMFILE)

    def default_limits(self) -> tuple[int, int]:
        """Messages, and bytes in each, of a queue that was made without attributes."""
        return min(self.tunable("msg_default"), self.tunable("msg_max")), min(self.tunable("msgsize_default"), self.tunable("msgsize_max"))


class MqueueDirectory(FsNodeOps):
    """The root, and the only directory."""

    def __init__(self, instance: MqueueFileSystem) -> None:
        self.instance = instance
        self.version = 0
        self._children: dict[bytes, tuple[int, FsNode]] = {}
        self._next_cookie = FIRST_COOKIE

    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        found = self._children.get(name)
        if found is None:
            raise Errno(ENOENT)
        return found[1]

    def mknod(self, node: FsNode, name: bytes, mode: int, rdev: int, uid: int, gid: int) -> FsNode:
        if not stat.S_ISREG(mode):
            return super().mknod(node, name, mode, rdev, uid, gid)
        queue = MessageQueue(*self.instance.default_limits())
        made = FsNode(node.fs, node.fs.new_ino(), mode, queue, uid=uid, gid=gid)
        self.instance.queues[made] = queue
        self._children[name] = (self._next_cookie, made)
        self._next_cookie += 1
        self._changed(node, _ENTRY_SIZE)
        return made

    def unlink(self, node: FsNode, name: bytes, child: FsNode) -> None:
        del self._children[name]
        child.nlink -= 1
        self._changed(node, -_ENTRY_SIZE)

    def _changed(self, node: FsNode, size: int) -> None:
        self.version += 1
        node.size += size
        node.mtime_ns = node.ctime_ns = node.fs.now_ns()

    def list(self, node: FsNode) -> list[DirectoryItem]:
        return [DirectoryItem(cookie, name, child.ino, kind_of(child.mode)) for name, (cookie, child) in self._children.items()]

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        return DirectoryOps(self)


class _Holder:
    """Where the kernel keeps the instance, and an internal mount of it."""

    def __init__(self) -> None:
        self.mount: Mount | None = None


def _mount_of(kernel: Kernel) -> Mount:
    holder = kernel.expando.get(_Holder)
    if holder.mount is None:
        instance = MqueueFileSystem(kernel)
        fs = FileSystem(instance, b"mqueue")
        fs.root = FsNode(fs, fs.new_ino(), stat.S_IFDIR | 0o1777, MqueueDirectory(instance), nlink=2)
        fs.root.size = 2 * _ENTRY_SIZE
        holder.mount = Mount(fs, fs.root_entry)
    return holder.mount


def make_mqueue(kernel: Kernel, task: Task | None, source: bytes, flags: int, data: bytes) -> FileSystem:
    """mount -t mqueue: the one that mq_open uses."""
    return _mount_of(kernel).fs


def _directory(task: Task, name: bytes) -> NamespaceNode:
    """Where queues are. Errors: ENOENT, EACCES for what is no name of a queue."""
    if not name:
        raise Errno(ENOENT)
    if name in (b".", b"..") or b"/" in name:
        raise Errno(EACCES)
    mount = _mount_of(task.kernel)
    return NamespaceNode(mount, mount.root)


def open_queue(task: Task, name: bytes, flags: int, mode: int, limits: tuple[int, int] | None) -> FileObject:
    """mq_open(3); ``limits`` are those of a new queue, or None for the default ones.
    Errors: ENOENT, EEXIST, EACCES, EINVAL, ENAMETOOLONG, EMFILE, ENOSPC.
    """
    directory = _directory(task, name)
    instance = directory.mount.fs.ops
    assert isinstance(instance, MqueueFileSystem)
    entry = directory.entry.lookup(name)
    if entry.node is None:
        if not flags & O_CREAT:
            raise Errno(ENOENT)
        limits = limits or instance.default_limits()
        instance.check_limits(task, *limits)
        entry = create.make_node(task, directory, name, stat.S_IFREG | (mode & 0o7777 & ~task.fs.umask))
        queue = entry.node.ops
        assert isinstance(queue, MessageQueue)
        queue.most_messages, queue.most_bytes = limits
    else:
        if flags & O_CREAT and flags & O_EXCL:
            raise Errno(EEXIST)
        if flags & O_ACCMODE == O_RDWR | O_WRONLY:
            raise Errno(EINVAL)
        check_access(task.credentials, entry.node, _ACCESS[flags & O_ACCMODE])
    node = entry.node
    return FileObject(node.ops.create_file_ops(node, task, flags), node, flags, NamespaceNode(directory.mount, entry))


def unlink_queue(task: Task, name: bytes) -> None:
    """mq_unlink(3). Errors: ENOENT, EACCES, EPERM."""
    create.remove(task, _directory(task, name), name)
