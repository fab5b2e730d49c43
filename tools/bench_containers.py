"""Containers that a runner keeps: how long a start takes, by the command line and for many at once. The runner is one of our own."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from polynix.runner.client import Runner

AT_ONCE = 50
START_SECONDS = 20.0


class BenchRunner:
    """A runner in a temporary directory, warm; a context manager."""

    def __init__(self, polynix: Sequence[str]) -> None:
        """``polynix`` is the command itself. Errors: RuntimeError."""
        self.polynix = polynix
        self._temporary = tempfile.TemporaryDirectory(prefix="polynix-bench-")
        self.directory = os.path.join(self._temporary.name, "runner")
        self._process = subprocess.Popen(
            [*polynix, "runner", "--directory", self.directory, "--log-level", "error"], stdin=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + START_SECONDS
        while not Path(self.directory, "broker").exists():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.close()
                raise RuntimeError("the runner does not start")
            time.sleep(0.02)
        with Runner(self.directory) as runner:  # the first one waits for the launcher's imports
            runner.start(["/bin/sleep", "1000"], name="first")

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
        self._temporary.cleanup()

    def __enter__(self) -> BenchRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, repeat: int) -> list[float]:
        """Milliseconds of ``polynix start NAME -- true``, from the command to its end: the program runs by then."""
        times = []
        for number in range(repeat):
            command = [*self.polynix, "start", "--runner", self.directory, f"start-{number}", "--", "/bin/true"]
            begin = time.perf_counter()
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
            times.append((time.perf_counter() - begin) * 1000)
        return times

    def many(self) -> float:
        """Milliseconds until 50 more containers run, asked for one after another by one client."""
        with Runner(self.directory) as runner:
            begin = time.perf_counter()
            for number in range(AT_ONCE):
                runner.start(["/bin/sleep", "1000"], name=f"many-{number}")
            took = (time.perf_counter() - begin) * 1000
            if len(runner.list()) < AT_ONCE:
                raise RuntimeError("containers have ended")
        return took


def measure(polynix: Sequence[str], repeat: int) -> tuple[list[float], float]:
    """(:meth:`BenchRunner.start`, :meth:`BenchRunner.many`). Errors: RuntimeError."""
    with BenchRunner(polynix) as runner:
        return runner.start(repeat), runner.many()


if __name__ == "__main__":
    starts, many = measure([sys.executable, "-m", "polynix.tools.start"], 10)
    print(f"polynix start: {statistics.median(starts):.0f} ms (least {min(starts):.0f}); {AT_ONCE} containers: {many:.0f} ms")
