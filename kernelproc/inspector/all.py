"""Imports every module that answers requests, which fills the registry."""

from __future__ import annotations

from polynix.kernelproc.inspector import descriptors, holding, mappings, tasks  # noqa: F401
from polynix.kernelproc.modules import profile, trace  # noqa: F401
