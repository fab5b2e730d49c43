"""A file system in a few lines: ``@filesystem("words", mount="/words")`` on a subclass of :class:`ScriptFileSystem` that says what there is."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.pseudo import Directory, TextFile, kind_of
from polynix.kernelproc.registry import modules
from polynix.kernelproc.uapi.errno import EACCES, EIO, ENOENT
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.ops import FileSystemOps

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

MAGIC = 0x706F6C79  # "poly"
Kind = TypeVar("Kind", bound="type[FileSystemOps]")


class ScriptFileSystem(FileSystemOps):
    """A tree that is computed when it is looked at. Paths are relative to its root, without a leading slash; "" is the root.

    Override ``list``, ``read``, and for files that can be written ``write``. An OSError is the guest's error; any other exception is logged and EIO.
    """

    magic: ClassVar[int] = MAGIC

    def list(self, path: str) -> Iterable[str]:
        """The names in directory ``path``; those that end in a slash are directories."""
        return ()

    def read(self, path: str) -> bytes | str:
        """The content of file ``path``, asked for each time it is read from its start."""
        raise FileNotFoundError(path)

    write: Callable[[str, bytes], None] | None = None  # def write(self, path, data): takes each write(2) to a file


def filesystem(name: str, mount: str | None = None) -> Callable[[Kind], Kind]:
    """Register a FileSystemOps class as a type for mount(2); with ``mount`` it is mounted there at once, the directory made if missing.

    A :class:`ScriptFileSystem` needs no more; another FileSystemOps class has a method ``make_root(fs) -> FsNode``.
    """

    def mark(kind: Kind) -> Kind:
        kind.name = name.encode()

        kind.polynix_part = part = FileSystemPart(mount)  # type: ignore[attr-defined]
        modules.module(f"file system {name}")(lambda kernel, _arguments: part.install(kernel, kind))
        return kind

    return mark


@dataclass(frozen=True)
class FileSystemPart:
    """What the decorator leaves on the class that it marks."""

    mount: str | None

    def install(self, kernel: Kernel, kind: type[FileSystemOps]) -> None:
        """Bring the file system into a kernel. Errors: Errno EEXIST."""
        add_file_system(kernel, kind, self.mount)


def add_file_system(kernel: Kernel, kind: type[FileSystemOps], mount: str | None) -> None:
    """Register the type and mount it. Errors: EEXIST for a name that is taken."""
    from polynix.kernelproc.mounts import BootTask, directory_at

    def make(kernel: Kernel, task: Task | None, source: bytes, flags: int, data: bytes) -> FileSystem:
        ops = kind()
        fs = FileSystem(ops, source, data)
        fs.root = ScriptDirectory.node(fs, "") if isinstance(ops, ScriptFileSystem) else ops.make_root(fs)  # type: ignore[attr-defined]
        return fs

    kernel.filesystems.register(kind.name, make)
    if mount is not None:
        place = directory_at(BootTask(kernel), mount.encode())
        kernel.namespace.mount(make(kernel, None, kind.name, 0, b""), place, source=kind.name)


class ScriptDirectory(Directory):
    """One directory of a ScriptFileSystem; nodes are kept by name as long as the name is of one kind."""

    volatile: ClassVar[bool] = True

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @classmethod
    def node(cls, fs: FileSystem, path: str) -> FsNode:
        return FsNode(fs, fs.new_ino(), stat.S_IFDIR | 0o755, cls(path), nlink=2)

    def _names(self, node: FsNode) -> dict[bytes, bool]:
        """Each name, and whether it is a directory."""
        listed = asked(lambda: list(_ops(node).list(self.path)))
        return {name.rstrip("/").encode(): name.endswith("/") for name in listed}

    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        is_directory = self._names(node).get(name)
        if is_directory is None:
            raise Errno(ENOENT)
        found = self._nodes.get(name)
        if found is None or found.is_directory is not is_directory:
            path = f"{self.path}/{name.decode()}".lstrip("/")
            found = ScriptDirectory.node(node.fs, path) if is_directory else script_file(node.fs, path)
            self._nodes[name] = found
        return found

    def list(self, node: FsNode) -> Iterable[tuple[bytes, int]]:
        for name in self._names(node):
            yield name, kind_of(self.lookup(node, name))


def script_file(fs: FileSystem, path: str) -> FsNode:
    """The node of one file."""
    ops: Any = fs.ops

    def content(_task: Task) -> bytes:
        data = asked(lambda: ops.read(path))
        return data.encode() if isinstance(data, str) else bytes(data)

    def store(_task: Task, data: bytes) -> None:
        asked(lambda: ops.write(path, data))

    writable = ops.write is not None
    return FsNode(fs, fs.new_ino(), stat.S_IFREG | (0o644 if writable else 0o444), TextFile(content, store if writable else None))


def _ops(node: FsNode) -> Any:
    return node.fs.ops


def asked(question: Callable[[], Any]) -> Any:
    """Ask the user's code; its OSError is the guest's error. Errors: Errno."""
    try:
        return question()
    except FileNotFoundError:
        raise Errno(ENOENT) from None
    except PermissionError:
        raise Errno(EACCES) from None
    except OSError as error:
        raise Errno(error.errno or EIO) from None
