"""What the system call loop and its neighbours tell to whoever looks: strace, profiles, counters.

Kept in ``kernel.syscall_observers``, or, who can do without ``enter`` and ``leave``, in ``kernel.task_observers``, which costs calls nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polynix.kernelproc.signals.siginfo import SigInfo
    from polynix.kernelproc.task.task import Task


class SyscallObserver:
    """Sees every system call, signal and exit; subclasses override what they want to know."""

    def started(self, task: Task, argv: list[bytes], env: list[bytes]) -> None:
        """The container's owner started a program; its exec is no system call."""

    def enter(self, task: Task, number: int, arguments: tuple[int, ...]) -> None:
        """A system call begins; the arguments are the raw registers. Whoever wants to change it is a hook (:mod:`polynix.kernelproc.hooks`)."""

    def blocked(self, task: Task, number: int, arguments: tuple[int, ...]) -> None:
        """It cannot be answered yet: the task waits. ``leave`` follows unless the task is killed meanwhile."""

    def leave(self, task: Task, number: int, arguments: tuple[int, ...], result: int | None) -> None:
        """It ends with ``result`` (``-errno`` included); None when it does not return in the usual way."""

    def signal(self, task: Task, info: SigInfo) -> None:
        """A signal is about to be handled, or to take its default action."""

    def exited(self, task: Task, status: int) -> None:
        """A task ended, with its wait status."""

    def close(self) -> None:
        """The container ends."""
