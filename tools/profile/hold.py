"""Holds guest processes at their hand-off for a moment, to see how the others do without them.

The kernel holds them for as long as a connection of its own is open, so they go on even if this process dies meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator

from polynix.tools.inspection import Inspection, InspectionError

PATIENCE_SECONDS = 5.0


@contextlib.contextmanager
def held(kernel_pid: int, pids: Iterable[int]) -> Iterator[None]:
    """The processes ``pids`` of a container run no guest code within the block. Errors: NoKernel, InspectionError."""
    with Inspection(kernel_pid) as inspection:
        alive = {thread["pid"] for thread in inspection.request("tasks")}
        chosen = [pid for pid in pids if pid in alive]
        if chosen:
            inspection.request("hold", pids=chosen)
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not inspection.request("holding"):
                if time.monotonic() > deadline:
                    raise InspectionError("the processes do not come out of guest code")
                time.sleep(0.001)
        yield
