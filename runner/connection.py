"""The caller's end of one container: starts its kernel process, speaks the control channel, notices its death, cleans up."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from polynix.ipc.control_channel import ControlChannel, Message, descriptor_socket_pair, send_descriptors
from polynix.kernelproc.options import ContainerOptions
from polynix.runner import launcher
from polynix.runner.host import UnsuitableHost, check_host
from polynix.runner.run_directory import RunDirectory, parent_directory, remove_region

STOP_SECONDS = 2.0  # how long a kernel process may take to end before it is killed


class ContainerError(Exception):
    """polynix itself failed: the container could not be started, or its kernel died."""


class KernelConnection:
    """One kernel process. ``in_process`` forks it from this process, which must have no threads; otherwise a launcher does."""

    def __init__(self, options: ContainerOptions, *, in_process: bool = False) -> None:
        self._process: Any = None  # multiprocess.Process
        self._launcher: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._tags = 0
        self._ready = False  # a pair has no queue before its peer connects
        self.kernel_pid = 0  # known when it is ready
        self.channel: ControlChannel | None = None
        self._early: list[Message] = []
        try:
            check_host()
        except UnsuitableHost as error:
            raise ContainerError(str(error)) from None
        inherited = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2] if in_process else []
        try:
            self.directory = RunDirectory()
        except OSError as error:
            raise ContainerError(f"cannot make a run directory: {error.filename or parent_directory()}: {error.strerror}") from error
        try:
            self.peer, theirs = descriptor_socket_pair()
            if in_process:
                self._process = launcher.fork_kernel_process(options, self.directory.path, theirs, close=(self.peer.fileno(), *inherited))
            else:
                command = [
                    sys.executable,
                    "-m",
                    "polynix.runner.launcher",
                    str(theirs.fileno()),
                    self.directory.path,
                    str(self.directory.lock_fd),
                ]
                self._launcher = subprocess.Popen(
                    [*command, options.to_json()],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), self.directory.lock_fd),
                    start_new_session=True,
                )
            theirs.close()
            try:
                self.channel = ControlChannel(self.directory.control_path, bind=True)
            except Exception as error:  # the kernel may have failed already, and removed the directory
                select.select([self.peer], [], [], STOP_SECONDS)
                self._check_alive(error)
                raise ContainerError(f"cannot open the control channel: {error}") from error
        except OSError as error:
            self.kill()
            raise ContainerError(f"cannot start the kernel process: {error.strerror or error}") from error
        except BaseException:
            self.kill()
            raise

    # -- messages ----------------------------------------------------------------------------------------------------------------

    def send(self, op: str, **fields: Any) -> None:
        """Send one message to the kernel, once it has connected. Errors: ContainerError when it could not start."""
        assert self.channel is not None
        self.wait_ready()
        self.channel.send(op, **fields)
        self._early += self.channel.receive_all()  # zmq's descriptor is edge-triggered: sending may have swallowed an edge

    def wait_ready(self) -> None:
        """Wait until the kernel has booted. Errors: ContainerError when it could not."""
        while not self._ready:
            messages, _ = self.poll(None)
            for message in messages:
                if message["op"] == "ready":
                    self._ready = True
                    self.kernel_pid = message["pid"]

    def send_spawn(self, descriptors: Sequence[int], **fields: Any) -> int:
        """Ask for a program whose descriptors 0, 1, … are ``descriptors``; returns the request's number, which later messages
        carry as ``id``.
        """
        self._tags += 1
        try:
            send_descriptors(self.peer, self._tags, descriptors)
        except OSError as error:
            self._check_alive(error)
        self.send("spawn", id=self._tags, **fields)
        return self._tags

    def poll(self, timeout: float | None, descriptors: Sequence[int] = ()) -> tuple[list[Message], list[int]]:
        """Wait for messages or for one of ``descriptors`` to become readable. Errors: ContainerError when the kernel is gone."""
        assert self.channel is not None
        messages, self._early = self._early, []
        messages += self.channel.receive_all()
        if messages:
            timeout = 0
        poller = select.poll()
        for fd in (self.channel.fd, self.peer.fileno(), *descriptors):
            poller.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poller.poll(None if timeout is None else max(0, round(timeout * 1000)))]
        messages += self.channel.receive_all()
        if not messages and self.peer.fileno() in ready:
            deadline = time.monotonic() + 0.2  # what the kernel said last may still be on its way
            while not messages and time.monotonic() < deadline:
                select.select([self.channel.fd], [], [], 0.01)
                messages += self.channel.receive_all()
            if not messages:
                self._check_alive()
        return messages, [fd for fd in ready if fd in descriptors]

    def _check_alive(self, cause: BaseException | None = None) -> None:
        data = b""
        for _ in range(2):  # ECONNRESET, if the kernel left packets unread, comes before what it said last
            try:
                data = self.peer.recv(4096, socket.MSG_DONTWAIT)
                break
            except BlockingIOError:
                return
            except OSError:
                continue
        if len(data) > 4:
            raise ContainerError(data[4:].decode(errors="replace")) from cause
        code = self._exit_code()
        raise ContainerError("the kernel process died" + ("" if code is None or code >= 0 else f" (signal {-code})")) from cause

    def _exit_code(self) -> int | None:
        if self._process is None:
            return None
        self._process.join(STOP_SECONDS)
        return self._process.exitcode  # type: ignore[no-any-return]

    # -- the end -----------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the container: every program in it is killed. Safe to call again."""
        if self._closed:
            return
        self._closed = True
        if self.channel is not None:
            if self._ready:
                self.channel.send("shutdown")
            self.channel.close(linger_ms=100)
        self.peer.close()  # its end of file stops the kernel, too
        if self._process is not None:
            self._process.join(STOP_SECONDS)
            if self._process.exitcode is None:
                self._process.kill()
                self._process.join()
            remove_region(self._process.pid)
        if self._launcher is not None:
            try:
                self._launcher.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self.directory.remove()

    def kill(self) -> None:
        """End the kernel process without asking it; the restricted processes die with it."""
        self._closed = True
        if self.channel is not None:
            self.channel.close(linger_ms=0)
        if hasattr(self, "peer"):
            self.peer.close()  # stops the kernel, too, should the launcher be gone
        if self._process is not None:
            self._process.kill()
            self._process.join()
            remove_region(self._process.pid)
        if self._launcher is not None:
            self._launcher.terminate()  # which kills the kernel process
            self._launcher.wait()
        self.directory.remove()
