"""What a container may not leave behind, and how to see it: processes, names in /dev/shm, run directories, sockets.

The test process becomes the subreaper, so that every orphan of a killed container turns up as its child.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import POLYNIX, Outcome, environment, execute

GUESTS = Path(__file__).parent / "guests"
PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 30.0  # a busy machine's; what is all right takes as long as it takes
AT_ONCE = 4


@functools.cache
def build(name: str, *flags: str) -> str:
    """The guest program ``name``.c, compiled."""
    directory = Path(tempfile.gettempdir()) / f"polynix-guests-{os.getuid()}-{os.getpid()}"
    if not directory.exists():
        directory.mkdir(0o755)
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    directory.chmod(0o755)
    program = directory / name
    subprocess.run(["gcc", "-O1", "-Wall", *flags, "-o", program, GUESTS / f"{name}.c", "-lpthread"], check=True)
    return str(program)


def children() -> set[int]:
    """All children of this process, whichever thread has them."""
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        try:
            found.update(map(int, Path(f"/proc/self/task/{thread}/children").read_text().split()))
        except OSError:
            continue
    return found


class Audit:
    """Runs programs under polynix, and afterwards says what is left. ``run_directory`` is theirs alone."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.children_before = children()
        self.directory = Path(tempfile.mkdtemp(prefix="polynix-audit-"))
        self.run_directory = self.directory / "run"
        self.run_directory.mkdir(mode=0o700)
        self.log = self.directory / "kills"
        self.log.touch()
        self.all_may_be_dead = False
        self.started: list[subprocess.Popen[bytes]] = []

    def environment(self, **extra: str) -> dict[str, str]:
        return environment("/", XDG_RUNTIME_DIR=str(self.run_directory), **extra)

    def kill_feature(self, **settings: object) -> list[str]:
        return ["--feature", "kill:" + ",".join(f"{key}={value}" for key, value in {**settings, "log": self.log}.items())]

    def run(self, argv: Sequence[str], *flags: str, timeout: float = 60, **extra: str) -> Outcome:
        return execute([*POLYNIX, "run", *flags, "--", *argv], cwd="/", env=self.environment(**extra), timeout=timeout)

    def run_all(self, runs: Sequence[tuple[Sequence[str], Sequence[str]]], timeout: float = 60) -> list[Outcome]:
        """Run (argv, flags) pairs, a few at a time."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda run: self.run(run[0], *run[1], timeout=timeout), runs))

    def popen(self, argv: Sequence[str], *flags: str, **options: object) -> subprocess.Popen[bytes]:
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.DEVNULL)
        options.setdefault("stderr", subprocess.DEVNULL)
        process = subprocess.Popen(  # type: ignore[call-overload]
            [*POLYNIX, "run", *flags, "--", *argv], cwd="/", env=self.environment(), start_new_session=True, **options
        )
        self.started.append(process)
        return process  # type: ignore[no-any-return]

    def kernel_pids(self) -> list[int]:
        return [int(line.split()[1]) for line in self.log.read_text().splitlines() if line.startswith("kernel ")]

    def kills(self) -> list[str]:
        """The points of the kills so far, as ``victim@point``."""
        return [line.split()[0] for line in self.log.read_text().splitlines() if "@" in line]

    def leftovers(self) -> list[str]:
        """What is there now that should not be."""
        left = []
        for pid in children() - self.children_before:
            try:
                ended, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
            if not ended:
                state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
                left.append(f"process {pid} ({state}): {Path(f'/proc/{pid}/cmdline').read_bytes()!r}")
        left += [f"run directory {name}" for name in os.listdir(self.run_directory)]
        for pid in self.kernel_pids():
            left += [f"/dev/shm/{name}" for name in os.listdir("/dev/shm") if f"-{pid}" in name]
        return left

    def settle(self, seconds: float = GRACE_SECONDS) -> list[str]:
        """What is left after at most ``seconds``."""
        deadline = time.monotonic() + seconds
        while (left := self.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def end_started(self) -> None:
        """End what a failed test has left running."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
