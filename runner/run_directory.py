"""What of a runner and its containers has a name on the host: the runner's directory with its sockets, and the kernels' shared regions in
/dev/shm. All are removed by whoever survives.

A lock (``flock``) is held on each by every process of the container that would clean up, so that one whose lock is free belongs
to nobody: the next start sweeps those.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time

from polynix.kernelproc.region_layout import NAME_PREFIX
from polynix.runner.runtime_directory import parent_directory

SHM_DIRECTORY = "/dev/shm"
PREFIX = "polynix-run-"
_LOCK_SECONDS = 2.0
_GRACE_SECONDS = 10.0  # between its creation and the lock a name looks abandoned; for names of processes that seem to live


class RunDirectory:
    """A private directory (mode 0700), locked while any holder of ``lock_fd`` lives; a fork shares the lock."""

    def __init__(self) -> None:
        parent = parent_directory()
        sweep(parent)
        sweep_regions()
        self.path = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent)
        self.lock_fd = -1
        try:
            self.lock_fd = os.open(os.path.join(self.path, "lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Delete it; it may be gone already, when the other side was first."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1


class RunnerRuns(Exception):
    """A runner serves the directory already."""


class ServiceDirectory:
    """The directory of a runner that is a service, locked while it or its launcher lives. What a dead runner left in it is swept."""

    def __init__(self, path: str) -> None:
        """Errors: OSError, PermissionError for a directory that others may enter, RunnerRuns."""
        self.path = os.path.abspath(path)
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        status = os.lstat(self.path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(errno.EPERM, "it must be a directory of our own, with mode 0700", self.path)
        self.lock_fd = self._lock(time.monotonic() + _LOCK_SECONDS)
        for entry in os.scandir(self.path):
            if entry.name != "lock":
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)
        sweep_regions()

    def _lock(self, deadline: float) -> int:
        path = os.path.join(self.path, "lock")
        while True:
            fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
            except BlockingIOError:
                if time.monotonic() >= deadline:  # the launcher of one that was killed takes a moment
                    os.close(fd)
                    raise RunnerRuns(f"a runner serves {self.path} already") from None
                time.sleep(0.05)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def remove(self) -> None:
        """Delete it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock_fd)


def sweep(parent: str) -> int:
    """Remove the directories of containers whose every process was killed; returns how many."""
    removed = 0
    try:
        entries = [entry for entry in os.scandir(parent) if entry.name.startswith(PREFIX)]
    except OSError:
        return 0
    for entry in entries:
        try:
            status = entry.stat(follow_symlinks=False)
            if status.st_uid != os.getuid() or not entry.is_dir(follow_symlinks=False):
                continue
            try:
                lock = os.open(os.path.join(entry.path, "lock"), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                lock = -1
            try:
                if lock >= 0:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _may_be_starting(entry.name[len(PREFIX) :], status):
                    continue
                shutil.rmtree(entry.path, ignore_errors=True)
                removed += 1
            finally:
                if lock >= 0:
                    os.close(lock)
        except OSError:
            continue
    return removed


def remove_region(kernel_pid: int) -> None:
    """Remove the name of a dead kernel's shared region, if it is still there."""
    with contextlib.suppress(OSError):
        os.unlink(f"{SHM_DIRECTORY}/{NAME_PREFIX}{kernel_pid}")


def sweep_regions() -> int:
    """Remove the shared regions of kernels that were killed together with all who knew them; returns how many."""
    removed = 0
    try:
        names = [name for name in os.listdir(SHM_DIRECTORY) if name.startswith(NAME_PREFIX)]
    except OSError:
        return 0
    for name in names:
        path = f"{SHM_DIRECTORY}/{name}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(fd)
            if status.st_uid == os.getuid() and not _may_be_starting(name[len(NAME_PREFIX) :], status):
                os.unlink(path)
                removed += 1
        except OSError:
            continue
        finally:
            os.close(fd)
    return removed


def _may_be_starting(name: str, status: os.stat_result) -> bool:
    """Whether a name without a locker (``PID`` or ``PID-...``) may be one that is just being made."""
    try:
        with open(f"/proc/{name.partition('-')[0]}/stat", "rb") as file:
            alive = file.read().rsplit(b")", 1)[-1].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
    return alive and time.time() - status.st_mtime < _GRACE_SECONDS
