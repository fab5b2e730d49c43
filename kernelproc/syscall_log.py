"""The system call log of chosen processes: SetSyscallLogFilter of the container's Controller.

Calls of processes whose name contains one of the filters are logged at level INFO, in strace's notation. Without filters it observes nothing and costs nothing.
"""

from __future__ import annotations

import io
import logging
from typing import IO, TYPE_CHECKING, cast

from polynix.kernelproc.observer import SyscallObserver
from polynix.kernelproc.strace import Strace

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.signals.siginfo import SigInfo
    from polynix.kernelproc.task.task import Task

log = logging.getLogger("polynix.syscalls")


class _LogLines(io.TextIOBase):
    """A text file whose lines become records of the log."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            log.info("%s", line)
        return len(text)


class SyscallLog(SyscallObserver):
    """The filters, and who watches while there are any."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.filters: list[bytes] = []
        self._strace: Strace | None = None

    def add_filter(self, process_name: bytes) -> None:
        """Log processes whose name contains ``process_name``, too."""
        self.filters.append(process_name)
        if self._strace is None:
            log.setLevel(logging.INFO)
            self._strace = Strace(self.kernel, "all", cast("IO[str]", _LogLines()))
            self.kernel.syscall_observers.append(self)

    def clear(self) -> None:
        """Log none."""
        self.filters.clear()
        if self._strace is not None:
            self._strace = None
            self.kernel.syscall_observers.remove(self)

    def _wanted(self, task: Task) -> Strace | None:
        return self._strace if any(name in task.comm for name in self.filters) else None

    def enter(self, task: Task, number: int, arguments: tuple[int, ...]) -> None:
        strace = self._wanted(task)
        if strace is not None:
            strace.enter(task, number, arguments)

    def leave(self, task: Task, number: int, arguments: tuple[int, ...], result: int | None) -> None:
        if self._strace is not None:  # it knows which calls it has seen begin
            self._strace.leave(task, number, arguments, result)

    def signal(self, task: Task, info: SigInfo) -> None:
        strace = self._wanted(task)
        if strace is not None:
            strace.signal(task, info)

    def exited(self, task: Task, status: int) -> None:
        strace = self._wanted(task)
        if strace is not None:
            strace.exited(task, status)

    def close(self) -> None:
        if self._strace is not None:
            self._strace.close()
