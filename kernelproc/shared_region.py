"""The shared kernel region: a named POSIX shared memory object that mirrors tasks and counters while the kernel runs.

Writers are the kernel's loop alone; readers map it read-only with :class:`RegionView`, at no cost to the kernel. The name goes when the kernel ends;
a killed kernel's is
removed by whoever survives it, or by the next start, which can tell by the lock on the object that its kernel is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import mmap
import os
import time
from typing import TYPE_CHECKING, Any

from polynix.kernelproc.region_layout import (
    MAGIC,
    MAX_SYSCALLS,
    MAX_TASKS,
    NAME_PREFIX,
    NOTES_OFFSET,
    NOTES_SIZE,
    REGION_SIZE,
    SYSCALLS_OFFSET,
    TASKS_OFFSET,
    VERSION,
    WORD,
    Header,
    TaskWord,
    header_dtype,
    task_dtype,
)

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

log = logging.getLogger(__name__)

SHM_DIRECTORY = "/dev/shm"


def region_name(kernel_pid: int) -> str:
    """The object's name, found by the kernel process's pid."""
    return f"/{NAME_PREFIX}{kernel_pid}"


class SharedRegion:
    """The kernel's side. ``words`` is the whole region as 64-bit words; ``syscalls`` the counts by number."""

    def __init__(self) -> None:
        self.name = region_name(os.getpid())
        self._directory = self._fd = -1  # the host's /dev/shm, which the kernel process may hide from itself; the locked object
        try:
            self._map = self._create()
        except OSError as error:
            log.debug("no named shared region: %s", error)  # the tools will not see this kernel
            self._map = mmap.mmap(-1, REGION_SIZE)
        self.words = memoryview(self._map).cast("Q")
        first = SYSCALLS_OFFSET // WORD
        self.syscalls = self.words[first : first + MAX_SYSCALLS]
        self.words[Header.VERSION] = VERSION
        self.words[Header.KERNEL_PID] = os.getpid()
        self.words[Header.BOOT_TIME_NS] = time.time_ns()
        self.words[Header.MAGIC] = MAGIC
        self._rows: dict[Task, int] = {}
        self._free: list[int] = []
        self._used = 0
        self._spare_row = memoryview(bytearray(TaskWord.WORDS * WORD)).cast("Q")

    def _create(self) -> mmap.mmap:
        import posix_ipc

        with contextlib.suppress(posix_ipc.Error):
            posix_ipc.unlink_shared_memory(self.name)
        try:
            shared = posix_ipc.SharedMemory(self.name, posix_ipc.O_CREX, mode=0o600)
        except posix_ipc.Error as error:
            raise OSError(f"{SHM_DIRECTORY}: {error}") from error
        self._fd = shared.fd
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        self._directory = os.open(SHM_DIRECTORY, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.posix_fallocate(self._fd, 0, REGION_SIZE)  # a full /dev/shm is an error here, not a SIGBUS later
        return mmap.mmap(self._fd, REGION_SIZE)

    def add_task(self, task: Task) -> memoryview[int]:
        """The row of a new task; when the table is full, one that nobody sees."""
        if self._free:
            index = self._free.pop()
        elif self._used < MAX_TASKS:
            index = self._used
            self._used += 1
            self.words[Header.TASK_ROWS] = self._used
        else:
            return self._spare_row
        self._rows[task] = index
        first = TASKS_OFFSET // WORD + index * TaskWord.WORDS
        row = self.words[first : first + TaskWord.WORDS]
        row[TaskWord.PID] = task.group.pid
        row[TaskWord.UID] = task.credentials.uid
        row[TaskWord.STATE] = ord("R")
        for word in (TaskWord.PPID, TaskWord.SYSCALLS, TaskWord.FAULTS, *range(TaskWord.RCHAR, TaskWord.WORDS)):
            row[word] = 0
        row[TaskWord.START_NS] = task.start_time_ns
        self.set_comm(row, task.comm)
        row[TaskWord.TID] = task.tid
        self.words[Header.TASKS] += 1
        self.words[Header.FORKS] += 1
        return row

    def set_comm(self, row: memoryview[int], comm: bytes) -> None:
        padded = comm[:15].ljust(16, b"\0")
        row[TaskWord.COMM] = int.from_bytes(padded[:8], "little")
        row[TaskWord.COMM + 1] = int.from_bytes(padded[8:], "little")

    def remove_task(self, task: Task) -> None:
        """The task is gone; its row may be used again."""
        index = self._rows.pop(task, None)
        if index is None:
            return
        self.words[TASKS_OFFSET // WORD + index * TaskWord.WORDS + TaskWord.TID] = 0
        self.words[Header.TASKS] -= 1
        self._free.append(index)

    def set_notes(self, notes: dict[str, Any]) -> None:
        """Publish what has no fixed size; readers see the old or the new text, never a mixture. Too much is cut by dropping the largest entries."""
        text = json.dumps(notes).encode()
        while len(text) > NOTES_SIZE - 1:
            notes = dict(sorted(notes.items(), key=lambda item: len(json.dumps(item[1])))[:-1])
            text = json.dumps(notes).encode()
        self.words[Header.NOTES_SEQUENCE] += 1
        self._map[NOTES_OFFSET : NOTES_OFFSET + len(text) + 1] = text + b"\0"
        self.words[Header.NOTES_SEQUENCE] += 1

    def close(self) -> None:
        """Remove the name."""
        if self._directory >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self.name[1:], dir_fd=self._directory)
            os.close(self._directory)
        if self._fd >= 0:
            os.close(self._fd)
        self._directory = self._fd = -1


def running_kernels() -> list[int]:
    """Pids of the kernel processes whose regions this user can see, lowest first."""
    found = []
    try:
        names = os.listdir(SHM_DIRECTORY)
    except OSError:
        return []
    for name in names:
        suffix = name.removeprefix(NAME_PREFIX)
        if suffix != name and suffix.isdigit() and os.path.exists(f"/proc/{suffix}"):
            found.append(int(suffix))
    return sorted(found)


class RegionView:
    """A tool's read-only look at a running kernel's region. ``tasks()`` and ``header`` are numpy structured arrays over the shared pages."""

    def __init__(self, kernel_pid: int) -> None:
        import numpy
        import posix_ipc

        shared = posix_ipc.SharedMemory(region_name(kernel_pid), read_only=True)
        try:
            self._map = mmap.mmap(shared.fd, REGION_SIZE, prot=mmap.PROT_READ)
        finally:
            os.close(shared.fd)
        self.header: Any = numpy.frombuffer(self._map, header_dtype(), 1)[0]
        if int(self.header["magic"]) != MAGIC or int(self.header["version"]) != VERSION:
            raise ValueError("not the shared region of this polynix version")
        self._tasks: Any = numpy.frombuffer(self._map, task_dtype(), MAX_TASKS, TASKS_OFFSET)
        self.syscalls: Any = numpy.frombuffer(self._map, "<u8", MAX_SYSCALLS, SYSCALLS_OFFSET)

    def notes(self) -> dict[str, Any]:
        """What the kernel published by ``set_notes``; empty when it published nothing."""
        while True:
            before = int(self.header["notes_sequence"])
            text = bytes(self._map[NOTES_OFFSET : NOTES_OFFSET + NOTES_SIZE]).split(b"\0", 1)[0]
            if not before & 1 and int(self.header["notes_sequence"]) == before:
                return json.loads(text) if text else {}
            time.sleep(0.001)

    def tasks(self) -> Any:
        """A copy of the rows in use."""
        rows = self._tasks[: int(self.header["task_rows"])].copy()
        return rows[rows["tid"] != 0]
