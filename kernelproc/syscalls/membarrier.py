"""membarrier (man 2 membarrier): a barrier in every thread that runs, at the cost of the one that asks."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Int, UInt
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.errno import EINVAL, EPERM
from polynix.kernelproc.uapi.membarrier import (
    MEMBARRIER_CMD_GLOBAL,
    MEMBARRIER_CMD_GLOBAL_EXPEDITED,
    MEMBARRIER_CMD_PRIVATE_EXPEDITED,
    MEMBARRIER_CMD_QUERY,
    MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED,
    MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
)

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

_REGISTRATIONS = MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED | MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED
_COMMANDS = _REGISTRATIONS | MEMBARRIER_CMD_GLOBAL | MEMBARRIER_CMD_GLOBAL_EXPEDITED | MEMBARRIER_CMD_PRIVATE_EXPEDITED


@syscall()
def membarrier(task: Task, command: Int, flags: UInt, cpu: Int) -> int | Awaitable[int]:
    """Every hand-off is a full barrier: threads that are in the kernel have met one, and those that run guest code are brought out before this returns."""
    if flags:
        raise Errno(EINVAL)
    if command == MEMBARRIER_CMD_QUERY:
        return _COMMANDS
    if command <= 0 or command & (command - 1) or not command & _COMMANDS:
        track_stub("membarrier", command)  # of cores or restartable sequences; QUERY does not offer them
        raise Errno(EINVAL)
    mm = task.mm
    if command & _REGISTRATIONS:
        mm.membarrier |= command
        return 0
    private = command == MEMBARRIER_CMD_PRIVATE_EXPEDITED
    if private and not mm.membarrier & MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED:
        raise Errno(EPERM)
    others = [
        other
        for other in task.kernel.pids.tasks.values()
        if other is not task and not other.exited and other.slot is not None and not other.slot.held and (other.mm is mm or not private)
    ]
    if not others:
        return 0
    return _bring_out(task, others)


async def _bring_out(task: Task, others: list[Task]) -> int:
    hold = task.kernel.holds.hold({other.group for other in others})
    try:
        await hold.complete()
    finally:
        hold.release()
    return 0
