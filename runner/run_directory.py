"""The run directory of one container: holds the control socket's name, and is removed by whoever survives.

A lock file inside is held (``flock``) by every process of the container that would clean up, so that a directory whose lock is
free belongs to nobody: the next start sweeps those.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time

PREFIX = "polynix-run-"
_GRACE_SECONDS = 10.0  # between mkdtemp and the lock a directory looks abandoned


def parent_directory() -> str:
    """$XDG_RUNTIME_DIR when it is usable, else the temporary directory."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK | os.X_OK):
        return runtime
    return tempfile.gettempdir()


class RunDirectory:
    """A private directory (mode 0700), locked while any holder of ``lock_fd`` lives; a fork shares the lock."""

    def __init__(self) -> None:
        parent = parent_directory()
        sweep(parent)
        self.path = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
        self.lock_fd = os.open(os.path.join(self.path, "lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.lock_fd, fcntl.LOCK_EX)

    @property
    def control_path(self) -> str:
        return os.path.join(self.path, "control")

    def remove(self) -> None:
        """Delete it; it may be gone already, when the other side was first."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1


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
                if time.time() - status.st_mtime < _GRACE_SECONDS:
                    continue
                lock = -1
            try:
                if lock >= 0:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path, ignore_errors=True)
                removed += 1
            finally:
                if lock >= 0:
                    os.close(lock)
        except OSError:
            continue
    return removed
