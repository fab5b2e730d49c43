"""A runner of our own, which ends with us: what starts it, before anything heavy is imported, and what ends it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import Any

from polynix.runner import runner_process
from polynix.runner.errors import ContainerError
from polynix.runner.host import UnsuitableHost, check_host

STOP_SECONDS = 5.0  # how long a runner may take to end before it is killed


_early: list[PrivateRunner] = []


def start_early() -> None:
    """Start the runner of a command line that will want one before it knows its arguments: both have a lot to import. Should it fail, the second try will say
    why.
    """
    with contextlib.suppress(ContainerError):
        _early.append(PrivateRunner(in_process=True))


def end_unused() -> None:
    """The command line did not want it after all."""
    while _early:
        _early.pop().close()


def private_runner(*, in_process: bool) -> PrivateRunner:
    """The one that was started early, or a new one. Errors: ContainerError."""
    return _early.pop() if in_process and _early else PrivateRunner(in_process=in_process)


class PrivateRunner:
    """One runner process, and the lifeline that it ends with. ``in_process`` forks it from this process, which must have no threads; otherwise it is a program
    of its own.
    """

    def __init__(self, *, in_process: bool = False) -> None:
        """Errors: ContainerError."""
        self._process: Any = None  # multiprocess.Process
        self._program: subprocess.Popen[bytes] | None = None
        try:
            check_host()
        except UnsuitableHost as error:
            raise ContainerError(str(error)) from None
        try:
            if in_process:
                inherited = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2]
                self._process, self._lifeline = runner_process.fork_private_runner(inherited)
            else:
                self._lifeline, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    command = [sys.executable, "-m", "polynix.runner.runner_process", str(theirs.fileno())]
                    self._program = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True)
        except OSError as error:
            raise ContainerError(f"cannot start the runner: {error.strerror or error}") from error

    def session_socket(self) -> socket.socket:
        """Wait for the runner, and for the socket of our session with it. Errors: ContainerError, and the runner is gone."""
        try:
            return runner_process.receive_session(self._lifeline)
        except (OSError, runner_process.RunnerStartError) as error:
            self.close()
            raise ContainerError(str(error)) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the runner, and all that it started; returns when they are gone."""
        self._lifeline.close()
        if self._process is not None:
            self._process.join(STOP_SECONDS)
            if self._process.exitcode is None:
                self._process.kill()  # its launcher cleans up
                self._process.join()
        if self._program is not None:
            try:
                self._program.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._program.kill()
                self._program.wait()
