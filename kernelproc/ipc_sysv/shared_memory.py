"""System V shared memory: segments by key, and what attaches them (man 7 sysvipc, ipc/shm.c).

A segment is one memory object. Each shmat makes an open file description whose references are the mappings, as Linux does it: so fork, splits,
unmapping and the end of a process count attachments by themselves. A segment that was removed lives on until the last attachment goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.addrspace.addresses import TASK_SIZE
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.ipc_sysv.objects import IpcObject, IpcTable, now_seconds
from polynix.kernelproc.tunables import Tunables
from polynix.kernelproc.uapi.errno import EINVAL, ENOMEM, ENOSPC
from polynix.kernelproc.uapi.fcntl import O_RDWR
from polynix.kernelproc.uapi.structs import shmid64_ds
from polynix.kernelproc.vfs.anon import AnonFileOps, AnonNodeOps
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.namespace import anonymous_name
from polynix.kernelproc.vfs.ops import FileSystemOps

if TYPE_CHECKING:
    from polynix.addrspace._usercopy import MemoryObject
    from polynix.kernelproc.task.task import Task

SHM_DEST: Final = 0o1000  # of the mode, as IPC_STAT shows it: goes with its last attachment
SHM_LOCKED: Final = 0o2000
PAGE_SIZE: Final = 4096
LARGEST_FILE: Final = (1 << 63) - 1


class ShmFileSystem(FileSystemOps):
    """Home of the segments' nodes; never mounted. Inode numbers are segment ids."""

    name = b"tmpfs"


class Segment(IpcObject):
    """One segment (``struct shmid_kernel``). Times are in seconds, 0 for never."""

    def __init__(self, table: SegmentTable, identifier: int, key: int, size: int, mode: int, task: Task) -> None:
        super().__init__(task, identifier, key, mode)
        self.table = table
        self.kernel = task.kernel
        self.size = size
        self.creator_pid = task.pid
        self.last_pid = 0
        self.attached_at = self.detached_at = 0
        self.locked = False
        self.memory: MemoryObject = task.kernel.memory.new_object(-(-size // PAGE_SIZE) * PAGE_SIZE)
        self.node = FsNode(table.fs, identifier, 0o100000 | self.mode, AnonNodeOps(b""), uid=self.uid, gid=self.gid)
        self.attachments: dict[FileObject, None] = {}

    @property
    def attached(self) -> int:
        """How many mappings there are."""
        return sum(file.references for file in self.attachments)

    def attach(self) -> FileObject:
        """A description to map; it counts while it is mapped."""
        file = Attachment(self)
        self.attachments[file] = None
        return file

    def touched(self) -> int:
        """A mapping came or went, by whoever runs now; returns the time, in seconds."""
        kernel = self.kernel
        current = kernel.loop.current if kernel.loop is not None else None
        if current is not None:
            self.last_pid = current.pid
        return now_seconds(kernel)

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

    def shown_mode(self) -> int:
        return self.mode | (SHM_DEST if self.removed else 0) | (SHM_LOCKED if self.locked else 0)

    def status(self) -> bytes:
        return shmid64_ds.pack(
            **self.permissions(), shm_segsz=self.size, shm_atime=self.attached_at, shm_dtime=self.detached_at, shm_ctime=self.changed_at,
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


class SegmentTable(IpcTable[Segment]):
    """All segments of one kernel, in its expando."""

    def __init__(self) -> None:
        super().__init__()
        self.fs = FileSystem(ShmFileSystem())

    def get(self, task: Task, key: int, size: int, flags: int) -> Segment:
        """shmget(2). Errors: EEXIST, ENOENT, EINVAL (size), EACCES, ENOSPC, ENOMEM (more than an address space holds)."""
        tunables = task.kernel.expando.get(Tunables)

        def make(identifier: int) -> Segment:
            if size < 1 or size > min(tunables.get("kernel.shmmax"), LARGEST_FILE):
                raise Errno(EINVAL)
            pages = sum(-(-each.size // PAGE_SIZE) for each in self.by_index.values())
            if pages - (-size // PAGE_SIZE) > tunables.get("kernel.shmall"):
                raise Errno(ENOSPC)
            if size > TASK_SIZE:
                raise Errno(ENOMEM)
            return Segment(self, identifier, key, size, flags, task)

        return self.get_or_make(task, key, flags, lambda segment: size <= segment.size, make, tunables.get("kernel.shmmni"))

    def listing(self) -> bytes:
        """/proc/sysvipc/shm."""
        return self.rows(
            b"       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime"
            b"                   rss                  swap\n",
            b"%10d %10d  %4o %21d %5d %5d  %5d %5d %5d %5d %5d %10d %10d %10d %21d %21d\n",
            lambda each: (
                each.key, each.id, each.shown_mode(), each.size, each.creator_pid, each.last_pid, each.attached, each.uid, each.gid, each.creator_uid,
                each.creator_gid, each.attached_at, each.detached_at, each.changed_at, each.memory.resident(), 0,
            ),
        )  # fmt: skip
