"""A kernel module for tests: tells on standard error of each page-in for which the kernel's loop stood still."""

from __future__ import annotations

import sys

from polynix.addrspace.paged_memory import PagedMemory
from polynix.kernelproc.kernel import Kernel
from polynix.kernelproc.registry import modules


@modules.module("page_ins")
def initialise(_kernel: Kernel, _arguments: str) -> None:
    require = PagedMemory.require

    def told(memory: PagedMemory, start: int, end: int) -> None:
        if memory.waits and memory.absent(start, end):
            print(f"blocked for bytes {start} to {end}", file=sys.stderr, flush=True)
        require(memory, start, end)

    PagedMemory.require = told  # type: ignore[method-assign]
