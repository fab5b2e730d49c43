"""System V shared memory: segments by key, and what attaches them (man 7 sysvipc, ipc/shm.c).

A segment is one memory object. Each shmat makes an open file description whose references are the mappings, as Linux does it: so fork, splits,
unmapping and the end of a process count attachments by themselves. A segment that was removed lives on until the last attachment goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.tunables import Tunables
from polynix.kernelproc.uapi.capability import CAP_IPC_OWNER, CAP_SYS_ADMIN
from polynix.kernelproc.uapi.errno import EACCES, EEXIST, EIDRM, EINVAL, ENOENT, ENOSPC, EPERM
from polynix.kernelproc.uapi.fcntl import O_RDWR
from polynix.kernelproc.uapi.ipc import IPC_CREAT, IPC_EXCL, IPC_PRIVATE
from polynix.kernelproc.uapi.structs import shmid64_ds
from polynix.kernelproc.vfs.anon import AnonFileOps, AnonNodeOps
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.namespace import anonymous_name
from polynix.kernelproc.vfs.ops import FileSystemOps

if TYPE_CHECKING:
    from polynix.addrspace._usercopy import MemoryObject
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

INDICES: Final = 32768  # ids are a sequence number times this, plus an index
SHM_DEST: Final = 0o1000  # of the mode, as IPC_STAT shows it: goes with its last attachment
SHM_LOCKED: Final = 0o2000
S_IRUGO, S_IWUGO = 0o444, 0o222
PAGE_SIZE: Final = 4096


class ShmFileSystem(FileSystemOps):
    """Home of the segments' nodes; never mounted. Inode numbers are segment ids."""

    name = b"tmpfs"


class Segment:
    """One segment (``struct shmid_kernel``). Times are in seconds, 0 for never."""

    def __init__(self, table: SegmentTable, identifier: int, key: int, size: int, mode: int, task: Task) -> None:
        credentials = task.credentials
        self.table = table
        self.id = identifier
        self.key = key
        self.size = size
        self.mode = mode
        self.uid = self.creator_uid = credentials.euid
        self.gid = self.creator_gid = credentials.egid
        self.creator_pid = task.pid
        self.last_pid = 0
        self.attached_at = self.detached_at = 0
        self.changed_at = task.kernel.clock.realtime_ns() // 1_000_000_000
        self.removed = False
        self.locked = False
        self.memory: MemoryObject = task.kernel.memory.new_object(-(-size // PAGE_SIZE) * PAGE_SIZE)
        self.node = FsNode(table.fs, identifier, 0o100000 | mode, AnonNodeOps(b""), uid=self.uid, gid=self.gid)
        self.attachments: dict[FileObject, None] = {}

    @property
    def attached(self) -> int:
        """How many mappings there are."""
        return sum(file.references for file in self.attachments)

    def check(self, task: Task, wanted: int) -> None:
        """``wanted``: permission bits as in a mode's lowest digit, repeated (S_IRUGO and so on). Errors: EACCES."""
        credentials = task.credentials
        granted = self.mode
        if credentials.euid in (self.uid, self.creator_uid):
            granted >>= 6
        elif credentials.in_group(self.gid) or credentials.in_group(self.creator_gid):
            granted >>= 3
        if wanted & 7 & ~granted and not credentials.has_capability(CAP_IPC_OWNER):
            raise Errno(EACCES)

    def check_owner(self, task: Task) -> None:
        """Errors: EPERM unless the owner, the creator or CAP_SYS_ADMIN."""
        if task.credentials.euid not in (self.uid, self.creator_uid) and not task.credentials.has_capability(CAP_SYS_ADMIN):
            raise Errno(EPERM)

    def attach(self) -> FileObject:
        """A description to map; it counts while it is mapped."""
        file = Attachment(self)
        self.attachments[file] = None
        return file

    def touched(self) -> int:
        """A mapping came or went, by whoever runs now; returns the time, in seconds."""
        kernel = self.table.kernel
        current = kernel.loop.current if kernel.loop is not None else None
        if current is not None:
            self.last_pid = current.pid
        return kernel.clock.realtime_ns() // 1_000_000_000

    def detached(self, file: FileObject) -> None:
        """The last mapping of an attachment is gone."""
        del self.attachments[file]
        if self.removed and not self.attachments:
            self.table.forget(self)

    def remove(self) -> None:
        """IPC_RMID: the key is free at once, the memory with the last attachment."""
        self.removed = True
        self.table.forget_key(self)
        if not self.attachments:
            self.table.forget(self)

    def status(self) -> bytes:
        """As IPC_STAT shows it."""
        return shmid64_ds.pack(
            key=self.key, uid=self.uid, gid=self.gid, cuid=self.creator_uid, cgid=self.creator_gid,
            mode=self.mode | (SHM_DEST if self.removed else 0) | (SHM_LOCKED if self.locked else 0), seq=self.id // INDICES,
            shm_segsz=self.size, shm_atime=self.attached_at, shm_dtime=self.detached_at, shm_ctime=self.changed_at,
            shm_cpid=self.creator_pid, shm_lpid=self.last_pid, shm_nattch=self.attached,
        )  # fmt: skip


class Attachment(FileObject):
    """What one shmat mapped; its references are the mappings."""

    __slots__ = ("segment",)

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        name = anonymous_name(segment.node, b"/SYSV%08x (deleted)" % (segment.key & 0xFFFFFFFF))
        super().__init__(ShmFileOps(segment), segment.node, O_RDWR, name)

    def retain(self) -> FileObject:
        self.segment.attached_at = self.segment.touched()
        return super().retain()

    def release(self) -> None:
        self.segment.detached_at = self.segment.touched()
        super().release()


class ShmFileOps(AnonFileOps):
    """What a mapping of a segment holds."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment

    def close(self, file: FileObject) -> None:
        self.segment.detached(file)


class SegmentTable:
    """All segments of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.fs = FileSystem(ShmFileSystem())
        self.by_index: dict[int, Segment] = {}
        self._by_key: dict[int, Segment] = {}
        self._sequence = 0

    def get(self, task: Task, key: int, size: int, flags: int) -> Segment:
        """shmget(2). Errors: EEXIST, ENOENT, EINVAL (size), EACCES, ENOSPC."""
        segment = self._by_key.get(key) if key != IPC_PRIVATE else None
        if segment is not None:
            if flags & IPC_CREAT and flags & IPC_EXCL:
                raise Errno(EEXIST)
            if size > segment.size:
                raise Errno(EINVAL)
            segment.check(task, (flags & 0o777) >> 6 | (flags & 0o777) >> 3 | flags & 0o777)
            return segment
        if key != IPC_PRIVATE and not flags & IPC_CREAT:
            raise Errno(ENOENT)
        tunables = task.kernel.expando.get(Tunables)
        if size < 1 or size > tunables.get("kernel.shmmax"):
            raise Errno(EINVAL)
        pages = sum(-(-each.size // PAGE_SIZE) for each in self.by_index.values())
        if len(self.by_index) >= min(tunables.get("kernel.shmmni"), INDICES) or pages - (-size // PAGE_SIZE) > tunables.get("kernel.shmall"):
            raise Errno(ENOSPC)
        index = next(number for number in range(INDICES) if number not in self.by_index)
        segment = self.by_index[index] = Segment(self, self._sequence * INDICES + index, key, size, flags & 0o777, task)
        if key != IPC_PRIVATE:
            self._by_key[key] = segment
        return segment

    def find(self, identifier: int) -> Segment:
        """Errors: EINVAL (never was), EIDRM (no longer is)."""
        if identifier < 0:
            raise Errno(EINVAL)
        segment = self.by_index.get(identifier % INDICES)
        if segment is None:
            raise Errno(EINVAL)
        if segment.id != identifier:
            raise Errno(EIDRM)
        return segment

    def forget_key(self, segment: Segment) -> None:
        """Nobody finds it by its key any more."""
        if self._by_key.get(segment.key) is segment:
            del self._by_key[segment.key]
        segment.key = IPC_PRIVATE

    def forget(self, segment: Segment) -> None:
        """Its memory goes as soon as nothing maps it."""
        del self.by_index[segment.id % INDICES]
        self._sequence = (self._sequence + 1) % 0x10000


def listing(kernel: Kernel) -> bytes:
    """/proc/sysvipc/shm."""
    lines = [b"       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime"
             b"                   rss                  swap\n"]  # fmt: skip
    for _, each in sorted(segments(kernel).by_index.items()):
        mode = each.mode | (SHM_DEST if each.removed else 0) | (SHM_LOCKED if each.locked else 0)
        lines.append(
            b"%10d %10d  %4o %21d %5d %5d  %5d %5d %5d %5d %5d %10d %10d %10d %21d %21d\n"
            % (each.key, each.id, mode, each.size, each.creator_pid, each.last_pid, each.attached, each.uid, each.gid, each.creator_uid,
               each.creator_gid, each.attached_at, each.detached_at, each.changed_at, each.memory.resident(), 0)
        )  # fmt: skip
    return b"".join(lines)


def segments(kernel: Kernel) -> SegmentTable:
    """The table of a kernel, made at first use."""
    holder = kernel.expando.get(_Holder)
    if holder.table is None:
        holder.table = SegmentTable(kernel)
    return holder.table


class _Holder:
    def __init__(self) -> None:
        self.table: SegmentTable | None = None
