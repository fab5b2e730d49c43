"""What became of the attempts to suspend: counts, the last result, and the last 128 events (Starnix's ``core/power/manager.rs``)."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Any, NamedTuple

EVENTS = 128


class SuspendEventKind(Enum):
    ATTEMPT = "attempt"
    RESUME = "resume"
    FAIL = "fail"


class SuspendEvent(NamedTuple):
    """``time_ns`` is CLOCK_BOOTTIME, as one suspend would hide behind another otherwise."""

    kind: SuspendEventKind
    time_ns: int
    reason: str


class SuspendStats:
    """/sys/power/suspend_stats and /sys/kernel/wakeup_reasons."""

    def __init__(self) -> None:
        self.success_count = 0
        self.fail_count = 0
        self.last_errno = 0
        self.last_time_in_sleep_ns = 0
        self.total_time_in_sleep_ns = 0
        self.longest_sleep_ns = 0
        self.last_reason = ""
        self.events: deque[SuspendEvent] = deque(maxlen=EVENTS)

    def attempted(self, now_ns: int) -> None:
        self.events.append(SuspendEvent(SuspendEventKind.ATTEMPT, now_ns, ""))

    def resumed(self, now_ns: int, slept_ns: int, reason: str) -> None:
        self.success_count += 1
        self.last_time_in_sleep_ns = slept_ns
        self.total_time_in_sleep_ns += slept_ns
        self.longest_sleep_ns = max(self.longest_sleep_ns, slept_ns)
        self.last_reason = f"0 {reason}".rstrip()
        self.events.append(SuspendEvent(SuspendEventKind.RESUME, now_ns, reason))

    def failed(self, now_ns: int, error: int, names: str) -> None:
        self.fail_count += 1
        self.last_errno = error
        self.last_reason = f"Abort: {names}".rstrip()
        self.events.append(SuspendEvent(SuspendEventKind.FAIL, now_ns, names))

    def inspect(self) -> dict[str, Any]:
        """For ``polynix inspect``."""
        return {
            "success_count": self.success_count,
            "fail_count": self.fail_count,
            "last_errno": self.last_errno,
            "last_time_in_sleep_ns": self.last_time_in_sleep_ns,
            "last_reason": self.last_reason,
            "suspend_events": [{"kind": event.kind.value, "time_ns": event.time_ns, "reason": event.reason} for event in self.events],
        }
