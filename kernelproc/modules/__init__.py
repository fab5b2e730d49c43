"""Modules: parts of the kernel behind feature flags (``--feature NAME[:ARGS]``).

A module registers itself with ``registry.modules`` and is initialised only when its flag is given; the kernel never calls one by name. ``load`` imports
all that polynix brings, so that the registry knows the names; ``load_file`` takes a Python file of the user's, which is how a guest's kernel is scripted
(``--feature ./dice.py``, see docs/dice.py).
"""

from __future__ import annotations

import runpy


def load() -> None:
    """Import every module that polynix brings."""
    from polynix.kernelproc.modules import flame, kill_points, power_link, profile, syscall_stats, trace  # noqa: F401


def load_file(path: str) -> list[str]:
    """Run a Python file that registers modules; returns the names of the features it registered. Errors: whatever the file raises; ValueError when it
    registers none.
    """
    from polynix.kernelproc.registry import modules

    before = set(modules.features)
    runpy.run_path(path, run_name=f"polynix module {path}")
    names = [name for name in modules.features if name not in before]
    if not names:
        raise ValueError("it registers no module")
    return names
