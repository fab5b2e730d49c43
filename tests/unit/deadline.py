"""Deadlines of waits in tests."""

from __future__ import annotations

import time


def soon(seconds: float = 20) -> int:
    """By when what a test waits for has long happened, or not at all: nanoseconds of CLOCK_MONOTONIC."""
    return time.monotonic_ns() + int(seconds * 1e9)
