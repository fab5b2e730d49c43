"""Programs that the outside starts in the container: the kernel's end of ``polynix.container``.

Each has a channel of its own, over which signals and window sizes come in and its end goes out. Where the container has no init of its own, the first
program is pid 1, and the container ends with it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from polynix.ipc.fidl import DecodeError, close_handles
from polynix.ipc.host_file import HostFile
from polynix.ipc.objects import Channel, Handle, ZxStatus
from polynix.ipc.protocols.component import descriptors_of
from polynix.ipc.protocols.controller import ConsoleWindowSize
from polynix.ipc.protocols.programs import (
    Program,
    ProgramArguments,
    ProgramOnExitedPayload,
    Programs,
    ProgramsGetKernelResponse,
    ProgramSignalRequest,
    ProgramsSpawnRequest,
    ProgramsSpawnResponse,
    SpawnFailure,
)
from polynix.kernelproc.devices.host_file import open_host_descriptors
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fidl_loop import EngineServer
from polynix.kernelproc.mounts import BootTask
from polynix.kernelproc.signals.send import send_to_group, send_to_process_group
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.signals.signal_state import NSIG
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.task.exec import start_program
from polynix.kernelproc.task.fd_table import FdTable
from polynix.kernelproc.task.resource_limits import ResourceLimits
from polynix.kernelproc.uapi.errno import EINVAL, EIO, ENOTDIR
from polynix.kernelproc.uapi.fcntl import AT_FDCWD
from polynix.kernelproc.uapi.poll import POLLIN
from polynix.kernelproc.uapi.signal import SI_USER, SIGCONT, SIGSTOP
from polynix.kernelproc.vfs.fs_context import FsContext
from polynix.kernelproc.vfs.lookup import lookup

if TYPE_CHECKING:
    from polynix.kernelproc.devices.console import Console
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup

log = logging.getLogger(__name__)


class ProgramStarter(Programs):
    """Starts programs in one container; serves any number of clients."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def serve(self, channel: Channel) -> None:
        """Serve one more client."""
        EngineServer(self.kernel.engine, Programs, self, channel)

    async def spawn(self, request: ProgramsSpawnRequest) -> ProgramsSpawnResponse:
        kernel = self.kernel
        descriptors = descriptors_of(request.descriptors or ())
        path = request.directory or b"/"
        try:
            if request.arguments is None:
                raise Errno(EINVAL)
            if kernel.power.sleeps_for_others:
                return self._failed(request, 0, path, "the container is suspended: resume it first")
            arguments = ProgramArguments.unpack(request.arguments)
            path = arguments.argv[0] if arguments.argv else b""
            task, console = await self._start(request, arguments, descriptors)
        except _NoDirectory as error:
            return self._failed(request, error.errno, request.directory or b"/")
        except Errno as error:
            return self._failed(request, error.errno, path)
        except (ZxStatus, DecodeError) as error:
            return self._failed(request, 0, path, str(error))
        except Exception as error:
            log.exception("cannot start %r", path)
            return self._failed(request, 0, path, f"cannot start {os.fsdecode(path)}: {error}")
        finally:
            close_handles([*descriptors.values(), request.controlling_terminal])
        group = task.group
        program = RunningProgram(kernel, group, console)
        if request.program is not None:
            program.server = EngineServer(kernel.engine, Program, program, request.program)
        kernel.kthreads.spawn(program.watch(), f"watch {group.pid}")
        return ProgramsSpawnResponse(pid=group.pid)

    async def get_kernel(self) -> ProgramsGetKernelResponse:
        return ProgramsGetKernelResponse(pid=os.getpid())

    def _failed(self, request: ProgramsSpawnRequest, number: int, path: bytes, message: str = "") -> ProgramsSpawnResponse:
        """The program could not be started, because of ``path``; without any program the container ends."""
        if request.program is not None:
            request.program.close()
        if self.kernel.init is None:
            self.kernel.engine.call_soon(self.kernel.engine.stop)  # after the reply
        message = (message or os.strerror(number)).encode(errors="replace").decode()
        return ProgramsSpawnResponse(failure=SpawnFailure(number, message, path))

    async def _start(self, request: ProgramsSpawnRequest, arguments: ProgramArguments, descriptors: Mapping[int, Handle]) -> tuple[Task, Console | None]:
        kernel = self.kernel
        uid, gid = request.uid or 0, request.gid or 0
        credentials = Credentials.root() if uid == 0 else Credentials.user(uid, gid)
        if uid == 0 and gid != 0:
            credentials = credentials.replace(gid=gid, egid=gid, sgid=gid, fsgid=gid)
        limits = ResourceLimits()
        files = FdTable(limits)
        numbers = sorted(number for number, handle in descriptors.items() if isinstance(handle, HostFile))
        host = [take_descriptor(descriptors[number]) for number in numbers]
        opened, console = open_host_descriptors(kernel, host, bool(request.terminal))
        if console is None and request.controlling_terminal is not None:
            from polynix.kernelproc.devices.console import make_console

            console = make_console(kernel, take_descriptor(request.controlling_terminal), on_demand=True)
        for number, file in zip(numbers, opened, strict=True):
            files.install_at(number, file, False)
        fs = FsContext(kernel.namespace)
        self._change_directory(fs, credentials, request)
        try:
            if not arguments.argv:
                raise Errno(EINVAL)
            task = await start_program(kernel, arguments.argv, arguments.env, fs, credentials, files, limits, parent=kernel.init)
        except BaseException:
            for file in opened:
                if file.references:
                    file.release()
            if console is not None:
                console.close()
            raise
        for observer in kernel.observers:
            observer.started(task, arguments.argv, arguments.env)
        if console is not None:
            if request.window_size is not None:
                set_window(console, request.window_size)
            console.terminal.set_controlling(task.group.process_group.session, task.group.process_group)
            if request.attached:
                console.attach_input()
        return task, console

    def _change_directory(self, fs: FsContext, credentials: Credentials, request: ProgramsSpawnRequest) -> None:
        """The directory that was asked for where it exists inside, else the root. Errors: those of a directory that is required."""
        try:
            place = lookup(BootTask(self.kernel, fs, credentials), AT_FDCWD, request.directory or b"/")  # type: ignore[arg-type]
            if not place.node.is_directory:
                raise Errno(ENOTDIR)
            fs.cwd = place
        except Errno as error:
            if request.directory_required:
                raise _NoDirectory(error.errno) from None


class RunningProgram(Program):
    """One program, and the client that started it."""

    def __init__(self, kernel: Kernel, group: ThreadGroup, console: Console | None) -> None:
        self.kernel = kernel
        self.group = group
        self.console = console
        self.server: EngineServer[Program] | None = None
        self._paused: list[ThreadGroup] = []
        if console is not None:
            console.on_input_wanted = self._input_wanted
            console.on_suspend = self._pause

    async def signal(self, request: ProgramSignalRequest) -> None:
        if self.group.exited or not 0 < request.signal <= NSIG:
            return
        info = SigInfo(request.signal, SI_USER)
        if request.group:
            send_to_process_group(self.group.process_group, info)
        else:
            send_to_group(self.group, info)

    async def set_window_size(self, request: ConsoleWindowSize) -> None:
        if self.console is not None:
            set_window(self.console, request)

    async def attach_terminal(self, request: ConsoleWindowSize) -> None:
        if self.console is not None:
            set_window(self.console, request)
            self.console.attach_input()

    # -- the caller's shell stops and continues what it sees as one job ---------------------------------------------------------

    async def pause(self) -> None:
        self._pause()

    def _pause(self) -> None:
        """Stop every process that runs, or those of the program's session where the container is not its own; remember which, and let the caller stop
        itself, too.
        """
        if self.console is not None:
            self.console.detach_input()
        for group in list(self.kernel.pids.thread_groups.values()):
            if group.exited or group.stopped_by or group.signals.unkillable:
                continue
            if self.group is self.kernel.init or group.process_group.session is self.group.process_group.session:
                self._paused.append(group)
                send_to_group(group, SigInfo(SIGSTOP))
        self._tell(Program.on_suspend)

    async def resume(self) -> None:
        paused, self._paused = self._paused, []
        for group in paused:
            if not group.exited:
                send_to_group(group, SigInfo(SIGCONT))

    def _input_wanted(self) -> None:
        self._tell(Program.on_input_wanted)

    def _tell(self, event: object, payload: ProgramOnExitedPayload | None = None) -> None:
        if self.server is not None and self.server.channel.is_valid:
            try:
                self.server.send_event(event, payload)  # type: ignore[call-overload]
            except ZxStatus:
                pass  # the client is gone; the program goes on

    # -- the end -----------------------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Report the end of the program, and with pid 1 the container's."""
        group, kernel = self.group, self.kernel
        while not group.exited:
            await group.exit_wait.wait(POLLIN)
        if self.console is not None:
            await self.console.drain()
        status = group.exit_code if group.exit_code is not None else EIO
        self._tell(Program.on_exited, ProgramOnExitedPayload(status))
        if group is kernel.init:
            kernel.engine.stop()
            return
        if self.server is not None:
            self.server.close()
        if self.console is not None:
            self.console.close()


class _NoDirectory(Errno):
    """The working directory that was asked for cannot be entered."""


def set_window(console: Console, size: ConsoleWindowSize) -> None:
    """TIOCSWINSZ from outside."""
    console.terminal.set_window(size.rows, size.cols, size.x_pixels, size.y_pixels)


def take_descriptor(handle: Handle) -> int:
    """The descriptor behind a HostFile, which the caller owns; kept at 64 and above, out of the way of what a stub's start puts in place.
    Errors: ZxStatus.
    """
    import fcntl

    assert isinstance(handle, HostFile)
    return fcntl.fcntl(handle.fileno(), fcntl.F_DUPFD_CLOEXEC, 64)
