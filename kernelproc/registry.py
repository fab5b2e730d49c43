"""Where parts of the kernel register themselves: devices by number, file systems by name, modules by feature flag."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EEXIST, EINVAL, ENODEV, ENXIO

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_system import FileSystem
    from polynix.kernelproc.vfs.fs_node import FsNode
    from polynix.kernelproc.vfs.ops import FileOps

DeviceOpen = Callable[["Task", int, "FsNode", int], "FileOps"]  # (task, dev_t, node, open flags) -> operations


def makedev(major: int, minor: int) -> int:
    """A Linux dev_t from its numbers (the kernel's new encoding, as stat shows it)."""
    return (minor & 0xFF) | ((major & 0xFFF) << 8) | ((minor & ~0xFF) << 12) | ((major & ~0xFFF) << 32)


def major(dev: int) -> int:
    return ((dev >> 8) & 0xFFF) | ((dev >> 32) & ~0xFFF)


def minor(dev: int) -> int:
    return (dev & 0xFF) | ((dev >> 12) & ~0xFF)


class DeviceRegistry:
    """Character and block devices by (major, minor); ``nodes`` are the names that a devtmpfs shows at /dev."""

    def __init__(self) -> None:
        self._ranges: dict[bool, dict[int, dict[int | None, DeviceOpen]]] = {False: {}, True: {}}
        self.nodes: dict[bytes, tuple[int, int, bool]] = {}  # name below /dev -> (mode, dev_t, is block device)
        self.on_node: list[Callable[[bytes], None]] = []  # called with each new name (devtmpfs)

    def register(self, major: int, minor: int | None, open_device: DeviceOpen, *, block: bool = False, name: bytes | None = None, mode: int = 0o666) -> None:
        """Serve one minor, or the whole major with None; ``name`` also makes the node in /dev. Errors: EEXIST."""
        minors = self._ranges[block].setdefault(major, {})
        if minor in minors:
            raise Errno(EEXIST)
        minors[minor] = open_device
        if name is not None:
            self.nodes[name] = (mode, makedev(major, minor or 0), block)
            for notify in self.on_node:
                notify(name)

    def open(self, task: Task, dev: int, node: FsNode, flags: int, block: bool) -> FileOps:
        """The operations of an opened device node. Errors: ENXIO as Linux gives for numbers that nobody serves."""
        minors = self._ranges[block].get(major(dev))
        if minors is None:
            raise Errno(ENXIO)
        open_device = minors.get(minor(dev)) or minors.get(None)
        if open_device is None:
            raise Errno(ENXIO)
        return open_device(task, dev, node, flags)

    def describe(self) -> bytes:
        """The text of /proc/devices."""
        parts = []
        for block, title in ((False, b"Character devices:"), (True, b"Block devices:")):
            names = {number: b"dev" for number in self._ranges[block]}
            for name, (_, dev, is_block) in self.nodes.items():
                if is_block is block and names.get(major(dev)) == b"dev":
                    names[major(dev)] = name.split(b"/")[0]
            parts.append(title + b"\n" + b"".join(b"%3d %s\n" % (number, names[number]) for number in sorted(names)))
        return b"\n".join(parts)


class FileSystemType(Protocol):
    """Makes an instance for mount(2): (kernel, task, source, flags, data) -> FileSystem."""

    def __call__(self, kernel: Kernel, task: Task | None, source: bytes, flags: int, data: bytes) -> FileSystem: ...


class FsRegistry:
    """File system types by name; ``requires_device`` shows in /proc/filesystems."""

    def __init__(self) -> None:
        self.types: dict[bytes, tuple[FileSystemType, bool]] = {}

    def register(self, name: bytes, make: FileSystemType, *, requires_device: bool = False) -> None:
        if name in self.types:
            raise Errno(EEXIST)
        self.types[name] = (make, requires_device)

    def make(self, name: bytes, kernel: Kernel, task: Task | None, source: bytes, flags: int, data: bytes) -> FileSystem:
        """A new instance. Errors: ENODEV for an unknown type."""
        entry = self.types.get(name)
        if entry is None:
            raise Errno(ENODEV)
        return entry[0](kernel, task, source, flags, data)


class ModuleRegistry:
    """Modules behind feature flags ``NAME[:ARGS]``. A module is a function (kernel, args) that registers devices, file systems, system calls or kthreads."""

    def __init__(self) -> None:
        self._modules: dict[str, Callable[[Kernel, str], None]] = {}

    def module(self, feature: str) -> Callable[[Callable[[Kernel, str], None]], Callable[[Kernel, str], None]]:
        """Decorator: ``feature`` enables this module."""

        def register(initialise: Callable[[Kernel, str], None]) -> Callable[[Kernel, str], None]:
            self._modules[feature] = initialise
            return initialise

        return register

    @property
    def features(self) -> list[str]:
        return sorted(self._modules)

    def enable(self, kernel: Kernel, feature: str) -> None:
        """Initialise the module of ``NAME[:ARGS]``. Errors: EINVAL for an unknown feature."""
        name, _, arguments = feature.partition(":")
        initialise = self._modules.get(name)
        if initialise is None:
            raise Errno(EINVAL)
        initialise(kernel, arguments)


modules = ModuleRegistry()
