"""A system call in the hands of a hook."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from polynix.addrspace._usercopy import Fault, UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls import table
from polynix.kernelproc.syscalls.types import as_int
from polynix.kernelproc.uapi.fcntl import AT_FDCWD

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

_PATHS = {
    **dict.fromkeys(("link", "linkat", "rename", "renameat", "renameat2"), ("old", "new")),
    **dict.fromkeys(("mount", "umount2"), ("target",)),
    "pivot_root": ("new_root", "put_old"),
}  # the path arguments that are not called path
_BYTE_COUNTS = ("count", "size", "length")
_NO_FILES = ("pidfd", "targetfd")


class Shape(NamedTuple):
    """What a call's arguments are, from its signature: their names, which are descriptors, which are paths and from which directory (indices), which one
    counts bytes.
    """

    names: tuple[str, ...]
    descriptors: tuple[int, ...]
    paths: tuple[tuple[int | None, int], ...]
    byte_count: int | None


@cache
def shape_of(name: str) -> Shape:
    """The shape of system call ``name``; of one that polynix lacks, six nameless arguments."""
    function = table.functions.get(name)
    if function is None:
        return Shape((), (), (), None)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    names = tuple(parameter.name for parameter in parameters)
    kinds = [str(parameter.annotation).rpartition(".")[2] for parameter in parameters]
    wanted = _PATHS.get(name, ("path",))
    paths, directories = [], set()
    for index, (parameter, kind) in enumerate(zip(names, kinds, strict=True)):
        if kind == "UserAddress" and parameter in wanted:
            directory = index - 1 if index and kinds[index - 1] == "FdNumber" else None
            directories.add(directory)
            paths.append((directory, index))
    descriptors = tuple(index for index, kind in enumerate(kinds) if kind == "FdNumber" and index not in directories and names[index] not in _NO_FILES)
    transfers = descriptors and ("buffer" in names or len(descriptors) == 2)
    counts = [index for index, kind in enumerate(kinds) if transfers and kind == "Size" and names[index] in _BYTE_COUNTS]
    return Shape(names, descriptors, tuple(paths), counts[0] if counts else None)


class SystemCall:
    """One call: who makes it, its arguments, and after :meth:`proceed` its result.

    ``arguments`` are the six raw registers; by name, ``call["count"]`` reads one and ``call["count"] = 1`` changes it before the call is carried out.
    """

    __slots__ = ("_paths", "_proceed", "arguments", "name", "number", "report", "result", "task")

    def __init__(self, task: Task, number: int, arguments: list[int]) -> None:
        self.task = task
        self.number = number
        self.name = table.names.get(number, str(number))
        self.arguments = arguments
        self.result: int | None = None
        self.report: Callable[..., None] = _nobody  # keyword fields, for the owner's ``Hook.events``
        self._proceed: Callable[[], Any] | None = None
        self._paths: tuple[str, ...] | None = None

    @property
    def pid(self) -> int:
        return self.task.group.pid

    @property
    def tid(self) -> int:
        return self.task.tid

    @property
    def uid(self) -> int:
        return self.task.credentials.uid

    @property
    def process(self) -> str:
        """The name of the calling thread, as ps shows it."""
        return os.fsdecode(self.task.comm)

    @property
    def paths(self) -> tuple[str, ...]:
        """The absolute paths that the call is about, as its caller sees them: of its descriptors and of its path arguments."""
        if self._paths is None:
            shape = shape_of(self.name)
            found = [self._path_of_fd(self.arguments[index]) for index in shape.descriptors]
            found += [self._path_argument(directory, index) for directory, index in shape.paths]
            self._paths = tuple(path for path in found if path is not None)
        return self._paths

    @property
    def path(self) -> str | None:
        """The first of ``paths``."""
        return self.paths[0] if self.paths else None

    def __getitem__(self, name: str) -> int:
        return self.arguments[shape_of(self.name).names.index(name)]

    def __setitem__(self, name: str, value: int) -> None:
        self.arguments[shape_of(self.name).names.index(name)] = value & 0xFFFFFFFFFFFFFFFF

    def read(self, address: int, count: int) -> bytes:
        """``count`` bytes of the caller's memory. Errors: OSError EFAULT."""
        try:
            return self.task.user.copy_in(UserAddress(address), count)
        except Fault:
            raise OSError(14, "Bad address") from None

    def write(self, address: int, data: bytes) -> None:
        """Store ``data`` in the caller's memory. Errors: OSError EFAULT."""
        try:
            self.task.copy_out(UserAddress(address), data)
        except (Fault, Errno):
            raise OSError(14, "Bad address") from None

    async def proceed(self) -> int | None:
        """Carry the call out (with the arguments as they are now) and return its result, ``-errno`` for an error. For ``async`` hooks; once."""
        if self._proceed is None:
            raise RuntimeError("proceed() was called twice, or outside an async hook")
        proceed, self._proceed = self._proceed, None
        result = proceed()
        self.result = await result if isinstance(result, Awaitable) else result
        return self.result

    def _path_of_fd(self, register: int) -> str | None:
        file = self.task.files.files.get(as_int(register))
        if file is None:
            return None
        if file.name is None:
            return os.fsdecode(file.node.ops.dynamic_name(file.node))
        return os.fsdecode(file.name.path(self.task.fs))

    def _path_argument(self, directory: int | None, index: int) -> str | None:
        try:
            text = self.task.read_path(UserAddress(self.arguments[index]))
        except (Fault, Errno):
            return None
        base = "/"
        if not text.startswith(b"/"):
            start = AT_FDCWD if directory is None else as_int(self.arguments[directory])
            found = os.fsdecode(self.task.fs.cwd.path(self.task.fs)) if start == AT_FDCWD else self._path_of_fd(self.arguments[directory or 0])
            if found is None:
                return None
            base = found
        return os.path.normpath(os.path.join(base, os.fsdecode(text))) if text else base


def _nobody(**_fields: Any) -> None:
    """Nobody asked for reports."""
