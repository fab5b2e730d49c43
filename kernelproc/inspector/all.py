"""Imports every module that answers requests, which fills the registry."""

from __future__ import annotations

from polynix.kernelproc.inspector import descriptors, mappings, tasks  # noqa: F401
