"""``hold`` and ``holding``: keep processes out of guest code for as long as a tool is connected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polynix.kernelproc.inspector import requests
from polynix.kernelproc.inspector.tasks import group_of

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel


@requests.handler("hold")
def hold(kernel: Kernel, arguments: dict[str, Any]) -> None:
    """Begin to hold the processes ``pids`` and whatever they fork; it ends with the connection. Errors: RequestError for one that is not there."""
    begun = kernel.holds.hold([group_of(kernel, int(pid)) for pid in arguments["pids"]])
    arguments["connection"].on_close.append(begun.release)


@requests.handler("holding")
def holding(kernel: Kernel, arguments: dict[str, Any]) -> bool:
    """Whether all who are held are out of guest code."""
    return kernel.holds.settled
