"""Mounts by descriptor: file systems that are being configured, and trees that hang nowhere yet (man 2 fsopen, fsmount, open_tree)."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EBUSY, EINVAL, ENODATA
from polynix.kernelproc.vfs.anon import AnonFileOps
from polynix.kernelproc.vfs.lookup import PathFileOps

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.file_system import FileSystem
    from polynix.kernelproc.vfs.namespace import Namespace

# Flags of any file system that change nothing here, as those of mount(2) don't.
_WITHOUT_EFFECT = frozenset((b"async", b"dirsync", b"lazytime", b"mand", b"nolazytime", b"nomand", b"silent", b"sync"))


class Phase(Enum):
    """Where a configuration stands (``enum fs_context_phase``)."""

    CREATE = auto()  # parameters, then a file system
    MOUNT = auto()  # there is one: fsmount
    RECONFIGURE = auto()  # parameters of one that is mounted
    DONE = auto()  # mounted, or failed


class FsConfiguration(AnonFileOps):
    """The file of fsopen and fspick. Parameters are collected, and looked at when the file system is made."""

    def __init__(self, kind: bytes, fs: FileSystem | None = None) -> None:
        self.kind = kind
        self.fs = fs
        self.phase = Phase.CREATE if fs is None else Phase.RECONFIGURE
        self.source = b""
        self.options: list[bytes] = []
        self.read_only: bool | None = None

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> int:
        return -ENODATA  # no messages

    def set(self, key: bytes, value: bytes | None) -> None:
        """FSCONFIG_SET_FLAG and, with a ``value``, FSCONFIG_SET_STRING. Errors: EBUSY (too late), EINVAL."""
        if self.phase not in (Phase.CREATE, Phase.RECONFIGURE):
            raise Errno(EBUSY)
        if value is not None:
            if key != b"source":
                self.options.append(key + b"=" + value)
            elif self.source:
                raise Errno(EINVAL)
            else:
                self.source = value
        elif key in (b"ro", b"rw"):
            self.read_only = key == b"ro"
        elif key not in _WITHOUT_EFFECT:
            self.options.append(key)

    def create(self, task: Task) -> None:
        """FSCONFIG_CMD_CREATE. Errors: EBUSY, and those of the type."""
        if self.phase is not Phase.CREATE:
            raise Errno(EBUSY)
        self.phase = Phase.DONE
        fs = task.kernel.filesystems.make(self.kind, task.kernel, task, self.source or b"none", 0, b",".join(self.options))
        if self.read_only and not fs.read_only:
            if fs.mount_count:  # there is only one, and it is mounted
                raise Errno(EBUSY)
            fs.read_only = True
        self.fs = fs
        self.phase = Phase.MOUNT

    def reconfigure(self) -> None:
        """FSCONFIG_CMD_RECONFIGURE. Errors: EBUSY, EINVAL (what can't be changed)."""
        if self.phase is not Phase.RECONFIGURE:
            raise Errno(EBUSY)
        if self.options or self.source:
            raise Errno(EINVAL)
        assert self.fs is not None
        if self.read_only is not None:
            self.fs.read_only = self.read_only

    def take(self) -> FileSystem:
        """For fsmount, once. Errors: EINVAL (not made yet), EBUSY."""
        if self.fs is None:
            raise Errno(EINVAL)
        if self.phase is not Phase.MOUNT:
            raise Errno(EBUSY)
        self.phase = Phase.DONE
        return self.fs


class DetachedTree(PathFileOps):
    """What a descriptor of fsmount, or of open_tree with OPEN_TREE_CLONE, holds: the tree ends with it unless move_mount has attached it."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace

    def close(self, file: FileObject) -> None:
        self.namespace.dissolve()
