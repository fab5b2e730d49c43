"""A client of a runner, and one container that the runner has started for it.

Everything here polls: there is no thread, and whoever waits calls :meth:`ContainerConnection.poll`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import zmq  # noqa: F401  # the session's, while the runner still starts
from polynix.ipc.bindings import FidlProtocol, Method, MethodError
from polynix.ipc.client import PolledClient
from polynix.ipc.fidl import FidlError
from polynix.ipc.host_file import HostFile
from polynix.ipc.objects import Channel, Event, ZxStatus
from polynix.ipc.protocols.component import (
    ComponentController,
    ComponentRunner,
    ComponentRunnerStartRequest,
    ComponentStartInfo,
    ComponentStopInfo,
    Dictionary,
    Directory,
    DirectoryOpenRequest,
    HandleInfo,
    descriptor_id,
)
from polynix.ipc.protocols.connections import (
    Connections,
    ConnectionsListenRequest,
    Listener,
    ListenersResponse,
    ListenResponse,
    ProxyTarget,
    TcpAddress,
)
from polynix.ipc.protocols.controller import Controller, ControllerVsockConnectRequest
from polynix.ipc.protocols.programs import (
    Data,
    Program,
    ProgramArguments,
    Programs,
    ProgramSignalRequest,
    ProgramsSpawnRequest,
    ProgramsSpawnResponse,
    window_size,
)
from polynix.ipc.protocols.scripting import Scripting, ScriptingText
from polynix.ipc.session import Session
from polynix.kernelproc.options import ContainerOptions
from polynix.runner.errors import ContainerError as ContainerError
from polynix.runner.private_runner import PrivateRunner

LAST_WORDS_SECONDS = 5.0  # between the end of a kernel and what the runner says about it
_EVENTS = {"OnExited": "exited", "OnSuspend": "suspend", "OnInputWanted": "input_wanted"}


class ContainerConnection:
    """One container: its component controller, and the protocols that it offers."""

    def __init__(self, session: Session, outgoing: Channel, controller: Channel | None = None, runner: PrivateRunner | None = None) -> None:
        """A container that offers ``outgoing``; with a ``controller`` it is ours, and ends with the connection, as ``runner`` does. ``session``, which has
        no thread, is the connection's from now on. Errors: ContainerError.
        """
        self.session = session
        self.runner = runner
        self.stop_info: ComponentStopInfo | None = None
        self.signals_noted = 0
        self._clients: list[PolledClient] = []
        self._running: dict[int, tuple[PolledClient, Callable[[str, int], None]]] = {}
        self._requests = 0
        self._kernel_pid = 0
        self._controller = PolledClient(ComponentController, controller, self._stopped) if controller is not None else None
        self._outgoing = PolledClient(Directory, outgoing)
        self._scripting: PolledClient | None = None
        self._connections: PolledClient | None = None
        try:
            self._programs = self._open(self._outgoing, Programs)
        except (FidlError, ZxStatus) as error:
            self.close()
            raise ContainerError(f"cannot start the container: {error}") from error

    @classmethod
    def start(cls, options: ContainerOptions, runner: PrivateRunner) -> ContainerConnection:
        """Have ``runner``, which is the connection's from now on, start a container. Errors: ContainerError."""
        try:
            session = Session(runner.session_socket(), threaded=False)
        except ZxStatus as error:
            runner.close()
            raise ContainerError(f"cannot reach the runner: {error}") from error
        controller, controller_end = Channel.create()
        outgoing, outgoing_end = Channel.create()
        info = ComponentStartInfo(
            resolved_url="polynix:container",
            program=Dictionary.of({"options": options.to_json()}),
            outgoing_dir=outgoing_end,
            numbered_handles=[HandleInfo(HostFile.create(2), descriptor_id(2))] if _is_open(2) else [],
            component_instance=Event.create(),
        )
        connection = cls(session, outgoing, controller, runner)
        try:
            component_runner = connection._open(PolledClient(Directory, session.root), ComponentRunner)
            component_runner.send(ComponentRunner.start, ComponentRunnerStartRequest(info, controller_end))
        except (FidlError, ZxStatus) as error:
            connection.close()
            raise ContainerError(f"cannot start the container: {error}") from error
        return connection

    def _open(self, directory: PolledClient, protocol: type[FidlProtocol]) -> PolledClient:
        ours, theirs = Channel.create()
        directory.send(Directory.open, DirectoryOpenRequest(name=protocol.__fidl_protocol__.name, channel=theirs))
        client = PolledClient(protocol, ours)
        self._clients.append(client)
        return client

    # -- requests ----------------------------------------------------------------------------------------------------------------

    def spawn(
        self,
        argv: Sequence[bytes],
        env: Sequence[bytes],
        descriptors: Sequence[int],
        *,
        directory: bytes,
        directory_required: bool,
        user: tuple[int, int],
        terminal: bool,
        controlling_terminal: int,
        attached: bool,
        window: tuple[int, int],
        heard: Callable[[str, int], None],
        finish: Callable[[ProgramsSpawnResponse | None, Exception | None], bool],
    ) -> int:
        """Ask for a program whose descriptors 0, 1, … are ``descriptors``; returns the number by which it is known here. ``finish`` gets the
        ProgramsSpawnResponse; ``heard`` then hears ``exited`` with the wait status, ``suspend`` and ``input_wanted``. Errors: ContainerError.
        """
        ours, theirs = Channel.create()
        self._requests += 1
        number = self._requests

        def on_event(method: Method, payload: Any) -> None:
            heard(_EVENTS[method.name], payload.status if payload is not None else 0)

        client = PolledClient(Program, ours, on_event)
        self._running[number] = client, heard
        with self._failures():
            request = ProgramsSpawnRequest(
                arguments=ProgramArguments(list(argv), list(env)).pack(),
                directory=directory,
                directory_required=directory_required,
                uid=user[0],
                gid=user[1],
                descriptors=[HandleInfo(HostFile.create(fd), descriptor_id(index)) for index, fd in enumerate(descriptors)],
                terminal=terminal,
                controlling_terminal=HostFile.create(controlling_terminal) if controlling_terminal >= 0 else None,
                attached=attached,
                window_size=window_size(window),
                program=theirs,
            )
            self._programs.send(Programs.spawn, request, finish)
        return number

    def tell_program(self, number: int, method: str, request: Any = None) -> None:
        """A one-way method of a program, if it still runs."""
        if number in self._running:
            with contextlib.suppress(Exception):  # its end is heard of next
                self._running[number][0].send(getattr(Program, method), request)

    def set_window(self, number: int, method: str, window: tuple[int, int]) -> None:
        """``set_window_size`` or ``attach_terminal``."""
        self.tell_program(number, method, window_size(window))

    def signal(self, number: int, signal: int, group: bool) -> None:
        """Send a signal to a program; ``signals_noted`` counts those that the kernel has noted."""

        def noted(_reply: Any, _error: Exception | None) -> bool:
            self.signals_noted += 1
            return True

        if number in self._running:
            with contextlib.suppress(Exception):  # its end is heard of next
                self._running[number][0].send(Program.signal, ProgramSignalRequest(signal, group), noted)

    def script(self, method: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for something of :mod:`polynix.kernelproc.scripting.requests`, and wait for the answer. Errors: ContainerError."""
        if self._scripting is None:
            self._scripting = self._open(self._outgoing, Scripting)
        text = json.dumps({"method": method, "parameters": parameters}).encode()
        reply = self._call(self._scripting, Scripting.call, ScriptingText(Data.of(text)))
        answer: dict[str, Any] = json.loads(reply.text.read())
        return answer

    def listen(self, address: TcpAddress, target: ProxyTarget) -> TcpAddress:
        """Have the runner listen for the container; returns where it does. Errors: OSError, ContainerError."""
        response: ListenResponse = self._call_connections(Connections.listen, ConnectionsListenRequest(address=address, target=target), address)
        return response.address

    def unlisten(self, address: TcpAddress) -> None:
        """Have the runner listen there no more. Errors: OSError, ENOENT if it didn't; ContainerError."""
        self._call_connections(Connections.unlisten, address, address)

    def listeners(self) -> list[Listener]:
        """Where the runner listens for the container. Errors: OSError, ContainerError."""
        response: ListenersResponse = self._call_connections(Connections.listeners)
        return response.listeners

    def _call_connections(self, method: Callable[..., Any], request: Any = None, about: TcpAddress | None = None) -> Any:
        if self._connections is None:
            self._connections = self._open(self._outgoing, Connections)
        try:
            return self._call(self._connections, method, request)
        except MethodError as error:
            raise OSError(error.error, os.strerror(error.error), f"{about.host}:{about.port}" if about is not None else None) from None

    def connect_vsock(self, port: int, fd: int) -> None:
        """Controller.VsockConnect with a socket that stays the caller's. Errors: ContainerError."""
        with self._failures():
            controller = self._open(self._outgoing, Controller)
            controller.send(Controller.vsock_connect, ControllerVsockConnectRequest(port=port, bridge_socket=HostFile.create(fd)))

    def wait_until_booted(self) -> int:
        """Wait for the container's kernel; returns its process id. Errors: ContainerError when it could not boot."""
        if not self._kernel_pid:
            self._kernel_pid = self._call(self._programs, Programs.get_kernel).pid or 0
        return self._kernel_pid

    def _call(self, client: PolledClient, method: Callable[..., Any], request: Any = None) -> Any:
        outcome: list[tuple[Any, Exception | None]] = []

        def finish(reply: Any, error: Exception | None) -> bool:
            outcome.append((reply, error))
            return True

        with self._failures():
            client.send(method, request, finish)
        while not outcome:
            self.poll(None)
        reply, failure = outcome[0]
        if isinstance(failure, MethodError):
            raise failure
        if failure is not None:
            self.fail(failure)
        return reply

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (FidlError, ZxStatus) as error:
            self.fail(error)

    def fail(self, error: Exception) -> NoReturn:
        """A request could not be made, or was not answered. Errors: ContainerError, always."""
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while self._controller is not None and self.stop_info is None and not self.session.ended and time.monotonic() < deadline:
            self.poll(0.05)  # what the runner says about it is on its way
        self.check()
        raise ContainerError(str(error)) from error

    # -- what comes --------------------------------------------------------------------------------------------------------------

    def poll(self, timeout: float | None, descriptors: Sequence[int] = ()) -> list[int]:
        """Wait for news and have it heard; returns which of ``descriptors`` are readable. Errors: ContainerError when the kernel or the runner died."""
        heard = self._pump()
        ready = self._wait(0 if heard else timeout, descriptors)
        self._pump()
        self.check()
        return ready

    def _wait(self, timeout: float | None, descriptors: Sequence[int]) -> list[int]:
        poller = select.poll()
        for fd in (self.session.fileno(), *descriptors):
            poller.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poller.poll(None if timeout is None else max(0, round(timeout * 1000)))]
        self.session.process()
        return [fd for fd in ready if fd in descriptors]

    def _pump(self) -> bool:
        heard = False
        for client in self._clients:
            heard |= client.pump()
        for number, (client, _) in list(self._running.items()):
            heard |= client.pump()
            if client.error is not None:
                del self._running[number]
        if self._controller is not None and self.stop_info is None and self._controller.error is None:
            heard |= self._controller.pump()
            if self.stop_info is not None:
                heard |= self._pump()  # what came before the end
        return heard

    def _stopped(self, _method: Method, info: ComponentStopInfo) -> None:
        self.stop_info = info

    def check(self) -> None:
        """Errors: ContainerError when the kernel or the runner died, or could not start."""
        if self.stop_info is not None:
            if self.stop_info.termination_status:
                raise ContainerError(self.stop_info.message or "the container was stopped")
        elif self.session.ended:
            raise ContainerError("the runner process died")
        elif self._has_been_left():
            raise ContainerError("the container has ended")

    def _has_been_left(self) -> bool:
        """Whether nobody will say any more how the container ended."""
        if self._controller is not None:
            return self._controller.error is not None
        return self._programs.error is not None and not self._running

    @property
    def has_ended(self) -> bool:
        """In an ordinary way: pid 1 did."""
        return self.stop_info is not None and not self.stop_info.termination_status

    def close(self) -> None:
        """Stop the container: every program in it is killed. Safe to call again."""
        for client in (self._controller, self._outgoing, *self._clients, *[client for client, _ in self._running.values()]):
            if client is not None:
                client.close()
        self._running.clear()
        self.session.close()
        if self.runner is not None:
            self.runner.close()


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
