"""A character device in a few lines: ``@device("/dev/answer")`` on a FileOps class, or on a function that returns what reading gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from polynix.kernelproc.registry import modules
from polynix.kernelproc.vfs.ops import FileOps, Result

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject

MAJOR = 240  # first of Linux's "local and experimental" character majors
_minors = itertools.count()
Thing = TypeVar("Thing", bound=Callable[..., Any])


def device(path: str, mode: int = 0o666) -> Callable[[Thing], Thing]:
    """Serve ``path`` below /dev. A FileOps class is instantiated for each open; a function is called for each open and returns the bytes to read.

    Errors: ValueError for a path that is not below /dev.
    """
    if not path.startswith("/dev/") or path.endswith("/"):
        raise ValueError(f"{path!r} is no path below /dev")

    def mark(thing: Thing) -> Thing:
        thing.polynix_part = part = DevicePart(path, mode)  # type: ignore[attr-defined]
        modules.module(f"device {path}")(lambda kernel, _arguments: part.install(kernel, thing))
        return thing

    return mark


@dataclass(frozen=True)
class DevicePart:
    """What the decorator leaves on what it marks."""

    path: str
    mode: int

    def install(self, kernel: Kernel, thing: Callable[..., Any]) -> None:
        """Bring the device into a kernel. Errors: Errno EEXIST."""
        add_device(kernel, self.path, self.mode, thing)


def add_device(kernel: Kernel, path: str, mode: int, make: Callable[..., Any]) -> None:
    """Register the device and its node. Errors: EEXIST."""

    def open_device(_task: Any, _dev: int, _node: Any, _flags: int) -> FileOps:
        made = make()
        return made if isinstance(made, FileOps) else TextDevice(made.encode() if isinstance(made, str) else bytes(made))

    kernel.devices.register(MAJOR, next(_minors), open_device, name=path.removeprefix("/dev/").encode(), mode=mode)


class TextDevice(FileOps):
    """Reading gives one text, from its start; writes vanish."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        piece = self.text[offset : offset + out.remaining]
        return out.write(piece) if piece else 0

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        count = data.remaining
        data.skip(count)
        return count
