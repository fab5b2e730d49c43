"""fuchsia.starnix.container.Controller of a real container, as a client of its runner sees it; and containers that cannot be started."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from polynix.ipc.bindings import MethodError
from polynix.ipc.client import PolledClient
from polynix.ipc.host_file import HostFile
from polynix.ipc.objects import Channel, Event, ZxStatus
from polynix.ipc.protocols.component import (
    ComponentController,
    ComponentError,
    ComponentRunner,
    ComponentRunnerStartRequest,
    ComponentStartInfo,
    ComponentStopInfo,
    Dictionary,
    Directory,
    DirectoryOpenRequest,
)
from polynix.ipc.protocols.controller import (
    ConsoleWindowSize,
    Controller,
    ControllerGetVmoReferencesRequest,
    ControllerSendSignalRequest,
    ControllerSetSyscallLogFilterRequest,
    ControllerSpawnConsoleRequest,
    SendSignalError,
    SetSyscallLogFilterError,
    SpawnConsoleError,
)
from polynix.ipc.session import Session
from polynix.kernelproc.options import ContainerOptions
from polynix.runner.private_runner import PrivateRunner

import polynix


@pytest.fixture(scope="module")
def container() -> Iterator[polynix.Container]:
    with polynix.Container() as container:
        yield container


class Caller:
    """Calls to one protocol of a container, over its owner's session."""

    def __init__(self, container: polynix.Container, protocol: Any = Controller) -> None:
        container.start()
        assert container.connection is not None
        container.connection.wait_until_booted()
        self.connection = container.connection
        self.client = self.connection._open(self.connection._outgoing, protocol)

    def send(self, method: Callable[..., Any], request: Any = None) -> list[tuple[Any, Exception | None]]:
        outcome: list[tuple[Any, Exception | None]] = []

        def finish(reply: Any, error: Exception | None) -> bool:
            outcome.append((reply, error))
            return True

        self.client.send(method, request, finish)
        return outcome

    def wait(self, outcome: list[tuple[Any, Exception | None]]) -> Any:
        while not outcome:
            self.connection.poll(None)
        reply, error = outcome[0]
        if error is not None:
            raise error
        return reply

    def call(self, method: Callable[..., Any], request: Any = None) -> Any:
        return self.wait(self.send(method, request))


def test_the_job_is_always_the_same(container: polynix.Container) -> None:
    caller = Caller(container)
    first, second = (caller.call(Controller.get_job_handle).job for _ in range(2))
    assert first.koid == second.koid


def test_send_signal(container: polynix.Container) -> None:
    caller = Caller(container)
    process = container.spawn(["sleep", "1000"])
    for request, error in (
        (ControllerSendSignalRequest(signal=15), SendSignalError.INVALID_TARGET),
        (ControllerSendSignalRequest(pid=99999, signal=15), SendSignalError.INVALID_TARGET),
        (ControllerSendSignalRequest(pid=process.pid), SendSignalError.INVALID_TARGET),
        (ControllerSendSignalRequest(pid=process.pid, signal=0), SendSignalError.INVALID_SIGNAL),
        (ControllerSendSignalRequest(pid=process.pid, signal=65), SendSignalError.INVALID_SIGNAL),
    ):
        with pytest.raises(MethodError) as caught:
            caller.call(Controller.send_signal, request)
        assert caught.value.error == error
    caller.call(Controller.send_signal, ControllerSendSignalRequest(pid=process.pid, signal=signal.SIGUSR1))
    assert process.wait(20) == -signal.SIGUSR1


def test_spawn_console(container: polynix.Container) -> None:
    caller = Caller(container)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = ControllerSpawnConsoleRequest(
            console_in=HostFile.create(theirs.fileno()),
            console_out=HostFile.create(theirs.fileno()),
            binary_path="/bin/sh",
            argv=["sh", "-c", "tty; stty size; id -u; read line; echo got $line; exit 3"],
            environ=["PATH=/usr/bin:/bin"],
            window_size=ConsoleWindowSize(30, 90, 0, 0),
        )
        outcome = caller.send(Controller.spawn_console, request)
        text = b""
        sent = False
        while not outcome or select.select([ours], [], [], 0.2)[0]:
            for fd in caller.connection.poll(0.1, (ours.fileno(),)):
                text += os.read(fd, 4096)
            if b"\n0\r\n" in text and not sent:
                ours.sendall(b"typed\n")
                sent = True
        assert caller.wait(outcome).exit_code == 3
        lines = text.decode().split("\r\n")
        assert lines[0].startswith("/dev/pts/") and lines[1:] == ["30 90", "0", "typed", "got typed", ""]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"binary_path": None}, SpawnConsoleError.INVALID_ARGS),
        ({"console_in": None}, SpawnConsoleError.INVALID_ARGS),
        ({"binary_path": "/no/such/program"}, SpawnConsoleError.INVALID_ARGS),
        ({"argv": ["a\0b"]}, SpawnConsoleError.INVALID_ARGS),
        ({"argv": ["sh", "-c", "kill -9 $$"]}, SpawnConsoleError.CANCELED),
    ],
)
def test_consoles_that_fail(container: polynix.Container, changes: dict[str, Any], error: SpawnConsoleError) -> None:
    caller = Caller(container)
    with open(os.devnull, "r+b") as null:
        fields = {"console_in": HostFile.create(null.fileno()), "console_out": HostFile.create(null.fileno()), "binary_path": "/bin/sh", "argv": ["sh"]}
        with pytest.raises(MethodError) as caught:
            caller.call(Controller.spawn_console, ControllerSpawnConsoleRequest(**{**fields, **changes}))
    assert caught.value.error == error
    assert container.run(["echo", "fine"], capture_output=True).stdout == b"fine\n"


def test_who_holds_a_memory_object(container: polynix.Container) -> None:
    caller = Caller(container)
    script = "import os, mmap, sys; fd = os.memfd_create('x'); os.ftruncate(fd, 4096); m = mmap.mmap(fd, 4096); print(fd, flush=True); sys.stdin.read()"
    with container.spawn(["/usr/bin/python3", "-c", script], stdin=polynix.PIPE, stdout=polynix.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        fd = int(process.stdout.readline())
        every = caller.call(Controller.get_vmo_references, ControllerGetVmoReferencesRequest()).references
        (mine,) = [reference for reference in every if reference.pid == process.pid and reference.fd == fd]
        assert mine.process_name == "python3"
        same = caller.call(Controller.get_vmo_references, ControllerGetVmoReferencesRequest(koid=mine.koid)).references
        assert mine in same and {reference.pid for reference in same} == {process.pid}  # Python's mmap has a descriptor of its own
        process.stdin.close()


def test_the_syscall_log_of_chosen_processes(capfd: pytest.CaptureFixture[str]) -> None:
    with polynix.Container() as container:
        caller = Caller(container)
        with pytest.raises(MethodError) as caught:
            caller.call(Controller.set_syscall_log_filter, ControllerSetSyscallLogFilterRequest())
        assert caught.value.error == SetSyscallLogFilterError.MISSING_PROCESS_NAME
        caller.call(Controller.set_syscall_log_filter, ControllerSetSyscallLogFilterRequest(process_name="ech"))
        container.run(["/bin/echo", "one"], stdout=polynix.DEVNULL)
        container.run(["/bin/cat", "/dev/null"])
        caller.call(Controller.clear_syscall_log_filters)
        container.run(["/bin/echo", "two"], stdout=polynix.DEVNULL)
    logged = capfd.readouterr().err
    assert 'write(1, "one\\n", 4)' in logged and "INFO" in logged
    assert "/dev/null" not in logged and "two" not in logged


# -- containers that do not start ------------------------------------------------------------------------------------------------


class BareClient:
    """A client that speaks ComponentRunner by itself."""

    def __init__(self) -> None:
        self.runner = PrivateRunner()
        self.session = Session(self.runner.session_socket(), threaded=False)
        self.directory = PolledClient(Directory, self.session.root)

    def open(self, name: str) -> Channel:
        ours, theirs = Channel.create()
        self.directory.send(Directory.open, DirectoryOpenRequest(name=name, channel=theirs))
        return ours

    def start(self, info: ComponentStartInfo) -> tuple[ComponentStopInfo | None, Exception]:
        """Ask for a container; how its controller ended."""
        heard: list[ComponentStopInfo] = []
        controller, controller_end = Channel.create()
        client = PolledClient(ComponentController, controller, lambda _method, payload: heard.append(payload))
        runner = PolledClient(ComponentRunner, self.open(ComponentRunner.__fidl_protocol__.name))
        runner.send(ComponentRunner.start, ComponentRunnerStartRequest(info, controller_end))
        return self._end_of(client, heard)

    def _end_of(self, client: PolledClient, heard: list[ComponentStopInfo]) -> tuple[ComponentStopInfo | None, Exception]:
        deadline = time.monotonic() + 30
        while client.error is None and time.monotonic() < deadline:
            select.select([self.session], [], [], 0.1)
            self.session.process()
            client.pump()
        assert client.error is not None
        return (heard[0] if heard else None), client.error

    def close(self) -> None:
        self.session.close()
        self.runner.close()


@pytest.fixture
def client() -> Iterator[BareClient]:
    client = BareClient()
    yield client
    client.close()


def test_a_component_needs_its_instance(client: BareClient) -> None:
    stopped, error = client.start(ComponentStartInfo(program=Dictionary.of({"options": "{}"})))
    assert isinstance(error, ZxStatus) and error.status == ComponentError.INVALID_ARGUMENTS
    assert stopped is not None and stopped.message == "expected to find component_instance in ComponentStartInfo"


@pytest.mark.parametrize("options", [ContainerOptions(features=["nonsense"]).to_json(), '{"nonsense": 1}', "no JSON"])
def test_a_container_that_cannot_boot(client: BareClient, options: str) -> None:
    stopped, error = client.start(ComponentStartInfo(program=Dictionary.of({"options": options}), component_instance=Event.create()))
    assert isinstance(error, ZxStatus) and error.status == ComponentError.INSTANCE_CANNOT_START
    assert stopped is not None and stopped.message and "\n" not in stopped.message


@pytest.mark.parametrize(("method", "status"), [(ComponentController.stop, 0), (ComponentController.kill, ComponentError.INSTANCE_DIED)])
def test_a_component_is_stopped_and_killed(client: BareClient, method: Callable[..., Any], status: int) -> None:
    heard: list[ComponentStopInfo] = []
    controller, controller_end = Channel.create()
    component = PolledClient(ComponentController, controller, lambda _method, payload: heard.append(payload))
    runner = PolledClient(ComponentRunner, client.open(ComponentRunner.__fidl_protocol__.name))
    options = Dictionary.of({"options": ContainerOptions(builtin_init=True).to_json()})
    runner.send(ComponentRunner.start, ComponentRunnerStartRequest(ComponentStartInfo(program=options, component_instance=Event.create()), controller_end))
    component.send(method)
    stopped, error = client._end_of(component, heard)
    assert isinstance(error, ZxStatus) and error.status == status
    assert stopped is not None and stopped.termination_status == status


def test_an_unknown_protocol_is_not_found(client: BareClient) -> None:
    unknown = PolledClient(Controller, client.open("no.such.Protocol"))
    _, error = client._end_of(unknown, [])
    assert isinstance(error, ZxStatus) and error.status == -25
