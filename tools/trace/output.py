"""The files of a trace: each takes the place of what had its name when it is complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import IO, Any

BUFFER_SIZE = 1 << 20


class TraceError(Exception):
    """The trace can't be made or written; the text is one line."""


class Output:
    """The file at ``path``, opened before the run, so that what is wrong with it is known. A pipe or a device is written as it is. As a context manager it
    leaves nothing behind unless it was written.
    """

    def __init__(self, path: str) -> None:
        """Errors: TraceError."""
        self.path = path
        self._direct = os.path.exists(path) and not os.path.isfile(path)
        self._temporary = path if self._direct else f"{path}.{os.getpid()}"
        try:
            self._file: IO[bytes] = open(self._temporary, "wb", buffering=BUFFER_SIZE)  # noqa: SIM115  # closed when it is complete
        except OSError as error:
            raise self._error(error) from error

    def write(self, write: Callable[[IO[bytes]], None], whole: Callable[[IO[bytes]], int] | None = None) -> None:
        """Have the file written. When the disk is full, what fits is kept as ``PATH.partial``, up to where ``whole`` says that it can be read; None: nothing.
        Errors: TraceError.
        """
        try:
            write(self._file)
            self._file.close()
            if not self._direct:
                os.replace(self._temporary, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()
            kept = not self._direct and whole is not None and self._keep(whole)
            raise self._error(error, f"; what fits is in {self.path}.partial" if kept else "") from error

    def _keep(self, whole: Callable[[IO[bytes]], int]) -> bool:
        """Whether something could be kept."""
        try:
            with open(self._temporary, "r+b") as file:
                size = whole(file)
                file.truncate(size)
            if size:
                os.replace(self._temporary, f"{self.path}.partial")
            return size > 0
        except OSError:
            return False

    def _error(self, error: OSError, more: str = "") -> TraceError:
        return TraceError(f"cannot write {self.path}: {error.strerror}{more}")

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_exception: Any) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        if not self._direct:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)


def whole_lines(file: IO[bytes]) -> int:
    """How far a text goes in whole lines."""
    return file.read().rfind(b"\n") + 1
