"""polynix.container.Power: what the runner asks of a container's kernel around a suspend.

In Starnix the runner suspends a container's processes itself, through their job. Here guest threads stop at their hand-off to the kernel, which holds
them there.
"""

from __future__ import annotations

from polynix.ipc.bindings import FidlProtocol, Openness, protocol, two_way
from polynix.ipc.fidl import INT64, STRING, member, table
from polynix.ipc.light_dataclass import dataclass


@table
@dataclass(kw_only=True)
class PowerInspectResponse:
    json: str | None = member(1, STRING)
    """Wakeup sources and what became of suspends, as text."""


@table
@dataclass(kw_only=True)
class PowerWakeUpRequest:
    """For a kernel that did not answer ``fall_asleep``, so that the host stopped its guests. Times are of the host's CLOCK_MONOTONIC."""

    stopped_since_ns: int | None = member(1, INT64)
    """The container's clock has stood still since then."""
    expires_ns: int | None = member(2, INT64)
    """From then on guests may run without the kernel having said so: it is too late to set their clock back."""


@protocol("polynix.container.Power", openness=Openness.OPEN)
class Power(FidlProtocol):
    """One client's; when its channel closes, the container is woken."""

    @two_way()
    async def fall_asleep(self) -> None:
        """Hold every guest thread, and stop CLOCK_MONOTONIC; the reply comes when that is so."""
        raise NotImplementedError

    @two_way()
    async def wake_up(self, request: PowerWakeUpRequest) -> None:
        """Let time and guests go on. Being awake is no error."""
        raise NotImplementedError

    @two_way()
    async def inspect(self) -> PowerInspectResponse:
        raise NotImplementedError
