"""The runner process: a broker, a launcher, and the protocols that start and steer containers.

A *private* runner belongs to the process that started it, ``polynix run`` or a program that uses the Python API, and ends with it; a *service*
(``polynix runner``) has a directory that anybody of the same user finds. Either way the launcher is forked before there is a thread or a zmq context, and the
containers end with the runner.

The owner of a private runner holds the other end of a socket, the *lifeline*: over it he is given the socket of his session, or one line that tells why the
runner could not start; its end of file ends the runner.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from polynix.ipc.descriptor_socket import receive_packet
from polynix.ipc.descriptor_table import make_room_for_descriptors
from polynix.kernelproc.host_check import UnfitHostError, check_host
from polynix.runner.launcher import Launcher, reset_signals, use_null_streams
from polynix.runner.run_directory import RunDirectory, RunnerRuns, ServiceDirectory
from polynix.runner.runtime_directory import parent_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PACKET = 4096


def fork_private_runner(close: Sequence[int]) -> tuple[Any, socket.socket]:
    """Start a private runner from a process without threads: (the ``multiprocess.Process``, the lifeline). ``close`` are descriptors that are not the
    runner's.
    """
    import multiprocess

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = multiprocess.get_context("fork").Process(target=_private_runner, args=(theirs, (ours.fileno(), *close)), name="polynix-runner")
        process.start()
    return process, ours


def receive_session(lifeline: socket.socket) -> socket.socket:
    """What the owner of a private runner is given first: the socket of his session. Errors: RunnerStartError."""
    data, descriptors = receive_packet(lifeline, MAX_PACKET, 1, wait=True)
    if descriptors:
        return socket.socket(fileno=descriptors[0])
    raise RunnerStartError(json.loads(data)["error"] if data else "the runner died while it started")


class RunnerStartError(Exception):
    """The runner cannot start; the text is one line for people."""


def _private_runner(lifeline: socket.socket, close: Sequence[int]) -> None:
    """The body of a private runner; never returns."""
    status = 1
    try:
        for fd in close:
            with contextlib.suppress(OSError):
                os.close(fd)
        os.setsid()
        reset_signals()
        use_null_streams()
        status = run_private(lifeline)
    finally:
        os._exit(status)


def run_private(lifeline: socket.socket) -> int:
    """Serve the owner behind ``lifeline`` until he is gone; returns the exit status."""
    directory = None
    try:
        check_host()
        try:
            directory = RunDirectory()
        except OSError as error:
            raise RunnerStartError(f"cannot make a run directory: {error.filename or parent_directory()}: {error.strerror}") from error
        launcher = Launcher(directory.path, (lifeline,))
        make_room_for_descriptors()
        try:
            from polynix.runner.runner import RunnerService  # after the fork: it makes zmq's context

            RunnerService.serve_private(directory.path, launcher, lifeline)
        finally:
            launcher.close()
        return 0
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, RunnerStartError | UnfitHostError):
            text = f"cannot start the runner: {text}"
            if os.environ.get("POLYNIX_TRACEBACK"):
                import traceback

                traceback.print_exc()
        with contextlib.suppress(OSError):
            lifeline.send(json.dumps({"error": text}).encode())
        return 1
    finally:
        if directory is not None:
            directory.remove()


def run_service(path: str, log_level: str) -> int:
    """``polynix runner``: serve ``path`` until SIGTERM or SIGINT; returns the exit status. Errors: RunnerStartError."""
    try:
        check_host()
        directory = ServiceDirectory(path)
    except (RunnerRuns, UnfitHostError) as error:
        raise RunnerStartError(str(error)) from None
    except OSError as error:
        raise RunnerStartError(f"cannot serve {error.filename or path}: {error.strerror}") from None
    try:
        launcher = Launcher(directory.path)
        make_room_for_descriptors()
        try:
            from polynix.runner.runner import RunnerService  # after the fork: it makes zmq's context

            RunnerService.serve_users(directory.path, launcher, log_level)
        finally:
            launcher.close()
    finally:
        directory.remove()
    return 0


def main() -> int:
    """``python -m polynix.runner.runner_process LIFELINE_FD``: a private runner for a program that has threads."""
    reset_signals()
    use_null_streams()
    return run_private(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    os._exit(main())
