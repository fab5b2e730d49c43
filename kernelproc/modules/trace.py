"""``--feature trace:RING[,FILTER]``: trace the kernel into the ring at a host path (``polynix trace`` makes it); FILTER is strace's, of system calls.

Requests of the inspector, for a kernel that runs already: ``trace.start`` and ``trace.stop``.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Any

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.inspector import RequestError, requests
from polynix.kernelproc.inspector.server import LOWEST_FD
from polynix.kernelproc.registry import modules
from polynix.kernelproc.trace_layout import create_ring
from polynix.kernelproc.uapi.errno import EINVAL

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.trace.tracer import Tracer


class TracerSlot:
    """The kernel's tracer, if there is one; in ``kernel.expando``."""

    def __init__(self) -> None:
        self.tracer: Tracer | None = None


def begin(kernel: Kernel, ring: int, call_filter: str) -> Tracer:
    """Trace into the ring that is open as ``ring``. Errors: OSError, ValueError for what is no ring, FilterError."""
    from polynix.kernelproc.strace.filter import parse_filter
    from polynix.kernelproc.trace.tracer import Tracer

    tracer = Tracer(kernel, ring, parse_filter(call_filter) if call_filter else None)
    kernel.expando.get(TracerSlot).tracer = tracer
    return tracer


@modules.module("trace")
def initialise(kernel: Kernel, arguments: str) -> None:
    """Errors: EINVAL for what is no ring, or no filter."""
    from polynix.kernelproc.strace.filter import FilterError

    path, _, call_filter = arguments.partition(",")
    try:
        ring = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            begin(kernel, ring, call_filter)
        finally:
            os.close(ring)
    except (OSError, ValueError, FilterError):
        raise Errno(EINVAL) from None


@requests.handler("trace.start")
def start_request(kernel: Kernel, arguments: dict[str, Any]) -> int:
    """Begin to trace the calls of ``filter`` into a ring of ``megabytes``; it ends with the connection. Answers the ring's descriptor in this process, which
    whoever asked opens through /proc: a dying kernel then loses nothing. Errors: RequestError.
    """
    from polynix.kernelproc.strace.filter import FilterError

    slot = kernel.expando.get(TracerSlot)
    if slot.tracer is not None:
        raise RequestError("the container is traced already")
    try:
        low = create_ring(int(arguments["megabytes"]))
        ring = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, LOWEST_FD)
        os.close(low)
    except OSError as error:
        raise RequestError(f"cannot make a trace buffer: {error.strerror}") from None

    def end() -> None:
        tracer.stop()
        os.close(ring)
        slot.tracer = None

    try:
        tracer = begin(kernel, ring, str(arguments["filter"]))
    except (OSError, FilterError) as error:
        os.close(ring)
        raise RequestError(str(error)) from None
    arguments["connection"].on_close.append(end)
    return ring


@requests.handler("trace.stop")
def stop_request(kernel: Kernel, arguments: dict[str, Any]) -> None:
    """End what this connection has started; the ring is complete then."""
    arguments["connection"].close()
