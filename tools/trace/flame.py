"""Sampled stacks as files that flame graph viewers read: speedscope's JSON, or folded lines for flamegraph.pl and its kin."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import IO, Any

from polynix.kernelproc.trace_layout import SAMPLES_HEADER
from polynix.tools.trace.symbols import symbol_at

from polynix import __version__

Stack = tuple[str, ...]


def read_samples(fd: int) -> dict[str, Any] | None:
    """What the kernel's sampler wrote last; None if it wrote nothing."""
    start, length = SAMPLES_HEADER.unpack(os.pread(fd, SAMPLES_HEADER.size, 0))
    return json.loads(os.pread(fd, length, start)) if length else None


def stacks_of(samples: dict[str, Any]) -> dict[str, tuple[Counter[Stack], int]]:
    """Profile name -> (stacks with their counts, ns that a sample stands for)."""
    kernel: Counter[Stack] = Counter()
    guest: Counter[Stack] = Counter()
    for frames, count in samples["kernel"]:
        kernel[tuple(frames)] += count
    for (who, *frames), count in samples["guest"]:
        guest[who, *(symbol_at(path, offset) for path, offset in frames)] += count
    return {"kernel (Python)": (kernel, samples["kernel_ns"]), "programs": (guest, samples["guest_ns"])}


def write_folded(samples: dict[str, Any], file: IO[bytes]) -> None:
    """``kernel;cat;read;… 17``: one line a stack. Errors: OSError of the file."""
    for name, (stacks, _) in stacks_of(samples).items():
        for stack, count in stacks.items():
            line = ";".join([name.split()[0], *(frame.replace(";", ":") for frame in stack)])
            file.write(f"{line} {count}\n".encode(errors="backslashreplace"))


def write_speedscope(samples: dict[str, Any], file: IO[bytes]) -> None:
    """A file for https://www.speedscope.app. Errors: OSError of the file."""
    frames: dict[str, int] = {}
    profiles = []
    for name, (stacks, interval) in stacks_of(samples).items():
        rows = [[frames.setdefault(frame, len(frames)) for frame in stack] for stack in stacks]
        weights = [count * interval for count in stacks.values()]
        profiles.append(
            {"type": "sampled", "name": name, "unit": "nanoseconds", "startValue": 0, "endValue": sum(weights), "samples": rows, "weights": weights}
        )
    document = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": f"polynix {__version__}",
        "shared": {"frames": [{"name": name} for name in frames]},
        "profiles": profiles,
    }
    file.write(json.dumps(document).encode())
