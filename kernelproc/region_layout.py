"""Layout of the shared kernel region: tasks and counters as the tools (``ps``, ``top``, ``profile``) map them, read-only.

One definition for both sides: the kernel writes 64-bit words by index, the tools see a numpy structured array of the same fields. Imports nothing heavy.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

MAGIC = 0x78696E796C6F70  # "polynix"
VERSION = 3
WORD = 8
MAX_TASKS = 8192
MAX_SYSCALLS = 1024
NAME_PREFIX = "polynix-kernel-"  # in /dev/shm, before the kernel process's pid
INSPECTOR_PREFIX = "polynix-inspector-"  # the abstract unix socket that answers questions which the region does not: see kernelproc.inspector


class Header(IntEnum):
    """Words of the header."""

    MAGIC = 0
    VERSION = 1
    KERNEL_PID = 2
    BOOT_TIME_NS = 3  # CLOCK_REALTIME
    TASK_ROWS = 4  # rows ever used; the table's valid length
    TASKS = 5  # live tasks
    FORKS = 6
    NOTES_SEQUENCE = 7  # odd while the notes are being written
    WORDS = 16


class TaskWord(IntEnum):
    """Words of one task's row. ``state`` is the letter of /proc/PID/stat as a code point; a row with tid 0 is free."""

    TID = 0
    PID = 1
    PPID = 2
    UID = 3
    STATE = 4
    SYSCALLS = 5
    FAULTS = 6
    START_NS = 7  # CLOCK_BOOTTIME
    COMM = 8  # two words: 16 bytes, NUL-padded
    RCHAR = 10  # bytes read and written by system calls, and how many such calls (/proc/PID/io)
    WCHAR = 11
    SYSCR = 12
    SYSCW = 13
    HOST_THREAD = 14  # the host thread that runs it: process id << 32 | thread id; the thread id is 0 while it is not known, or belongs to another task
    CPU_OFFSET = 15  # ns, signed: what to add to that thread's CPU time for the task's (it may have had other threads, the thread other tasks)
    WORDS = 16


TASKS_OFFSET = Header.WORDS * WORD
SYSCALLS_OFFSET = TASKS_OFFSET + MAX_TASKS * TaskWord.WORDS * WORD
NOTES_OFFSET = SYSCALLS_OFFSET + MAX_SYSCALLS * WORD
NOTES_SIZE = 1 << 16  # JSON text, NUL-padded: what has no fixed size (stubs met, statistics of modules)
REGION_SIZE = NOTES_OFFSET + NOTES_SIZE


def task_dtype() -> Any:
    """numpy dtype of a task's row (128 bytes)."""
    import numpy

    offsets = {word.name.lower(): word.value * WORD for word in TaskWord if word is not TaskWord.WORDS}
    return numpy.dtype(
        {
            "names": list(offsets),
            "formats": ["S16" if name == "comm" else "<i8" if name == "cpu_offset" else "<u8" for name in offsets],
            "offsets": list(offsets.values()),
            "itemsize": TaskWord.WORDS * WORD,
        }
    )


def header_dtype() -> Any:
    """numpy dtype of the header (128 bytes)."""
    import numpy

    offsets = {word.name.lower(): word.value * WORD for word in Header if word is not Header.WORDS}
    return numpy.dtype({"names": list(offsets), "formats": ["<u8"] * len(offsets), "offsets": list(offsets.values()), "itemsize": Header.WORDS * WORD})
