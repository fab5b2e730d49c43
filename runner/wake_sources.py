"""Wake sources: the objects that wake a suspended container, by koid.

Source: Starnix's ``kernel_manager/suspend.rs``. Unlike there, each container has a set of its own.
"""

from __future__ import annotations

from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.objects import Counter, Handle, Signals
from polynix.runner.lockdep import LockDepMutex


@dataclass(frozen=True)
class WakeSource:
    """One object, and the signals that count."""

    handle: Handle
    name: str
    signals: Signals

    @classmethod
    def from_counter(cls, counter: Counter, name: str) -> WakeSource:
        """Messages that the container hasn't handled yet."""
        return cls(counter, name, Signals.COUNTER_POSITIVE)

    @classmethod
    def from_handle(cls, handle: Handle, name: str, signals: Signals) -> WakeSource:
        return cls(handle, name, signals)


WakeSources = dict[int, WakeSource]  # by koid


def new_wake_sources() -> LockDepMutex[WakeSources]:
    """The set of one container, behind a terminal lock."""
    return LockDepMutex({}, "wake_sources")
