"""``--feature trace:RING[,FILTER]``: trace the kernel into the ring at a host path (``polynix trace`` makes it); FILTER is strace's, of system calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.registry import modules
from polynix.kernelproc.uapi.errno import EINVAL

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel


@modules.module("trace")
def initialise(kernel: Kernel, arguments: str) -> None:
    """Errors: EINVAL for what is no ring, or no filter."""
    from polynix.kernelproc.strace.filter import FilterError, parse_filter
    from polynix.kernelproc.trace.tracer import Tracer

    path, _, text = arguments.partition(",")
    try:
        Tracer(kernel, path, parse_filter(text) if text else None)
    except (OSError, ValueError, FilterError):
        raise Errno(EINVAL) from None
