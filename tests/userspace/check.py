"""The frame of a userspace test in Python: every ``case_*`` function in a forked child with an empty directory, as check.h."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable


class Skip(Exception):
    """Raised by a case that this machine or this user can't show."""


def note(*values: object) -> None:
    """Print a line that must be the same on Linux and on polynix."""
    print(*values, flush=True)


def fails(errno: int, function: Callable[..., object], *arguments: object) -> None:
    """The call must raise OSError with that errno."""
    try:
        result = function(*arguments)
    except OSError as error:
        assert error.errno == errno, f"{function.__name__}{arguments}: {error!r}, not errno {errno}"
    else:
        raise AssertionError(f"{function.__name__}{arguments} returned {result!r}, not errno {errno}")


def _run(name: str, function: Callable[[], None]) -> bool:
    note(f"[ RUN ] {name}")
    directory = tempfile.mkdtemp(prefix="check.", dir=".")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.chdir(directory)
            os.setpgid(0, 0)
            signal.alarm(60)
            function()
            code = 0
        except Skip as skip:
            note("skip:", skip)
            code = 77
        except BaseException:
            last = traceback.extract_tb(sys.exc_info()[2])[-1]
            note(f"{os.path.basename(last.filename)}:{last.lineno}: {last.line}: {sys.exc_info()[1]!r}")
        finally:
            sys.stdout.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        os.killpg(pid, signal.SIGKILL)  # what it left behind
    except ProcessLookupError:
        pass
    if status < 0:
        note(f"signal {-status}")
    verdict = {0: "OK", 77: "SKIP"}.get(status, "FAIL" if status > 0 else "DIED")
    note(f"[ {verdict} ] {name}")
    return verdict in ("OK", "SKIP")


def main(namespace: dict[str, object]) -> None:
    """Run the cases named on the command line, or all."""
    cases = {name[5:]: value for name, value in namespace.items() if name.startswith("case_") and callable(value)}
    results = [_run(name, function) for name, function in cases.items() if name in sys.argv[1:] or len(sys.argv) == 1]
    sys.exit(0 if all(results) else 1)
