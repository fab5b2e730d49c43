"""``--feature flame:FILE``: sample the stacks of the kernel and of the guests into the memory file at a host path (``polynix trace --flame`` makes it)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.registry import modules
from polynix.kernelproc.uapi.errno import EINVAL

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel


@modules.module("flame")
def initialise(kernel: Kernel, arguments: str) -> None:
    """Errors: EINVAL for a file that can't be opened."""
    from polynix.kernelproc.trace.sampler import Sampler

    try:
        Sampler(kernel, arguments)
    except OSError:
        raise Errno(EINVAL) from None
