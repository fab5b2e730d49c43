"""Layout of a trace ring: a page of header, a small ring of names, a ring of events; fixed slots of 128 bytes.

It lies in memory that the tool which asked for the trace owns, so that a dying kernel loses nothing.
The kernel writes raw numbers; ``polynix trace`` reads and decodes them afterwards (:mod:`polynix.tools.trace`). When the ring is full the oldest slots go.
Slots are in the order of their ``end_ns``; text that does not fit into its slot goes on in TEXT slots right behind. Imports nothing heavy.
"""

from __future__ import annotations

import mmap
import os
import struct
from enum import IntEnum
from typing import Any

MAGIC = 0x7472_6163_6570_6F6C
VERSION = 1
HEADER_SIZE = 4096
SLOT_SIZE = 128
NAME_SLOTS = 8192  # a ring of their own, so that calls don't push out who made them
EVENTS_OFFSET = HEADER_SIZE + NAME_SLOTS * SLOT_SIZE
TEXT_OFFSET, TEXT_SIZE = 80, 48
CONTINUED_OFFSET, CONTINUED_SIZE = 24, 104
NO_RESULT = -(1 << 63)  # the call did not return in the usual way

SLOT = "@QQIHBBq"  # start_ns, end_ns (CLOCK_MONOTONIC), tid, number, kind, length of the text (255: it goes on), result;
# then the arguments. Native order packs in two thirds of the time; the fields lie where they would without alignment.
HEADER = struct.Struct("<QQQQ")  # magic, version, slots, slots ever written (exact when the kernel ended in order)

# A file of samples (kernelproc.trace.sampler): where the text in force starts and how long it is; two areas that take turns.
SAMPLES_HEADER = struct.Struct("<QQ")
SAMPLES_START = 4096
SAMPLES_AREA = 64 << 20


class Kind(IntEnum):
    """What a slot tells."""

    CALL = 1  # a whole system call: number, result, arguments; the text are its paths, or the start of a small argument's memory
    BEGIN = 2  # of a call that blocks
    END = 3  # of the thread's call that blocked: number, result, the memory of an output
    TEXT = 4  # more text of the slot before
    NAME = 5  # (in the ring of names) a thread exists: arguments[0] is its pid, the text its name
    EXIT = 6  # a thread ended: result is its wait status
    SIGNAL = 7  # a signal is delivered: number
    FAULT = 8  # a page fault: arguments are address and error code
    WAKE = 9  # a thread woke another: arguments[0] is the other's tid


def ring_size(slots: int) -> int:
    """Bytes of a ring."""
    return EVENTS_OFFSET + slots * SLOT_SIZE


def create_ring(megabytes: int) -> int:
    """An empty ring as a memfd, of the power of two of slots that fits. Errors: OSError."""
    slots = 1 << ((megabytes << 20) // SLOT_SIZE).bit_length() - 1
    fd = os.memfd_create("polynix-trace", os.MFD_CLOEXEC)
    os.ftruncate(fd, ring_size(slots))
    os.pwrite(fd, HEADER.pack(MAGIC, VERSION, slots, 0), 0)
    return fd


def map_ring(fd: int) -> tuple[mmap.mmap, int]:
    """Map a ring for writing; returns it and its number of slots. Errors: OSError, ValueError for what is no ring."""
    memory = mmap.mmap(fd, os.fstat(fd).st_size)
    magic, version, slots, _ = HEADER.unpack_from(memory)
    if (magic, version) != (MAGIC, VERSION) or len(memory) != ring_size(slots) or slots & (slots - 1):
        raise ValueError("not a trace ring of this polynix version")
    return memory, slots


def slot_dtype() -> Any:
    """numpy dtype of a slot."""
    import numpy

    names = ["start_ns", "end_ns", "tid", "number", "kind", "length", "result", "arguments", "text", "continued"]
    formats = ["<u8", "<u8", "<u4", "<u2", "u1", "u1", "<i8", ("<u8", 6), f"V{TEXT_SIZE}", f"V{CONTINUED_SIZE}"]
    offsets = [0, 8, 16, 20, 22, 23, 24, 32, TEXT_OFFSET, CONTINUED_OFFSET]
    return numpy.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": SLOT_SIZE})
