"""The wake lease of a container: held while it may run, dropped while it is suspended.

In Fuchsia it is an application activity lease of the system's power governor, which then may let the machine sleep. A Linux host has none to ask, so the lease
is what the runner itself knows and shows.
"""

from __future__ import annotations

from polynix.runner.lockdep import LockDepMutex
from polynix.runner.trace import trace_instant

_CATEGORY = "power"


class WakeLease:
    """One container's. From any thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._held: LockDepMutex[list[bool]] = LockDepMutex([False], "wake_lease")

    @property
    def is_held(self) -> bool:
        with self._held.lock() as held:
            return held[0]

    def acquire(self) -> None:
        """Having it already is no error."""
        self._set(True, "acquire-application-activity-lease")

    def drop(self) -> None:
        """Not having it is no error."""
        self._set(False, "drop-application-activity-lease")

    def _set(self, value: bool, event: str) -> None:
        with self._held.lock() as held:
            changed, held[0] = held[0] != value, value
        if changed:
            trace_instant(_CATEGORY, event, self.name)
