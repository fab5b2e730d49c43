"""The ``polynix`` command, from its first instruction to its exit status: what saves time at start and end. Start-up is part of the product.

Nothing heavy is imported here: ``polynix run`` forks its runner first, so that runner, launcher and command line import what they need side by side.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


def entry() -> NoReturn:
    """Leaves without tearing the interpreter down, which would cost a tenth of the start-up."""
    gc.disable()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while we load ends us quietly; see run.py for later
    _open_standard_descriptors()
    wants_runner = sys.argv[1:2] == ["run"] and len(sys.argv) > 2 and sys.argv[2] not in ("-h", "--help")
    if wants_runner:
        from polynix.runner import private_runner

        private_runner.start_early()
    try:
        status = _run_plainly()
        if status is None:
            from polynix.tools.cli import main

            status = main()
    finally:
        if wants_runner:
            private_runner.end_unused()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def fork_command_line(arguments: list[str], prepare: Callable[[], None]) -> int:
    """Start ``polynix ARGUMENTS`` as a child of this process, which must have no threads; returns its pid. It has the standard descriptors only, and calls
    ``prepare`` first.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        prepare()
        sys.argv[1:] = arguments
        entry()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def _run_plainly() -> int | None:
    """What can be read without click; None for all else."""
    from polynix.tools.plain_line import COMMANDS

    command = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    return None if command is None else command(sys.argv[2:])


def _open_standard_descriptors() -> None:
    """Those that the caller closed become /dev/null, before anything else takes their numbers."""
    while True:
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if fd > 2:
            os.close(fd)
            return


if __name__ == "__main__":
    entry()
