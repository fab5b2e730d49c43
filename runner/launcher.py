"""The launcher: the process that kernel processes are forked from, with ``multiprocess``.

It is forked from the runner while that has neither threads nor a zmq context, stays so itself, and has imported all that a kernel needs: a kernel process
is there in milliseconds. It is asked over a socket (:class:`Launcher` is the runner's end), reports how kernel processes end, and kills those that are left
when the runner is gone. They die with it, too.

Packets are JSON objects. To the launcher: ``launch`` NAME with the socket of the kernel's session beside it, ``kill`` NAME. From it: ``launched`` NAME with its
``pid``, ``ended`` NAME with its ``status`` (as ``Process.exitcode``).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
from typing import TYPE_CHECKING, Any

from polynix.ipc.descriptor_socket import receive_packet
from polynix.runner.run_directory import remove_region

if TYPE_CHECKING:
    from collections.abc import Sequence


MAX_PACKET = 4096
PR_SET_PDEATHSIG = 1
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)


class LauncherError(Exception):
    """The launcher is gone."""


class Launcher:
    """The runner's end. ``socket`` is readable when :meth:`receive` has something."""

    def __init__(self, directory: str, others: Sequence[socket.socket] = ()) -> None:
        """Fork it; ``directory`` is removed by whoever of runner and launcher survives the other, ``others`` are not the launcher's. Errors: OSError."""
        import multiprocess

        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            arguments = theirs, (self.socket, *others), directory
            self.process = multiprocess.get_context("fork").Process(target=_launcher_process, args=arguments, name="polynix-launcher")
            self.process.start()
        self.socket.setblocking(False)

    def launch(self, name: str, beside: socket.socket) -> None:
        """Have a kernel process forked whose session is ``beside``, which is closed here. Errors: LauncherError."""
        with beside:
            try:
                socket.send_fds(self.socket, [json.dumps({"launch": name}).encode()], [beside.fileno()])
            except OSError as error:
                raise LauncherError(f"the launcher is gone: {error.strerror}") from error

    def kill(self, name: str) -> None:
        """SIGKILL one kernel process, if it still runs."""
        with contextlib.suppress(OSError):
            self.socket.send(json.dumps({"kill": name}).encode())

    def receive(self) -> dict[str, Any]:
        """The next report. Errors: BlockingIOError; LauncherError at its end."""
        try:
            data = self.socket.recv(MAX_PACKET)
        except BlockingIOError:
            raise
        except OSError:
            data = b""
        if not data:
            raise LauncherError("the launcher is gone")
        report: dict[str, Any] = json.loads(data)
        return report

    def close(self) -> None:
        """End it, and every kernel process with it; returns when they are gone."""
        self.socket.close()
        self.process.join()


# -- the launcher process --------------------------------------------------------------------------------------------------------


def _launcher_process(peer: socket.socket, others: Sequence[socket.socket], directory: str) -> None:
    """The body of the launcher; never returns."""
    status = 1
    try:
        for other in others:
            other.close()
        os.setsid()
        reset_signals()
        use_null_streams()
        gc.disable()
        _LauncherLoop(peer).run()
        shutil.rmtree(directory, ignore_errors=True)
        status = 0
    finally:
        os._exit(status)


class _LauncherLoop:
    """Forks, reaps, and ends with the runner."""

    def __init__(self, peer: socket.socket) -> None:
        import multiprocess

        self.peer = peer
        self.context = multiprocess.get_context("fork")
        self.processes: dict[str, Any] = {}  # multiprocess.Process by name
        self._child_ended, self._child_ended_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._child_ended_writer, warn_on_full_buffer=False)
        _import_kernel()
        gc.freeze()

    def run(self) -> None:
        poller = select.poll()
        poller.register(self.peer, select.POLLIN)
        poller.register(self._child_ended, select.POLLIN)
        going_on = True
        while going_on:
            ready = [fd for fd, _ in poller.poll()]
            if self._child_ended in ready:
                os.read(self._child_ended, 4096)
                self._reap()
            if self.peer.fileno() in ready:
                going_on = self._serve()
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.join()
            remove_region(process.pid)

    def _serve(self) -> bool:
        """Do what one packet says; False when the runner is gone."""
        try:
            data, descriptors = receive_packet(self.peer, MAX_PACKET, 1, wait=True)
        except OSError:
            return False
        if not data:
            return False
        request = json.loads(data)
        if "launch" in request:
            self._launch(request["launch"], socket.socket(fileno=descriptors[0]))
        elif "kill" in request and request["kill"] in self.processes:
            self.processes[request["kill"]].kill()
        return True

    def _launch(self, name: str, beside: socket.socket) -> None:
        close = (self.peer.fileno(), self._child_ended, self._child_ended_writer)
        process = self.context.Process(target=_kernel_process, args=(beside, os.getpid(), close), name="polynix-kernel")
        with beside:
            try:
                process.start()
            except OSError as error:
                self._report(ended=name, status=1, message=f"cannot fork a kernel process: {error.strerror}")
                return
        self.processes[name] = process
        self._report(launched=name, pid=process.pid)

    def _reap(self) -> None:
        for name, process in list(self.processes.items()):
            if process.exitcode is not None:
                del self.processes[name]
                remove_region(process.pid)
                self._report(ended=name, status=process.exitcode)

    def _report(self, **fields: Any) -> None:
        with contextlib.suppress(OSError):  # its end of file is noticed next
            self.peer.send(json.dumps(fields).encode())


def _import_kernel() -> None:
    """All that a kernel process runs, once for all of them; no zmq context exists before a fork."""
    import zmq  # noqa: F401
    from polynix.kernelproc.main import import_all

    import_all()


# -- the kernel process ----------------------------------------------------------------------------------------------------------


def _kernel_process(beside: socket.socket, launcher_pid: int, close: tuple[int, ...]) -> None:
    """The body of a kernel process; never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for fd in close:
            os.close(fd)
        os.setsid()
        reset_signals()
        die_with(launcher_pid)
        if os.environ.get("POLYNIX_TRACEBACK"):
            import faulthandler

            faulthandler.register(signal.SIGUSR1)
        from polynix.kernelproc.main import run_kernel

        run_kernel(beside)
        status = 0
    except BaseException:
        if os.environ.get("POLYNIX_TRACEBACK"):
            import traceback

            traceback.print_exc()
    finally:
        os._exit(status)


def die_with(parent: int) -> None:
    """SIGKILL for this process when its parent ends. (It fires when the *thread* that forked ends: a launcher has one.)"""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def reset_signals() -> None:
    """What a terminal sends is the caller's business; the rest has its default action."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for number in DEFAULT_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def use_null_streams() -> None:
    """Standard input and output are nobody's here: a pipe must not stay open for our sake. Errors go where the runner's do."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    if null > 2:
        os.close(null)
