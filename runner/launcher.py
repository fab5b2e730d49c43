"""Starts kernel processes with ``multiprocess``, from a process that has neither threads nor a zmq context.

The command line is such a process and calls :func:`fork_kernel_process` itself. Programs that use the Python API may have
threads, so the API runs this module as a small process of its own (``python -m polynix.runner.launcher``), which forks the
kernel process, waits for it, and removes the run directory.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from polynix.kernelproc.options import ContainerOptions

if TYPE_CHECKING:
    from polynix.ipc.objects import Channel, Vmo


def fork_kernel_process(options: ContainerOptions, directory: str, peer: socket.socket, *, close: tuple[int, ...] = ()) -> Any:
    """Fork the kernel process of one container; returns the started ``multiprocess.Process``.

    ``close`` are descriptors that are not the kernel's.
    """
    import multiprocess
    import zmq  # noqa: F401  # both sides need it; no context exists before the fork

    process = multiprocess.get_context("fork").Process(target=kernel_process, args=(options, directory, peer, close), name="polynix-kernel")
    process.start()
    return process


def kernel_process(options: ContainerOptions, directory: str, peer: socket.socket, close: tuple[int, ...]) -> None:
    """The body of the kernel process; never returns."""
    status = 1
    gc.disable()  # until boot is over
    try:
        _detach(close)
        from polynix.kernelproc.host_check import check_host

        check_host()
        from polynix.kernelproc.main import run_kernel

        status = run_kernel(options, os.path.join(directory, "control"), peer, create_pager)
    except BaseException as error:
        _report(peer, error)
    finally:
        import shutil

        shutil.rmtree(directory, ignore_errors=True)
        os._exit(status)


def create_pager(backing: Vmo, block_size: int) -> Channel:
    """A pager thread of the kernel process's own, made when an image is mounted."""
    from polynix.ipc.objects import Channel
    from polynix.ipc.protocols.manager import ManagerCreatePagerRequest
    from polynix.runner.pager import Pager

    client_end, server_end = Channel.create()
    Pager().create(ManagerCreatePagerRequest(backing_vmo=backing, block_size=block_size, pager=server_end))
    return client_end


def _detach(close: tuple[int, ...]) -> None:
    """A session of its own; no standard descriptors but standard error, where the kernel logs."""
    import signal

    for fd in close:
        try:
            os.close(fd)
        except OSError:
            pass  # the descriptor of the listing itself
    os.setsid()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.environ.get("POLYNIX_TRACEBACK"):
        import faulthandler

        faulthandler.register(signal.SIGUSR1)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _report(peer: socket.socket, error: BaseException) -> None:
    """Say why the kernel could not start, in one line, as the last packet on the descriptor socket."""
    import logging

    logging.getLogger(__name__).debug("the kernel process failed", exc_info=error)
    text = " ".join(str(error).split()) or type(error).__name__
    if not getattr(error, "expected", False):
        text = f"{type(error).__name__}: {text}"
        if os.environ.get("POLYNIX_TRACEBACK"):
            import traceback

            traceback.print_exception(error)
    try:
        peer.send(b"\0\0\0\0" + text.encode(errors="replace")[:4000])
    except OSError:
        pass


def main() -> int:
    """``python -m polynix.runner.launcher PEER_FD DIRECTORY LOCK_FD OPTIONS``"""
    peer = socket.socket(fileno=int(sys.argv[1]))
    directory = sys.argv[2]
    process = fork_kernel_process(ContainerOptions.from_json(sys.argv[4]), directory, peer)
    peer.close()
    import signal

    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the terminal's signals are the caller's business
    signal.signal(signal.SIGTERM, lambda *_: process.kill())
    process.join()
    import shutil

    from polynix.runner.run_directory import remove_region

    remove_region(process.pid)
    shutil.rmtree(directory, ignore_errors=True)
    return 0 if process.exitcode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
