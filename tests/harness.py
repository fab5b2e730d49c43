"""Run the same thing on Linux and on polynix, many cases in one guest, and compare case by case.

A *program of cases* prints ``[ RUN ] name``, the case's output, and ``[ OK | SKIP | FAIL | DIED ] name``; see
userspace/check.h. When a guest ends or hangs in the middle, that case is lost and the ones behind it run in a new guest, so that one
fault hides no other.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from leftovers import MARK

ROOT = Path(__file__).resolve().parent.parent
POLYNIX = [sys.executable, "-m", "polynix.tools.start"]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
AS_ON_THE_HOST = [f"--user={os.geteuid()}:{os.getegid()}"] if os.geteuid() else []  # for guests that are compared with the host's side
AS_NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
_MARK = re.compile(r"^\[ (RUN|OK|SKIP|FAIL|DIED) \] (.+)$")


def environment(home: Path | str, **extra: str) -> dict[str, str]:
    """What both sides see: nothing of the caller's, so that no virtual environment or locale leaks in."""
    base = {
        "PATH": PATH,
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "TZ": "UTC",
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/bash",
        "PWD": str(home),
        "POLYNIX_LOCKDEP": "1",
        "TMPDIR": tempfile.gettempdir(),
        MARK: os.environ.get(MARK, ""),
    }
    return {**base, **extra}


def need_others_to_read() -> None:
    """Skip where another user can't run polynix: without setpriv, or from a checkout below a private directory, as /root is."""
    import pytest

    if AS_NOBODY and shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    if AS_NOBODY and subprocess.run([*AS_NOBODY, "test", "-r", __file__], check=False).returncode != 0:
        pytest.skip(f"other users can't read this checkout: clone it where they can, not below {ROOT.parent}")


@dataclass
class Outcome:
    """How a program ended. ``code`` is as subprocess gives it; None after a timeout."""

    code: int | None
    out: bytes
    err: bytes


def execute(argv: Sequence[str], *, cwd: Path | str, env: dict[str, str] | None = None, stdin: bytes | None = None, timeout: float = 60) -> Outcome:
    """Run a command in a process group of its own, and end the whole group after ``timeout`` seconds."""
    process = subprocess.Popen(
        argv,
        cwd=cwd,
        env=environment(cwd) if env is None else env,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    outputs: tuple[list[bytes], list[bytes]] = ([], [])
    threads = [
        threading.Thread(target=_drain, args=(process.stdout, outputs[0]), daemon=True),
        threading.Thread(target=_drain, args=(process.stderr, outputs[1]), daemon=True),
        threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True),
    ]
    for thread in threads:
        thread.start()
    code: int | None
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        code = None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for thread in threads:
        thread.join(1)  # not for ever: a stranger may still hold the pipe
    return Outcome(code, b"".join(outputs[0]), b"".join(outputs[1]))


def _drain(pipe: IO[bytes], into: list[bytes]) -> None:
    while data := os.read(pipe.fileno(), 1 << 16):
        into.append(data)


def _feed(pipe: IO[bytes] | None, data: bytes | None) -> None:
    if pipe is not None:
        try:
            pipe.write(data or b"")
            pipe.close()
        except BrokenPipeError:
            pass


def run_native(argv: Sequence[str], **options: object) -> Outcome:
    """The program on the host's Linux, with the signal dispositions and the priority that a container starts with."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    unhurried = ["/usr/bin/nice", "-n", str(-nice)] if nice and os.geteuid() == 0 else []
    return execute([*unhurried, "/usr/bin/env", "--default-signal", *argv], **options)  # type: ignore[arg-type]


def run_polynix(argv: Sequence[str], *, flags: Sequence[str] = (), **options: object) -> Outcome:
    """The program under ``polynix run``."""
    return execute([*POLYNIX, "run", *flags, "--", *argv], **options)  # type: ignore[arg-type]


@contextmanager
def directory(label: str) -> Iterator[Path]:
    """A temporary directory that is gone afterwards, whatever modes the test left in it."""
    path = Path(tempfile.mkdtemp(prefix=f"polynix-{label}-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass
class Case:
    """One case of a program: its verdict (OK, SKIP, FAIL, DIED, or LOST when the program ended in it) and its output."""

    verdict: str
    text: str


def parse_cases(output: str) -> dict[str, Case]:
    """The cases in a program's output, in order; the last one may be LOST."""
    cases: dict[str, Case] = {}
    running, lines = None, []
    for line in output.split("\n"):
        mark = _MARK.match(line)
        if mark and mark[1] == "RUN":
            if running:
                cases[running] = Case("LOST", "\n".join(lines))
            running, lines = mark[2], []
        elif mark and mark[2] == running:
            cases[running] = Case(mark[1], "\n".join(lines))
            running = None
        elif running:
            lines.append(line)
    if running:
        cases[running] = Case("LOST", "\n".join(lines))
    return cases


def run_cases(run: Callable[[list[str]], Outcome], names: Sequence[str], *, attempts: int = 12) -> dict[str, Case]:
    """Run a program of cases until each name has a verdict.

    ``run`` takes the names still to run (none: all); after ``attempts`` guests the rest is LOST.
    """
    found: dict[str, Case] = {}
    rest = list(names)
    first = True
    while rest and attempts:
        attempts -= 1
        outcome = run([] if first else rest)
        first = False
        cases = parse_cases(outcome.out.decode(errors="backslashreplace"))
        how = "timeout" if outcome.code is None else f"exit {outcome.code}"
        for name, case in cases.items():
            if case.verdict == "LOST":
                case.text += f"\n{how}; {outcome.err.decode(errors='backslashreplace')[-1500:]}"
            found.setdefault(name, case)
        if not any(name in cases for name in rest):
            found[rest[0]] = Case("LOST", f"never started: {how}; {outcome.err.decode(errors='backslashreplace')[-1500:]}")
        rest = [name for name in rest if name not in found]
    return found | {name: Case("LOST", "not run: too many guests were lost before it") for name in rest}
