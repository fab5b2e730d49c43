"""The power management part of sysfs: /sys/power, /sys/kernel/wakeup_reasons, and debugfs's wakeup_sources.

Linux's ``kernel/power/main.c``, ``suspend.c`` and ``wakelock.c``. Only suspend-to-idle is offered, under both of its names.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.pseudo import TextFile, TextFileOps, constant, directory, text
from polynix.kernelproc.uapi.capability import CAP_BLOCK_SUSPEND
from polynix.kernelproc.uapi.errno import EINVAL, ENOSPC, EPERM
from polynix.kernelproc.vfs.fs_node import FsNode

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.power.suspend_stats import SuspendStats
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.file_system import FileSystem
    from polynix.kernelproc.vfs.ops import FileOps, Result

Entries = dict[bytes, "Callable[[FileSystem], FsNode]"]

STATES = (b"freeze", b"mem")
MOST_WAKE_LOCKS = 100
NANOSECONDS = 1_000_000_000


class StateFileOps(TextFileOps):
    """/sys/power/state: a write returns after the resume."""

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        return self._suspend(data.read())

    async def _suspend(self, text: bytes) -> int:
        if text.removesuffix(b"\n") not in STATES:
            raise Errno(EINVAL)
        await self.task.kernel.power.suspend()
        return len(text)


class WakeupCountFileOps(TextFileOps):
    """/sys/power/wakeup_count: a read waits until no wakeup event is being handled."""

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        return self._read(offset, out)

    async def _read(self, offset: int, out: OutputBuffer) -> int:
        if self.text is None or offset == 0:
            self.text = b"%d\n" % await self.task.kernel.power.sources.count()
        piece = self.text[offset : offset + out.remaining]
        return out.write(piece) if piece else 0


class _File(TextFile):
    """A computed file with operations of its own."""

    def __init__(self, ops: type[TextFileOps], content: Callable[[Task], bytes] | None, store: Callable[[Task, bytes], None]) -> None:
        super().__init__(content, store)
        self.ops = ops

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        return self.ops(task, self.content, self.store)


def _file(ops: type[TextFileOps], content: Callable[[Task], bytes] | None, store: Callable[[Task, bytes], None]) -> Callable[[FileSystem], FsNode]:
    return lambda fs: FsNode(fs, fs.new_ino(), stat.S_IFREG | 0o644, _File(ops, content, store))


def _nothing(_task: Task, _text: bytes) -> None:
    """Stored elsewhere."""


def _save_wakeup_count(task: Task, text: bytes) -> None:
    digits = text.strip()
    if not digits.isdigit() or not task.kernel.power.sources.save_count(int(digits)):
        raise Errno(EINVAL)


def _take_wake_lock(task: Task, text: bytes) -> None:
    """``NAME [NANOSECONDS]``"""
    _check_capability(task)
    name, _, rest = text.partition(b" ") if b" " in text else text.partition(b"\n")
    duration = rest.strip()
    if not name or (duration and not duration.isdigit()):
        raise Errno(EINVAL)
    power = task.kernel.power
    key = name.decode(errors="surrogateescape")
    lock = power.wake_locks.get(key)
    if lock is None:
        if len(power.wake_locks) >= MOST_WAKE_LOCKS:
            raise Errno(ENOSPC)
        lock = power.wake_locks[key] = power.sources.add(key)
    if duration:
        lock.stay_awake_for(int(duration))
    else:
        lock.stay_awake()


def _drop_wake_lock(task: Task, text: bytes) -> None:
    _check_capability(task)
    lock = task.kernel.power.wake_locks.get(text.removesuffix(b"\n").decode(errors="surrogateescape"))
    if lock is None:
        raise Errno(EINVAL)
    lock.relax()


def _check_capability(task: Task) -> None:
    if not task.credentials.has_capability(CAP_BLOCK_SUSPEND):
        raise Errno(EPERM)


def _wake_locks(active: bool) -> Callable[[Task], bytes]:
    def content(task: Task) -> bytes:
        names = [name for name, lock in sorted(task.kernel.power.wake_locks.items()) if lock.active is active]
        return " ".join([*names, "\n"]).encode(errors="surrogateescape") if names else b"\n"

    return content


def power_directory() -> Entries:
    """Entries of /sys/power."""
    return {
        b"state": _file(StateFileOps, lambda _task: b" ".join(STATES) + b"\n", _nothing),
        b"mem_sleep": constant(b"[s2idle]\n"),
        b"wake_lock": text(_wake_locks(True), _take_wake_lock),
        b"wake_unlock": text(_wake_locks(False), _drop_wake_lock),
        b"wakeup_count": _file(WakeupCountFileOps, None, _save_wakeup_count),
        b"suspend_stats": directory(
            {
                b"success": _stat(lambda stats: stats.success_count),
                b"fail": _stat(lambda stats: stats.fail_count),
                b"failed_suspend": _stat(lambda stats: stats.fail_count),
                **{name: constant(b"0\n") for name in (b"failed_freeze", b"failed_prepare", b"failed_resume")},
                b"last_failed_errno": _stat(lambda stats: -stats.last_errno),
                b"last_hw_sleep": _stat(lambda stats: stats.last_time_in_sleep_ns // 1000),
                b"max_hw_sleep": _stat(lambda stats: stats.longest_sleep_ns // 1000),
                b"total_hw_sleep": _stat(lambda stats: stats.total_time_in_sleep_ns // 1000),
            }
        ),
    }


def _stat(value: Callable[[SuspendStats], int]) -> Callable[[FileSystem], FsNode]:
    return text(lambda task: b"%d\n" % value(task.kernel.power.stats))


def wakeup_reasons() -> Entries:
    """Entries of /sys/kernel/wakeup_reasons, as Android's kernels have it: the reason, and seconds on the way and asleep."""

    def last_suspend_time(task: Task) -> bytes:
        slept = task.kernel.power.stats.last_time_in_sleep_ns
        return b"0.000000000 %d.%09d\n" % (slept // NANOSECONDS, slept % NANOSECONDS)

    return {
        b"last_resume_reason": text(lambda task: task.kernel.power.stats.last_reason.encode() + b"\n"),
        b"last_suspend_time": text(last_suspend_time),
    }


def debug_directory(kernel: Kernel) -> Entries:
    """Entries of /sys/kernel/debug."""
    return {b"wakeup_sources": text(lambda _task: kernel.power.sources.table().encode(errors="surrogateescape"))}
