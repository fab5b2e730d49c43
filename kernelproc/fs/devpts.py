"""devpts: the directory of the terminals that ptys have made (Linux's fs/devpts). Every mount shows the container's one set."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, ClassVar

from polynix.kernelproc.devices.pty import PTMX_MAJOR, PTMX_MINOR, PtyTable
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.registry import makedev
from polynix.kernelproc.uapi.errno import EINVAL, EIO, ENOENT
from polynix.kernelproc.uapi.magic import DEVPTS_SUPER_MAGIC
from polynix.kernelproc.vfs.directory import FIRST_COOKIE, DirectoryItem, DirectoryOps, kind_of
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.namespace import NamespaceNode, anonymous_name
from polynix.kernelproc.vfs.ops import FileOps, FileSystemOps, FsNodeOps

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

_PTMX_INO = 2
_FIRST_INO = 3


class Devpts(FileSystemOps):
    """One instance: ``mode`` and ``gid`` are those of new terminals, ``gid`` None the maker's."""

    name = b"devpts"
    magic = DEVPTS_SUPER_MAGIC

    def __init__(self, kernel: Kernel, mode: int, gid: int | None, ptmx_mode: int) -> None:
        self.kernel = kernel
        self.table = kernel.expando.get(PtyTable)
        self.mode = mode
        self.gid = gid
        self.ptmx_mode = ptmx_mode


class DevptsDirectory(FsNodeOps):
    """The root directory: ptmx and the terminals."""

    volatile: ClassVar[bool] = True  # names come and go without the VFS

    def __init__(self, instance: Devpts, fs: FileSystem) -> None:
        self.instance = instance
        self.ptmx = FsNode(fs, _PTMX_INO, stat.S_IFCHR | instance.ptmx_mode, FsNodeOps(), rdev=makedev(PTMX_MAJOR, PTMX_MINOR))

    @property
    def version(self) -> int:
        return self.instance.table.version

    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        if name == b"ptmx":
            return self.ptmx
        if not name.isdigit() or (name[0] == 0x30 and name != b"0"):
            raise Errno(ENOENT)
        return self._terminal(node.fs, int(name))

    def _terminal(self, fs: FileSystem, index: int) -> FsNode:
        table = self.instance.table
        terminal = table.terminals.get(index)
        if terminal is None:
            raise Errno(ENOENT)
        found = table.nodes.get(index)
        if found is None:
            uid, gid = table.owners[index]
            gid = gid if self.instance.gid is None else self.instance.gid
            mode = stat.S_IFCHR | self.instance.mode
            found = FsNode(fs, _FIRST_INO + index, mode, FsNodeOps(), uid=uid, gid=gid, rdev=terminal.device)
            table.nodes[index] = found
        return found

    def list(self, node: FsNode) -> list[DirectoryItem]:
        kind = kind_of(stat.S_IFCHR)
        items = [DirectoryItem(FIRST_COOKIE, b"ptmx", _PTMX_INO, kind)]
        return items + [DirectoryItem(FIRST_COOKIE + 1 + index, b"%d" % index, _FIRST_INO + index, kind) for index in sorted(self.instance.table.terminals)]

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        return DirectoryOps(self)


def make_devpts(kernel: Kernel, task: Task | None, source: bytes, flags: int, data: bytes) -> FileSystem:
    """mount -t devpts with the options gid, uid, mode, ptmxmode, max, newinstance. Errors: EINVAL."""
    mode, gid, ptmx_mode = 0o600, None, 0
    for option in filter(None, data.split(b",")):
        key, _, value = option.partition(b"=")
        try:
            if key == b"mode":
                mode = int(value, 8) & 0o7777
            elif key == b"ptmxmode":
                ptmx_mode = int(value, 8) & 0o7777
            elif key == b"gid":
                gid = int(value)
            elif key not in (b"uid", b"max", b"newinstance"):
                raise Errno(EINVAL)
        except ValueError:
            raise Errno(EINVAL)
    instance = Devpts(kernel, mode, gid, ptmx_mode)
    fs = FileSystem(instance, source, data)
    fs.root = FsNode(fs, fs.new_ino(), stat.S_IFDIR | 0o755, DevptsDirectory(instance, fs), nlink=2)
    return fs


def peer_place(kernel: Kernel, index: int) -> NamespaceNode:
    """The terminal's place in the first devpts that is mounted. Errors: EIO when there is none."""
    for mount in kernel.namespace.mounts:
        if isinstance(mount.fs.ops, Devpts):
            entry = mount.root.lookup(b"%d" % index)
            if entry.node is not None:
                return NamespaceNode(mount, entry)
    fs = make_devpts(kernel, None, b"devpts", 0, b"")
    directory = fs.root.ops
    assert isinstance(directory, DevptsDirectory)
    try:
        return anonymous_name(directory.lookup(fs.root, b"%d" % index), b"/dev/pts/%d" % index)
    except Errno:
        raise Errno(EIO)
