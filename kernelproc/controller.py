"""Serves the control channel: starts programs, relays signals and window sizes, reports exits.

The next floor up from here is outside the kernel process.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from typing import TYPE_CHECKING, Any

from polynix.ipc.control_channel import ControlChannel, Message, receive_descriptors
from polynix.kernelproc.devices.host_file import open_host_descriptors
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.mounts import BootTask
from polynix.kernelproc.signals.send import send_to_group, send_to_process_group
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.task.exec import start_program
from polynix.kernelproc.task.fd_table import FdTable
from polynix.kernelproc.task.resource_limits import ResourceLimits
from polynix.kernelproc.uapi.errno import EIO, ENOTDIR
from polynix.kernelproc.uapi.fcntl import AT_FDCWD
from polynix.kernelproc.uapi.poll import POLLIN
from polynix.kernelproc.uapi.signal import SI_USER, SIGCONT, SIGSTOP
from polynix.kernelproc.vfs.fs_context import FsContext
from polynix.kernelproc.vfs.lookup import lookup

if TYPE_CHECKING:
    from polynix.kernelproc.devices.console import Console
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.options import ContainerOptions
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup

log = logging.getLogger(__name__)


class Controller:
    """One container's end of the channel. The container ends with pid 1, with a ``shutdown`` message, or with the caller."""

    def __init__(self, kernel: Kernel, options: ContainerOptions, channel: ControlChannel, peer: socket.socket) -> None:
        self.kernel = kernel
        self.options = options
        self.channel = channel
        self.peer = peer
        self.console: Console | None = None
        self.groups: dict[int, ThreadGroup] = {}  # by request number
        self._descriptors: dict[int, list[int]] = {}  # arrived before their request
        self._requests: dict[int, Message] = {}  # arrived before their descriptors
        self._paused: list[ThreadGroup] = []
        peer.setblocking(False)
        engine = kernel.engine
        engine.watch(peer.fileno(), select.EPOLLIN | select.EPOLLRDHUP, self._peer_ready)
        engine.watch(channel.fd, select.EPOLLIN, lambda _events: self._receive())
        self.send("ready", pid=os.getpid())
        self._receive()

    def send(self, op: str, **fields: Any) -> None:
        """Send a message to the caller."""
        self.channel.send(op, **fields)
        self.kernel.engine.call_soon(self._receive)  # zmq's descriptor is edge-triggered: sending may have swallowed an edge

    # -- what arrives ------------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        for message in self.channel.receive_all():
            try:
                self._handle(message)
            except Exception:
                log.exception("control message %r failed", message.get("op"))

    def _handle(self, message: Message) -> None:
        op = message["op"]
        if op == "spawn":
            self._requests[message["id"]] = message
            self._match(message["id"])
        elif op == "signal":
            self._signal(message)
        elif op == "window_size":
            if self.console is not None:
                self.console.terminal.set_window(*message["window"])
        elif op == "terminal":
            if self.console is not None:
                self.console.terminal.set_window(*message["window"])
                self.console.attach_input()
        elif op == "pause":
            self._pause()
        elif op == "resume":
            self._resume()
        elif op == "script":
            from polynix.kernelproc.scripting.requests import answer  # few containers are scripted

            self.send("scripted", id=message["id"], **answer(self.kernel, message))
        elif op == "shutdown":
            self.kernel.engine.stop()
        else:
            log.warning("unknown control message %r", op)

    def _peer_ready(self, _events: int) -> None:
        while True:
            try:
                received = receive_descriptors(self.peer)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:  # the caller is gone
                self.kernel.engine.stop()
                return
            tag, descriptors = received
            self._descriptors[tag] = [_move_up(fd) for fd in descriptors]
            self._match(tag)

    def _match(self, tag: int) -> None:
        if tag in self._requests and tag in self._descriptors:
            message, descriptors = self._requests.pop(tag), self._descriptors.pop(tag)
            self.kernel.engine.spawn(self._spawn(message, descriptors), f"spawn {tag}")

    def _signal(self, message: Message) -> None:
        group = self.groups.get(message["id"])
        self.send("noted", id=message["id"])
        if group is None or group.exited:
            return
        info = SigInfo(message["signal"], SI_USER)
        if message.get("group"):
            send_to_process_group(group.process_group, info)
        else:
            send_to_group(group, info)

    # -- the caller's shell stops and continues the container as one job --------------------------------------------------------

    def _input_wanted(self) -> None:
        """Somebody reads the terminal while the caller is in its background: natively, SIGTTIN would stop the job."""
        self.send("input_wanted")

    def _pause(self) -> None:
        """Stop every process that runs, remember which, and let the caller stop itself, too."""
        if self.console is not None:
            self.console.detach_input()
        for group in list(self.kernel.pids.thread_groups.values()):
            if not group.exited and not group.stopped_by and not group.signals.unkillable:
                self._paused.append(group)
                send_to_group(group, SigInfo(SIGSTOP))
        self.send("suspend")

    def _resume(self) -> None:
        paused, self._paused = self._paused, []
        for group in paused:
            if not group.exited:
                send_to_group(group, SigInfo(SIGCONT))

    # -- programs ----------------------------------------------------------------------------------------------------------------

    async def _spawn(self, message: Message, descriptors: list[int]) -> None:
        request = message["id"]
        try:
            task = await self._start(message, descriptors)
        except _NoDirectory as error:
            self._fail(request, error.errno, os.strerror(error.errno), message["cwd"])
            return
        except Errno as error:
            self._fail(request, error.errno, os.strerror(error.errno), message["argv"][0])
            return
        except Exception as error:
            log.exception("cannot start %r", message["argv"])
            self._fail(request, 0, f"cannot start {message['argv'][0]}: {error}", message["argv"][0])
            return
        group = self.groups[request] = task.group
        self.send("spawned", id=request, pid=group.pid)
        self.kernel.kthreads.spawn(self._watch(request, group), f"watch {group.pid}")

    def _fail(self, request: int, number: int, message: str, path: str) -> None:
        """The program could not be started, because of ``path``; without any program the container ends."""
        self.send("failed", id=request, errno=number, message=message, path=path)
        if self.kernel.init is None:
            self.kernel.engine.stop()

    async def _start(self, message: Message, descriptors: list[int]) -> Task:
        kernel = self.kernel
        credentials = Credentials.root() if message["uid"] == 0 else Credentials.user(message["uid"], message["gid"])
        if message["uid"] == 0 and message["gid"] != 0:
            gid = message["gid"]
            credentials = credentials.replace(gid=gid, egid=gid, sgid=gid, fsgid=gid)
        limits = ResourceLimits()
        files = FdTable(limits)
        opened, console = open_host_descriptors(kernel, descriptors, bool(message["terminal"]))
        for fd, file in enumerate(opened):
            files.install_at(fd, file, False)
        fs = FsContext(kernel.namespace)
        self._change_directory(fs, credentials, message)
        argv = [os.fsencode(argument) for argument in message["argv"]]
        env = [os.fsencode(variable) for variable in message["env"]]
        try:
            task = await start_program(kernel, argv, env, fs, credentials, files, limits, parent=kernel.init)
        except BaseException:
            for file in opened:
                if file.references:
                    file.release()
            raise
        for observer in kernel.observers:
            observer.started(task, argv, env)
        if console is not None:
            self.console = console
            console.terminal.set_window(*message["window"])
            console.terminal.set_controlling(task.group.process_group.session, task.group.process_group)
            console.on_input_wanted = self._input_wanted
            console.on_suspend = self._pause
            if message["attached"]:
                console.attach_input()
        return task

    def _change_directory(self, fs: FsContext, credentials: Credentials, message: Message) -> None:
        """The caller's directory where it exists inside, else the root. Errors: those of a directory that was asked for."""
        try:
            place = lookup(BootTask(self.kernel, fs, credentials), AT_FDCWD, os.fsencode(message["cwd"]))  # type: ignore[arg-type]
            if not place.node.is_directory:
                raise Errno(ENOTDIR)
            fs.cwd = place
        except Errno as error:
            if message["cwd_required"]:
                raise _NoDirectory(error.errno) from None

    async def _watch(self, request: int, group: ThreadGroup) -> None:
        """Report the end of a program, and with pid 1 the container's."""
        while not group.exited:
            await group.exit_wait.wait(POLLIN)
        status = group.exit_code if group.exit_code is not None else EIO
        del self.groups[request]
        if group is self.kernel.init:
            if self.console is not None:
                await self.console.drain()
            self.kernel.engine.stop()
        self.send("exited", id=request, status=status)


class _NoDirectory(Errno):
    """The working directory that was asked for cannot be entered."""


def _move_up(fd: int) -> int:
    """The kernel's descriptors stay at 64 and above, out of the way of what a stub's start puts in place."""
    import fcntl

    if fd >= 64:
        return fd
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)
    os.close(fd)
    return high
