"""Modules: parts of the kernel behind feature flags (``--feature NAME[:ARGS]``).

A module registers itself with ``registry.modules`` and is initialised only when its flag is given; the kernel never calls one by name. ``load``
imports them all, so
that the registry knows the names.
"""


def load() -> None:
    """Import every module."""
    from polynix.kernelproc.modules import inject, kill_points, syscall_stats  # noqa: F401
