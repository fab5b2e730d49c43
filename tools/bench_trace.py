"""What a trace costs the program that is traced: the same walk over a tree with and without, timed inside the container."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

TREE = "/usr/share"
TIMED = f"b=$(date +%s%N); find {TREE} -name nothing; e=$(date +%s%N); echo $((e - b))"


def slow_downs(polynix: Sequence[str], pairs: int) -> list[float | None]:
    """Traced over untraced time of ``find``, of as many pairs; who comes first alternates. ``polynix`` is the command."""
    ratios: list[float | None] = []
    for number in range(pairs):
        order = (True, False) if number % 2 else (False, True)
        times = {traced: _walk([*polynix, *(("trace", "-o", "/dev/null") if traced else ("run",)), "--", "/bin/sh", "-c", TIMED]) for traced in order}
        traced, plain = times[True], times[False]
        ratios.append(traced / plain if traced and plain else None)
    return ratios


def _walk(command: Sequence[str]) -> int | None:
    """Nanoseconds, as the program prints them."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else None
