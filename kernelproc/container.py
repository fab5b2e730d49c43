"""The container as a component: the kernel process waits for one Start, boots, and tells its end over the ComponentController.

The order is Starnix's (``kernel/runner/src/container.rs``): the end of init, Stop, Kill, the end of the controller's channel and
the end of the session all end the container.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from polynix.ipc.bindings import FidlProtocol
from polynix.ipc.fidl import FidlError, close_handles
from polynix.ipc.host_file import HostFile
from polynix.ipc.objects import Channel, Status, ZxStatus
from polynix.ipc.protocols.component import (
    CONTAINER_RUNNER_PROTOCOL,
    ComponentController,
    ComponentError,
    ComponentRunner,
    ComponentRunnerStartRequest,
    ComponentStartInfo,
    ComponentStopInfo,
    Directory,
    DirectoryOpenRequest,
    descriptors_of,
)
from polynix.ipc.protocols.connections import Connections
from polynix.ipc.protocols.controller import Controller
from polynix.ipc.protocols.manager import Manager
from polynix.ipc.protocols.power import Power
from polynix.ipc.protocols.programs import Data, Programs
from polynix.ipc.protocols.scripting import Scripting, ScriptingText
from polynix.ipc.server import RequestDecoder, ServerEnd
from polynix.kernelproc.connections import ContainerConnections
from polynix.kernelproc.controller import ContainerController
from polynix.kernelproc.fidl_loop import EngineServer
from polynix.kernelproc.incoming_directory import IncomingDirectory
from polynix.kernelproc.kernel import PATIENCE_NS
from polynix.kernelproc.options import ContainerOptions
from polynix.kernelproc.outgoing_directory import OutgoingDirectory
from polynix.kernelproc.power.runner_link import RunnerSuspender, serve_power
from polynix.kernelproc.programs import ProgramStarter

if TYPE_CHECKING:
    from polynix.ipc.session import Session
    from polynix.kernelproc.kernel import Kernel

log = logging.getLogger(__name__)


@dataclass
class Start:
    """What came before there was a loop: the request, and the protocols that were opened ahead of it."""

    info: ComponentStartInfo
    controller: Channel
    opened: list[DirectoryOpenRequest] = field(default_factory=list)

    @property
    def options(self) -> ContainerOptions:
        """Errors: ValueError."""
        try:
            return ContainerOptions.from_json(self.info.program.text("options", "{}") if self.info.program is not None else "{}")
        except (TypeError, KeyError) as error:
            raise ValueError(f"options of another version: {error}") from error

    def refuse(self, message: str) -> None:
        """The container cannot be started."""
        end: ServerEnd[ComponentController] = ServerEnd(ComponentController, ComponentController(), self.controller)
        tell_end(end, ComponentStopInfo(termination_status=ComponentError.INSTANCE_CANNOT_START, message=message))


def wait_for_start(session: Session) -> Start | None:
    """Block until the runner has asked for the container; None if it is gone instead."""
    waiter = _Starter()
    poller = select.poll()
    poller.register(session.fileno(), select.POLLIN)
    while waiter.start is None:
        try:
            while waiter.read(session.root):
                pass
        except (FidlError, ZxStatus) as error:
            if not (isinstance(error, ZxStatus) and error.status == Status.PEER_CLOSED):
                log.warning("the runner makes no sense: %s", error)
            return None
        if waiter.start is None:
            poller.poll()
            session.process()
    return waiter.start


class _Starter:
    """Reads the kernel's directory and its runner protocol, without a loop."""

    def __init__(self) -> None:
        self.start: Start | None = None
        self._directory = RequestDecoder(Directory)
        self._runner = RequestDecoder(ComponentRunner)
        self._runners: list[Channel] = []
        self._opened: list[DirectoryOpenRequest] = []

    def read(self, root: Channel) -> bool:
        """Take one message, if there is one. Errors: FidlError, ZxStatus."""
        for channel in self._runners:
            try:
                request = self._runner.decode(*channel.read())
            except ZxStatus as error:
                if error.status == Status.SHOULD_WAIT:
                    continue
                raise
            if isinstance(request.payload, ComponentRunnerStartRequest):
                self.start = Start(request.payload.start_info, request.payload.controller, self._opened)
                return False
        try:
            opened = self._directory.decode(*root.read()).payload
        except ZxStatus as error:
            if error.status == Status.SHOULD_WAIT:
                return False
            raise
        if isinstance(opened, DirectoryOpenRequest) and opened.channel is not None:
            if opened.name == CONTAINER_RUNNER_PROTOCOL:
                self._runners.append(opened.channel)
            else:
                self._opened.append(opened)
        return True


def wait_for_runner(session: Session) -> None:
    """Block until the runner may have said something; nothing else of the kernel runs meanwhile. Errors: ZxStatus TIMED_OUT, PEER_CLOSED."""
    poller = select.poll()
    poller.register(session.fileno(), select.POLLIN)
    if not poller.poll(PATIENCE_NS // 1_000_000):
        raise ZxStatus(Status.TIMED_OUT, "the runner does not answer")
    session.process()
    if session.ended:
        raise ZxStatus(Status.PEER_CLOSED, "the runner is gone")


def take_standard_error(info: ComponentStartInfo) -> None:
    """The kernel logs to descriptor 2 of the start information; it needs no other."""
    handles = descriptors_of(info.numbered_handles or ())
    errors = handles.get(2)
    if isinstance(errors, HostFile):
        sys.stderr.flush()
        os.dup2(errors.fileno(), 2)
    close_handles(list(handles.values()))


class Container(ComponentController):
    """One container that has booted, as the outside sees it."""

    def __init__(self, kernel: Kernel, session: Session, start: Start) -> None:
        self.kernel = kernel
        self.session = session
        self.killed = False
        engine = kernel.engine
        self.outgoing = kernel.expando.get(OutgoingDirectory)
        self.controller = ContainerController(kernel)
        self.add(Controller, self.controller.serve)
        self.add(Connections, ContainerConnections(kernel).serve)
        self.add(Power, partial(serve_power, kernel.power))
        if kernel.power.suspender is None:  # no module has linked it with another runner
            RunnerSuspender(kernel.power, partial(kernel.expando.get(IncomingDirectory).connect, Manager), self.controller.job)
        self.add(Programs, ProgramStarter(kernel).serve)
        self.add(Scripting, lambda channel: EngineServer(engine, Scripting, _Script(kernel), channel))
        self._component = EngineServer(engine, ComponentController, self, start.controller, engine.stop)
        engine.watch(session.fileno(), select.EPOLLIN, self._process)
        for request in start.opened:
            self.outgoing.connect(request)
        if start.info.outgoing_dir is not None:
            self.outgoing.serve(start.info.outgoing_dir)
        self.outgoing.serve(session.root)
        self._process(0)

    def add(self, protocol: type[FidlProtocol], serve: Callable[[Channel], object]) -> None:
        """Offer one more protocol."""
        self.outgoing.add(protocol.__fidl_protocol__.name, serve)

    def _process(self, _events: int) -> None:
        self.session.process()
        if self.session.ended:  # the runner is gone
            self.kernel.engine.stop()

    async def stop(self) -> None:
        self.kernel.engine.stop()

    async def kill(self) -> None:
        self.killed = True
        self.kernel.engine.stop()

    def tell_end(self, failure: str = "") -> None:
        """The loop has ended, perhaps because of ``failure``."""
        init = self.kernel.init
        status = ComponentError.INSTANCE_DIED if self.killed or failure else Status.OK
        code = init.exit_code if init is not None and init.exited else None
        tell_end(self._component, ComponentStopInfo(termination_status=status, exit_code=code, message=failure or None))


class _Script(Scripting):
    """Hooks and what else the owner puts into the kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    async def call(self, request: ScriptingText) -> ScriptingText:
        from polynix.kernelproc.scripting.requests import answer  # few containers are scripted

        return ScriptingText(Data.of(json.dumps(answer(self.kernel, json.loads(request.text.read()))).encode()))


def tell_end(end: ServerEnd[ComponentController], info: ComponentStopInfo) -> None:
    """The last two messages of a controller."""
    if end.channel.is_valid:
        try:
            end.send_event(ComponentController.on_stop, info)
        except ZxStatus:
            pass  # nobody listens
        end.close(info.termination_status)
