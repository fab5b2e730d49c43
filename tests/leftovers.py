"""What a test session leaves on the host: processes, files in the temporary directory, names in /dev/shm.

Others use the machine at the same time. So a session has a mark, which all its processes inherit in their environment, and a temporary directory of
its own: what has the mark or lies there is the session's, whoever of it made it. Only names in /dev/shm tell no more than the pid of their maker.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

MARK = "POLYNIX_TEST_SESSION"  # its value is the session's temporary directory
GRACE_SECONDS = 10.0  # for what was killed at the very end
SHM = Path("/dev/shm")


class SessionTraces:
    """Made before anything of the session runs, in the process that outlives its workers."""

    def __init__(self) -> None:
        # Its path is short, as those of sockets lie below it, and other users work in it as in /tmp.
        self.directory = Path(tempfile.mkdtemp(prefix="pt-"))
        self.directory.chmod(0o1777)
        self.names_before = _names()
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # what pytest keeps of failed tests is meant to stay
        os.environ[MARK] = os.environ["TMPDIR"] = str(self.directory)
        os.environ.pop("XDG_RUNTIME_DIR", None)  # runners serve in the temporary directory then
        tempfile.tempdir = None

    def left(self) -> list[str]:
        """What is there now that should not be, a line each."""
        return [
            *(f"process {pid}: {_command(pid)}" for pid in self._processes()),
            *(str(path) for path in sorted(self.directory.iterdir())),
            *(f"{SHM}/{name}" for name in sorted(_names() - self.names_before)),
        ]

    def settle(self) -> list[str]:
        """What is still left after a while of grace."""
        deadline = time.monotonic() + GRACE_SECONDS
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def remove(self) -> None:
        """End and delete what is left."""
        for pid in self._processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(self.directory, ignore_errors=True)

    def _processes(self) -> list[int]:
        mark = f"{MARK}={self.directory}\0".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark not in path.read_bytes() or b"multiprocessing.resource_tracker" in path.with_name("cmdline").read_bytes():
                    continue  # a tracker ends with its process, which may be this one
                found.append(int(path.parent.name))
            except OSError:  # gone, or another user's
                continue
        return found


def _names() -> set[str]:
    """polynix's names in /dev/shm that are ours and whose makers are dead."""
    try:
        names = [path for path in SHM.iterdir() if path.name.startswith("polynix-")]
    except OSError:
        return set()
    found = set()
    for path in names:
        maker = next((word for word in path.name.split("-") if word.isdigit()), "")
        try:
            if path.lstat().st_uid == os.geteuid() and not Path(f"/proc/{maker}").exists():
                found.add(path.name)
        except OSError:
            continue
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="backslashreplace")[:200]
    except OSError:
        return "(gone)"
