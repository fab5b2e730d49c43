"""Guest addresses: pages, protection bits, and where what may lie."""

from __future__ import annotations

from polynix.addrspace._restricted import GUEST_LIMIT

PAGE_SIZE = 4096
PAGE_MASK = PAGE_SIZE - 1
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4

TASK_SIZE = GUEST_LIMIT - (16 << 30)  # guest addresses end here; the filter's address checks want room above
STACK_TOP = TASK_SIZE - (1 << 20)
MMAP_MIN_ADDRESS = 0x10000
PIE_BASE = 0x5555_5555_4000
STACK_GUARD = 256 * PAGE_SIZE
MAX_MAP_COUNT = 65530


def page_down(address: int) -> int:
    return address & ~PAGE_MASK


def page_up(address: int) -> int:
    return (address + PAGE_MASK) & ~PAGE_MASK
