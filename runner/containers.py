"""Named containers: what ``polynix start`` makes and ``ps``, ``exec``, ``logs``, ``stop`` and the others work on, served as ``polynix.runner.Containers``."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from polynix.ipc.async_client import Client
from polynix.ipc.async_server import Server
from polynix.ipc.bindings import MethodError
from polynix.ipc.fidl import DecodeError, close_handles
from polynix.ipc.host_file import HostFile
from polynix.ipc.objects import Channel, Event, ZxStatus
from polynix.ipc.protocols.component import (
    DIRECTORY,
    ComponentController,
    ComponentStartInfo,
    ComponentStopInfo,
    Dictionary,
    Directory,
    DirectoryOpenRequest,
    HandleInfo,
    descriptor_id,
)
from polynix.ipc.protocols.containers import (
    LOG_PIECE,
    PAGE,
    ContainerName,
    Containers,
    ContainersAttachResponse,
    ContainersError,
    ContainersInspectResponse,
    ContainersKillRequest,
    ContainersListRequest,
    ContainersListResponse,
    ContainersOpenRequest,
    ContainersReadLogRequest,
    ContainersReadLogResponse,
    ContainersRemoveRequest,
    ContainersSetWindowSizeRequest,
    ContainersStartRequest,
    ContainersStartResponse,
    ContainersStopRequest,
    ContainerState,
    ContainerStatus,
)
from polynix.ipc.protocols.programs import (
    Data,
    Program,
    ProgramArguments,
    ProgramOnExitedPayload,
    Programs,
    ProgramSignalRequest,
    ProgramsSpawnRequest,
    SpawnFailure,
    window_size,
)
from polynix.ipc.protocols.scripting import Scripting, ScriptingText
from polynix.runner.container_log import ContainerLog
from polynix.runner.container_streams import ContainerStreams
from polynix.runner.kernels import StartError
from polynix.runner.log_records import ERRORS
from polynix.runner.parameters import target_text, tcp_url

if TYPE_CHECKING:
    from polynix.runner.container_instance import ContainerInstance
    from polynix.runner.kernels import StarnixKernel
    from polynix.runner.runner import RunnerService

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}\Z")
ID_BYTES = 6
KILLED = 128 + signal.SIGKILL


class NamedContainer:
    """One container, from its start until it is removed."""

    def __init__(self, identity: str, name: str, command: str, log: ContainerLog, streams: ContainerStreams) -> None:
        self.id = identity
        self.name = name
        self.command = command
        self.log = log
        self.streams = streams
        self.window = window_size((0, 0))
        self.created_ns = time.time_ns()
        self.ended_ns: int | None = None
        self.exit_status: int | None = None
        self.message: str | None = None
        self.options: dict[str, Any] = {}
        self.program_options: dict[str, Any] = {}  # environment, directory and user that others are started with, too
        self.instance: ContainerInstance | None = None
        self.outgoing: Client[Directory] | None = None
        self.program: Client[Program] | None = None
        self.ended = asyncio.Event()

    @property
    def state(self) -> ContainerState:
        if self.ended_ns is not None:
            return ContainerState.EXITED
        if self.instance is not None and self.instance.power is not None and self.instance.power.asleep:
            return ContainerState.SUSPENDED
        return ContainerState.RUNNING

    @property
    def kernel(self) -> StarnixKernel | None:
        """While it runs."""
        return self.instance.kernel if self.instance is not None and self.ended_ns is None else None

    def status(self) -> ContainerStatus:
        return ContainerStatus(
            id=self.id,
            name=self.name,
            command=self.command,
            state=self.state,
            created_ns=self.created_ns,
            ended_ns=self.ended_ns,
            exit_status=self.exit_status,
            kernel_pid=self.kernel.child.pid if self.kernel is not None else None,
            message=self.message,
        )

    def inspect(self) -> dict[str, Any]:
        """All that is known, in plain types."""
        kernel = self.kernel
        power = self.instance.power if self.instance is not None else None
        return {
            "id": self.id,
            "name": self.name,
            "command": self.command,
            "state": self.state.name.lower(),
            "created_ns": self.created_ns,
            "ended_ns": self.ended_ns,
            "exit_status": self.exit_status,
            "message": self.message,
            "kernel": None if kernel is None else {"name": kernel.name, "pid": kernel.child.pid, "wake_lease": kernel.wake_lease.is_held},
            "suspend": None if power is None else power.inspect(),
            "proxies": [] if self.instance is None else [[tcp_url(proxy.address), target_text(proxy.target)] for proxy in self.instance.proxies.proxies],
            "interactive": self.streams.interactive,
            "terminal": self.streams.terminal,
            "log": {"path": self.log.path, "lost_bytes": self.log.lost},
            "options": self.options,
            "program": self.program_options,
        }

    async def signal(self, number: int) -> None:
        """To the program, which may have ended."""
        if self.program is not None and self.ended_ns is None:
            with suppress(ZxStatus):
                await self.program.proxy.signal(ProgramSignalRequest(number, False))


class ContainerRegistry(Containers):
    """All named containers of one runner."""

    def __init__(self, runner: RunnerService, directory: str) -> None:
        self.runner = runner
        self.directory = os.path.join(directory, "containers")
        self.containers: dict[str, NamedContainer] = {}  # by id, in the order of their making

    async def serve(self, channel: Channel) -> None:
        """Serve one client."""
        await Server(Containers, self, channel).serve()

    def find(self, name: str) -> NamedContainer:
        """By name, id, or the beginning of an id. Errors: MethodError NO_SUCH_CONTAINER, AMBIGUOUS_ID."""
        found = [container for container in self.containers.values() if container.name == name or container.id == name]
        if not found and name:
            found = [container for identity, container in self.containers.items() if identity.startswith(name)]
        if not found:
            raise MethodError(ContainersError.NO_SUCH_CONTAINER)
        if len(found) > 1:
            raise MethodError(ContainersError.AMBIGUOUS_ID)
        return found[0]

    def _running(self, name: str) -> NamedContainer:
        """Errors: MethodError NO_SUCH_CONTAINER, NOT_RUNNING."""
        container = self.find(name)
        if container.ended_ns is not None:
            raise MethodError(ContainersError.NOT_RUNNING)
        return container

    # -- starting ----------------------------------------------------------------------------------------------------------------

    async def start(self, request: ContainersStartRequest) -> ContainersStartResponse:
        identity = secrets.token_hex(ID_BYTES)
        name = request.name or identity
        if not NAME.match(name):
            raise MethodError(ContainersError.INVALID_NAME)
        if any(name in (other.name, other.id) for other in self.containers.values()):
            raise MethodError(ContainersError.NAME_IN_USE)
        spawn = request.program or ProgramsSpawnRequest()
        try:
            program_options = take_program_options(spawn)
        except (DecodeError, ZxStatus) as error:
            return ContainersStartResponse(failure=SpawnFailure(0, f"a program that makes no sense: {error}", b""))
        try:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            log = ContainerLog(os.path.join(self.directory, identity))
        except OSError as error:
            return ContainersStartResponse(failure=SpawnFailure(0, f"cannot make a log: {error.strerror}", b""))
        try:
            streams = ContainerStreams(log, interactive=bool(request.interactive), terminal=bool(spawn.terminal))
        except OSError as error:
            log.close()
            return ContainersStartResponse(failure=SpawnFailure(0, f"cannot make its streams: {error.strerror}", b""))
        container = self.containers[identity] = NamedContainer(identity, name, request.command or "", log, streams)
        container.options = json.loads(request.options or "{}")
        container.program_options = program_options
        failure = await self._start(container, request, spawn)
        if failure is not None:
            await container.ended.wait()
            self._forget(container)
            return ContainersStartResponse(failure=failure)
        return ContainersStartResponse(id=identity)

    async def _start(self, container: NamedContainer, request: ContainersStartRequest, spawn: ProgramsSpawnRequest) -> SpawnFailure | None:
        """Errors: none; what went wrong is returned, and the container ends."""
        controller, controller_end = Channel.create()
        outgoing, outgoing_end = Channel.create()
        programs, programs_end = Channel.create()
        program, program_end = Channel.create()
        files = container.streams.take_files()
        kernel_errors = container.log.add_stream(ERRORS)
        errors = HostFile.create(kernel_errors)
        os.close(kernel_errors)
        container.outgoing = Client(Directory, outgoing)
        container.program = Client(Program, program, _ProgramListener(container))
        container.program.start()
        listener = _ControllerListener()
        component = Client(ComponentController, controller, listener)
        started: asyncio.Future[ContainerInstance] = asyncio.get_running_loop().create_future()
        info = ComponentStartInfo(
            resolved_url=f"polynix:container/{container.id}",
            program=Dictionary.of({"options": request.options or "{}"}),
            outgoing_dir=outgoing_end,
            numbered_handles=[HandleInfo(errors, descriptor_id(2))],
            component_instance=Event.create(),
        )
        self.runner.start_container(info, controller_end, started)
        self.runner.keep(self._watch(container, component, listener))
        spawn.descriptors = [HandleInfo(file, descriptor_id(fd)) for fd, file in enumerate(files)]
        spawn.attached = spawn.terminal
        spawn.program = program_end
        starter = Client(Programs, programs)
        try:
            await container.outgoing.proxy.open(DirectoryOpenRequest(name=Programs.__fidl_protocol__.name, channel=programs_end))
            failure = await self._script(container.outgoing, request)
            if failure:
                program_end.close()
                close_handles([*files])
                await component.proxy.kill()
                return SpawnFailure(0, failure, b"")
            response = await starter.proxy.spawn(spawn)
            if response.failure is not None:
                return response.failure
            container.instance = await started
        except (ZxStatus, StartError) as error:
            close_handles([*files, program_end])
            await container.ended.wait()
            return SpawnFailure(0, container.message or str(error), b"")
        finally:
            starter.close()
            if started.done() and not started.cancelled():
                started.exception()  # somebody has looked
        return None

    async def _script(self, outgoing: Client[Directory], request: ContainersStartRequest) -> str:
        """Put hooks and what else was asked for into the kernel; returns what is wrong with them. Errors: ZxStatus."""
        messages = json.loads(request.script.read() or b"[]") if request.script is not None else []
        if not messages:
            return ""
        channel, end = Channel.create()
        scripting = Client(Scripting, channel)
        try:
            await outgoing.proxy.open(DirectoryOpenRequest(name=Scripting.__fidl_protocol__.name, channel=end))
            for message in messages:
                reply = await scripting.proxy.call(ScriptingText(Data.of(json.dumps(message).encode())))
                error = json.loads(reply.text.read()).get("error")
                if error:
                    return str(error)
        finally:
            scripting.close()
        return ""

    async def _watch(self, container: NamedContainer, component: Client[ComponentController], listener: _ControllerListener) -> None:
        """Note how the container ends."""
        await component.on_closed()
        info = listener.info or ComponentStopInfo()
        if container.exit_status is None:
            if info.exit_code is not None:
                container.exit_status = exit_status_of(info.exit_code)
            else:
                container.exit_status = KILLED
        container.message = info.message
        container.ended_ns = time.time_ns()
        container.streams.close()
        for client in (container.outgoing, container.program):
            if client is not None:
                client.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(container.log.wait_until_ended(), 1.0)
        container.ended.set()

    # -- asking ------------------------------------------------------------------------------------------------------------------

    async def list(self, request: ContainersListRequest) -> ContainersListResponse:
        identities = list(self.containers)
        start = identities.index(request.after) + 1 if request.after in self.containers else 0
        found = [self.containers[identity] for identity in identities[start:]]
        return ContainersListResponse([container.status() for container in found if request.all or container.ended_ns is None][:PAGE])

    async def inspect(self, request: ContainerName) -> ContainersInspectResponse:
        return ContainersInspectResponse(Data.of(json.dumps(self.find(request.name).inspect()).encode()))

    async def wait(self, request: ContainerName) -> ContainerStatus:
        container = self.find(request.name)
        await container.ended.wait()
        return container.status()

    async def read_log(self, request: ContainersReadLogRequest) -> ContainersReadLogResponse:
        log = self.find(request.name).log
        if request.follow:
            await log.wait_beyond(request.offset)
        ended = log.ended
        offset, data = log.read(request.offset, LOG_PIECE)
        return ContainersReadLogResponse(offset, data, ended and not data)

    async def open(self, request: ContainersOpenRequest) -> None:
        try:
            container = self._running(request.name)
            assert container.outgoing is not None
            await container.outgoing.proxy.open(DirectoryOpenRequest(name=DIRECTORY, channel=request.directory))
        except (MethodError, ZxStatus) as error:
            request.directory.close()
            if isinstance(error, ZxStatus):
                raise MethodError(ContainersError.NOT_RUNNING) from error
            raise

    # -- ending ------------------------------------------------------------------------------------------------------------------

    async def kill(self, request: ContainersKillRequest) -> None:
        await self._running(request.name).signal(request.signal)

    async def stop(self, request: ContainersStopRequest) -> None:
        container = self.find(request.name)
        if container.ended_ns is not None:
            return
        await self.resume(ContainerName(container.id))
        await container.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(container.ended.wait(), max(0, request.timeout_ns) / 1e9)
        except TimeoutError:
            await self._kill(container)

    async def _kill(self, container: NamedContainer) -> None:
        await container.signal(signal.SIGKILL)
        with suppress(TimeoutError):
            await asyncio.wait_for(container.ended.wait(), 2.0)
        if not container.ended.is_set() and container.kernel is not None:
            self.runner.realm.kill(container.kernel.child)
        await container.ended.wait()

    async def remove(self, request: ContainersRemoveRequest) -> None:
        container = self.find(request.name)
        if container.ended_ns is None:
            if not request.force:
                raise MethodError(ContainersError.STILL_RUNNING)
            await self._kill(container)
        await container.ended.wait()
        self._forget(container)

    def _forget(self, container: NamedContainer) -> None:
        self.containers.pop(container.id, None)
        container.streams.close()
        container.log.close()

    # -- attaching ---------------------------------------------------------------------------------------------------------------

    async def attach(self, request: ContainerName) -> ContainersAttachResponse:
        container = self._running(request.name)
        return ContainersAttachResponse(input=container.streams.input(), terminal=container.streams.terminal, offset=container.log.end)

    async def set_window_size(self, request: ContainersSetWindowSizeRequest) -> None:
        container = self._running(request.name)
        container.window = request.size
        if container.program is not None:
            with suppress(ZxStatus):
                await container.program.proxy.set_window_size(request.size)

    # -- sleeping ----------------------------------------------------------------------------------------------------------------

    async def suspend(self, request: ContainerName) -> None:
        instance = self._running(request.name).instance
        if instance is None or instance.power is None or not await instance.power.fall_asleep():
            raise MethodError(ContainersError.SUSPEND_FAILED)

    async def resume(self, request: ContainerName) -> None:
        instance = self._running(request.name).instance
        if instance is not None and instance.power is not None:
            await instance.power.wake_up()

    def close(self) -> None:
        """The runner ends, and the containers have."""
        for container in list(self.containers.values()):
            self._forget(container)
        with suppress(OSError):
            os.rmdir(self.directory)


class _ProgramListener(Program):
    """Hears of the end of a container's first program."""

    def __init__(self, container: NamedContainer) -> None:
        self.container = container

    async def on_exited(self, payload: ProgramOnExitedPayload) -> None:
        self.container.exit_status = exit_status_of(payload.status)

    async def on_suspend(self) -> None:
        """Ctrl-Z, with no shell inside: there is none outside either that could continue the job."""
        if self.container.program is not None:
            await self.container.program.proxy.attach_terminal(self.container.window)
            await self.container.program.proxy.resume()

    async def on_input_wanted(self) -> None:
        """The terminal is always ours to read."""


class _ControllerListener(ComponentController):
    def __init__(self) -> None:
        self.info: ComponentStopInfo | None = None

    async def on_stop(self, payload: ComponentStopInfo) -> None:
        self.info = payload


def take_program_options(request: ProgramsSpawnRequest) -> dict[str, Any]:
    """How a program is started, in plain types. Errors: DecodeError, ZxStatus."""
    arguments = ProgramArguments.unpack(request.arguments or Data())
    request.arguments = arguments.pack()  # they can be read once
    return {
        "env": [os.fsdecode(variable) for variable in arguments.env],
        "directory": os.fsdecode(request.directory or b"/"),
        "user": [request.uid or 0, request.gid or 0],
    }


def exit_status_of(wait_status: int) -> int:
    """A wait status as a shell says it."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code
