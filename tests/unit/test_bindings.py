"""Protocol bindings: clients, servers, events, epitaphs, unknown methods, hostile peers, dumps."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import threading
import time
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any

import pytest
from polynix.ipc import fidl, protocols
from polynix.ipc.async_client import Client
from polynix.ipc.async_server import Server
from polynix.ipc.bindings import FidlProtocol, MethodError, Openness, UnknownMethodError, event, one_way, protocol, two_way
from polynix.ipc.client import BlockingClient
from polynix.ipc.dump import describe_message
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.objects import Channel, Counter, EventPair, Job, Signals, Status, Vmo, ZxStatus
from polynix.ipc.protocols import controller as fcontroller
from polynix.ipc.protocols import manager as fmanager
from polynix.ipc.protocols.controller import Controller
from polynix.ipc.protocols.manager import Manager
from polynix.ipc.protocols.pager import Pager, PagerExtent, PagerRegisterFileRequest, PagerRegisterFileResponse
from polynix.ipc.server import MAX_REQUESTS


class EchoError(IntEnum):
    REFUSED = 1


@fidl.table
@dataclass(kw_only=True)
class Text:
    text: str | None = fidl.member(1, fidl.STRING)


@protocol("test.polynix.Echo", openness=Openness.OPEN)
class Echo(FidlProtocol):
    @two_way(error=fidl.EnumType(EchoError))
    async def echo(self, request: Text) -> Text:
        raise NotImplementedError

    @two_way(strict=True)
    async def ping(self) -> None:
        raise NotImplementedError

    @two_way(strict=True)
    async def strict_echo(self, request: Text) -> Text:
        raise NotImplementedError

    @one_way()
    async def note(self, request: Text) -> None:
        raise NotImplementedError

    @event()
    async def on_text(self, payload: Text) -> None:
        raise NotImplementedError


@protocol("test.polynix.Echo", openness=Openness.OPEN)
class NewerEcho(FidlProtocol):
    @two_way()
    async def whisper(self, request: Text) -> Text:
        raise NotImplementedError

    @one_way()
    async def hint(self) -> None:
        raise NotImplementedError

    @two_way(strict=True)
    async def strict_whisper(self) -> None:
        raise NotImplementedError

    @event()
    async def on_hint(self) -> None:
        raise NotImplementedError


class EchoServer(Echo):
    def __init__(self) -> None:
        self.notes: list[str | None] = []
        self.unknown: list[bool] = []
        self.gate = asyncio.Event()

    async def echo(self, request: Text) -> Text:
        if request.text == "refuse":
            raise MethodError(EchoError.REFUSED)
        if request.text == "break":
            raise RuntimeError("broken")
        if request.text == "wait":
            await self.gate.wait()
        return request

    async def ping(self) -> None:
        pass

    async def note(self, request: Text) -> None:
        self.notes.append(request.text)

    def on_unknown_method(self, ordinal: int, two_way: bool) -> None:
        self.unknown.append(two_way)


class Heard(Echo):
    def __init__(self) -> None:
        self.texts: list[str | None] = []

    async def on_text(self, payload: Text) -> None:
        self.texts.append(payload.text)


class World:
    """A server and its channel's other end."""

    def __init__(self) -> None:
        self.implementation = EchoServer()
        self.channel, server_channel = Channel.create()
        self.server = Server(Echo, self.implementation, server_channel)
        self.task = asyncio.create_task(self.server.serve())


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 20))


def test_calls() -> None:
    async def check() -> None:
        world = World()
        client = Client(Echo, world.channel)
        assert await client.proxy.echo(Text(text="hi")) == Text(text="hi")
        assert await client.proxy.ping() is None  # type: ignore[func-returns-value]
        await client.proxy.note(Text(text="noted"))
        with pytest.raises(MethodError) as caught:
            await client.proxy.echo(Text(text="refuse"))
        assert caught.value.error is EchoError.REFUSED
        assert world.implementation.notes == ["noted"]
        client.close()
        await world.task
        with pytest.raises(ZxStatus):
            await client.proxy.ping()

    run(check())


def test_a_slow_method_does_not_hold_up_others() -> None:
    async def check() -> None:
        world = World()
        client = Client(Echo, world.channel)
        slow = asyncio.create_task(client.proxy.echo(Text(text="wait")))
        assert await client.proxy.echo(Text(text="fast")) == Text(text="fast")
        assert not slow.done()
        world.implementation.gate.set()
        assert await slow == Text(text="wait")
        gone = asyncio.create_task(client.proxy.echo(Text(text="gone")))
        await asyncio.sleep(0)
        gone.cancel()
        assert await client.proxy.echo(Text(text="after")) == Text(text="after")

    run(check())


def test_a_flood_of_requests_stays_in_the_channel() -> None:
    async def check() -> None:
        world = World()
        method = Echo.__fidl_protocol__.by_attribute["echo"]
        for txid in range(1, 2 * MAX_REQUESTS):
            world.channel.write(*method.encode_request(txid, Text(text="wait")))
        for _ in range(3 * MAX_REQUESTS):
            await asyncio.sleep(0)
        assert len(world.server._replying) == MAX_REQUESTS
        world.implementation.gate.set()
        for _ in range(1, 2 * MAX_REQUESTS):
            await world.channel.read_async()

    run(check())


def test_events() -> None:
    async def check() -> None:
        world = World()
        heard = Heard()
        client = Client(Echo, world.channel, heard)
        world.server.send_event(Echo.on_text, Text(text="first"))
        world.server.channel.write(*NewerEcho.__fidl_protocol__.by_attribute["on_hint"].encode_request(0, None))
        world.server.send_event(Echo.on_text, Text(text="second"))
        await client.proxy.ping()
        assert heard.texts == ["first", "second"]

    run(check())


def test_epitaph() -> None:
    async def check() -> None:
        world = World()
        client = Client(Echo, world.channel)
        waiting = asyncio.create_task(client.proxy.echo(Text(text="wait")))
        await asyncio.sleep(0.01)
        world.implementation.gate.set()
        world.server.close(Status.UNAVAILABLE)
        with pytest.raises(ZxStatus) as caught:
            await waiting
        assert caught.value.status == Status.UNAVAILABLE
        error = await client.on_closed()
        assert isinstance(error, ZxStatus)
        with pytest.raises(ZxStatus):
            await client.proxy.ping()

    run(check())


def test_a_failing_handler_closes_its_channel_alone() -> None:
    async def check() -> None:
        world, other = World(), World()
        with pytest.raises(ZxStatus) as caught:
            await Client(Echo, world.channel).proxy.echo(Text(text="break"))
        assert caught.value.status == Status.INTERNAL
        await world.task
        assert await Client(Echo, other.channel).proxy.echo(Text(text="hi")) == Text(text="hi")

    run(check())


def test_unknown_methods() -> None:
    async def check() -> None:
        world = World()
        client = Client(NewerEcho, world.channel)
        with pytest.raises(UnknownMethodError):
            await client.proxy.whisper(Text(text="x"))
        await client.proxy.hint()
        with pytest.raises(UnknownMethodError):
            await client.proxy.whisper(Text(text="x"))
        assert world.implementation.unknown == [True, False, True]
        with pytest.raises(ZxStatus):
            await client.proxy.strict_whisper()
        await world.task

    run(check())


@pytest.mark.parametrize(("openness", "survives"), [(Openness.CLOSED, (False, False)), (Openness.AJAR, (True, False)), (Openness.OPEN, (True, True))])
def test_openness(openness: Openness, survives: tuple[bool, bool]) -> None:
    @protocol("test.polynix.Nothing", openness=openness)
    class Nothing(FidlProtocol):
        pass

    async def check() -> None:
        for txid, expected in zip((0, 7), survives, strict=True):
            channel, server_channel = Channel.create()
            task = asyncio.create_task(Server(Nothing, Nothing(), server_channel).serve())
            channel.write(fidl.MessageHeader(txid, 12345, flexible=True).encode())
            for _ in range(5):
                await asyncio.sleep(0)
            assert bool(channel.pending & Signals.PEER_CLOSED) != expected
            channel.close()
            await task

    run(check())


ECHO = Echo.__fidl_protocol__.by_attribute


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff" * 16,
        ECHO["echo"].encode_request(1, Text(text="x"))[0][:-8],
        ECHO["echo"].encode_request(1, Text(text="x"))[0] + bytes(8),
        ECHO["echo"].encode_request(0, Text(text="x"))[0],  # two-way without a txid
        ECHO["note"].encode_request(1, Text(text="x"))[0],  # one-way with one
        ECHO["on_text"].encode_request(0, Text(text="x"))[0],  # an event from a client
        ECHO["ping"].encode_request(1, None)[0] + bytes(8),
        fidl.encode_epitaph(0),
    ],
)
def test_hostile_clients_close_their_channel(message: bytes) -> None:
    async def check() -> None:
        world = World()
        first, second = EventPair.create()
        world.channel.write(message, [second])
        await world.task
        assert first.pending & Signals.PEER_CLOSED
        header = world.channel.read()[0]
        assert fidl.MessageHeader.decode(header).ordinal == fidl.EPITAPH_ORDINAL

    run(check())


@pytest.mark.parametrize(
    "message",
    [
        b"short",
        ECHO["echo"].encode_response(9, Text(text="x"))[0],  # a txid that nobody asked with
        ECHO["ping"].encode_response(1, None)[0],  # another ordinal
        ECHO["echo"].encode_response(1, Text(text="x"))[0][:-8],
        ECHO["note"].encode_request(0, Text(text="x"))[0],
    ],
)
def test_hostile_servers(message: bytes) -> None:
    async def check() -> None:
        channel, server = Channel.create()
        client = Client(Echo, channel)
        call = asyncio.create_task(client.proxy.echo(Text(text="x")))
        await asyncio.sleep(0)
        server.write(message)
        with pytest.raises(fidl.DecodeError):
            await call
        assert server.pending & Signals.PEER_CLOSED
        channel, server = Channel.create()
        server.write(message)
        with pytest.raises(fidl.DecodeError):
            BlockingClient(Echo, channel).call(Echo.echo, Text(text="x"))

    run(check())


def test_replayed_messages() -> None:
    """A request sent twice is answered twice, for a server keeps no history; an answer sent twice answers nobody, and ends that channel alone."""

    async def check() -> None:
        world, other = World(), World()
        for _ in range(2):
            world.channel.write(*ECHO["echo"].encode_request(7, Text(text="again")))
        answers = [await world.channel.read_async() for _ in range(2)]
        assert answers[0][0] == answers[1][0] == ECHO["echo"].encode_response(7, Text(text="again"))[0]
        channel, server = Channel.create()
        client = Client(Echo, channel)
        call = asyncio.create_task(client.proxy.echo(Text(text="x")))
        await asyncio.sleep(0)
        answer = ECHO["echo"].encode_response(1, Text(text="x"))[0]
        server.write(answer)
        assert await call == Text(text="x")
        second = asyncio.create_task(client.proxy.echo(Text(text="y")))
        await asyncio.sleep(0)
        server.write(answer)
        with pytest.raises(fidl.DecodeError):
            await second
        assert server.pending & Signals.PEER_CLOSED
        assert await Client(Echo, other.channel).proxy.echo(Text(text="fine")) == Text(text="fine")

    run(check())


def test_blocking_client() -> None:
    channel, server_channel = Channel.create()

    implementation = EchoServer()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        server = Server(Echo, implementation, server_channel)
        server.send_event(Echo.on_text, Text(text="event"))
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    client = BlockingClient(Echo, channel)
    assert client.call(Echo.echo, Text(text="hi")) == Text(text="hi")
    assert client.call(Echo.ping) is None  # type: ignore[func-returns-value]
    assert [payload for _, payload in client.events] == [Text(text="event")]
    with pytest.raises(MethodError):
        client.call(Echo.echo, Text(text="refuse"))
    with pytest.raises(ZxStatus) as caught:
        client.call(Echo.echo, Text(text="wait"), deadline_ns=time.monotonic_ns() + 10_000_000)
    assert caught.value.status == Status.TIMED_OUT
    assert client.call(Echo.echo, Text(text="again")) == Text(text="again")
    client.call(Echo.note, Text(text="x"))
    with pytest.raises(fidl.EncodeError):
        client.call(Echo.echo, Text(text="\ud800"))
    thread_deadline = time.monotonic() + 10
    client.channel.write(b"")
    while not client.channel.pending & Signals.PEER_CLOSED:
        assert time.monotonic() < thread_deadline
    client.close()
    loops[0].call_soon_threadsafe(implementation.gate.set)  # the request whose time ran out is still worked on
    thread.join(10)
    assert not thread.is_alive()


@protocol("test.polynix.Closed", openness=Openness.CLOSED)
class FlexibleInClosed(FidlProtocol):
    @one_way()
    async def flexible(self) -> None:
        raise NotImplementedError


@protocol("test.polynix.Ajar", openness=Openness.AJAR)
class FlexibleInAjar(FidlProtocol):
    @two_way()
    async def flexible(self) -> None:
        raise NotImplementedError


@protocol("test.polynix.Twice", openness=Openness.OPEN)
class SameOrdinals(FidlProtocol):
    @one_way(name="Again")
    async def first(self) -> None:
        raise NotImplementedError

    @one_way(name="Again")
    async def second(self) -> None:
        raise NotImplementedError


@protocol("test.polynix.Wide", openness=Openness.OPEN)
class TwoPayloads(FidlProtocol):
    @one_way()
    async def both(self, one: Text, other: Text) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("declaration", [FlexibleInClosed, FlexibleInAjar, SameOrdinals, TwoPayloads])
def test_declarations_that_make_no_sense(declaration: type[FidlProtocol]) -> None:
    with pytest.raises(TypeError):
        declaration.__fidl_protocol__.by_ordinal  # noqa: B018


# -- the declared protocols ------------------------------------------------------------------------------------------------------


def test_all_declarations_make_sense() -> None:
    """They are looked at when they are first used; here is the first use of those that no test needs."""
    modules = [importlib.import_module(f"polynix.ipc.protocols.{module.name}") for module in pkgutil.iter_modules(protocols.__path__)]
    declared = {cls for module in modules for cls in vars(module).values() if isinstance(cls, type) and issubclass(cls, FidlProtocol)} - {FidlProtocol}
    assert {Manager, Pager, Controller} < declared
    for cls in declared:
        assert cls.__fidl_protocol__.by_ordinal


def test_ordinals_of_starnix_protocols() -> None:
    methods = [method for cls in (Manager, Pager, Controller) for method in cls.__fidl_protocol__.by_ordinal.values()]
    ordinals = {f"{method.protocol}.{method.name}": method.ordinal for method in methods}
    assert ordinals == {
        "Manager.SuspendContainer": 0x0928527927C9F2A7,
        "Manager.ProxyWakeChannel": 0x46A374AB73B23714,
        "Manager.AddWakeSource": 0x045E94269F9722AC,
        "Manager.RemoveWakeSource": 0x25D311F5E801501A,
        "Manager.RegisterWakeWatcher": 0x456D74519EB65B41,
        "Manager.CreatePager": 0x49D14958B736198B,
        "Pager.RegisterFile": 0x4F85A2CE6CAE4AED,
        "Pager.AddExtents": 0x1F71162A5110BB97,
        "Pager.PageIn": 0x15173A2D562381F0,
        "Controller.VsockConnect": 0x494A469A8943213B,
        "Controller.SpawnConsole": 0x76EB46FDC63AA8B8,
        "Controller.GetVmoReferences": 0x47A7F039BB97F173,
        "Controller.GetJobHandle": 0x60A31A248576FFEA,
        "Controller.SendSignal": 0x253B1A0D3B9639E3,
        "Controller.SetSyscallLogFilter": 0x2D2A49963ABDEE9B,
        "Controller.ClearSyscallLogFilters": 0x0D3EE36073FDFDF0,
    }


def test_manager_bytes() -> None:
    suspend = Manager.__fidl_protocol__.by_attribute["suspend_container"]
    job, (wake_locks, _peer) = Job.create(), EventPair.create()
    request = fmanager.ManagerSuspendContainerRequest(container_job=job, wake_locks=wake_locks, suspend_debounce_duration=5_000_000)
    data, handles = suspend.encode_request(1, request)
    assert data.hex() == ("0100000002008001a7f2c927795228090300000000000000ffffffffffffffffffffffff01000100ffffffff010001000800000000000000404b4c0000000000")
    assert handles == [job, wake_locks]
    data, _ = suspend.encode_error(1, fmanager.SuspendError.WAKE_LOCKS_EXIST)
    assert data.hex() == "0100000002008001a7f2c927795228090200000000000000" + "0100000000000100"
    watcher = Manager.__fidl_protocol__.by_attribute["register_wake_watcher"]
    assert watcher.encode_response(1, None)[0][16:].hex() == "0100000000000000" + "0000000000000100"


def test_manager_over_a_channel() -> None:
    class TestManager(Manager):
        async def suspend_container(self, request: fmanager.ManagerSuspendContainerRequest) -> fmanager.ManagerSuspendContainerResponse:
            assert request.wake_locks is not None
            if request.wake_locks.pending & Signals.EVENT_SIGNALED:
                raise MethodError(fmanager.SuspendError.WAKE_LOCKS_EXIST)
            return fmanager.ManagerSuspendContainerResponse(suspend_time=5, resume_reason="test")

        async def register_wake_watcher(self, request: fmanager.ManagerRegisterWakeWatcherRequest) -> None:
            assert request.watcher is not None
            request.watcher.signal_peer(fmanager.ASLEEP_SIGNAL, fmanager.AWAKE_SIGNAL)

    async def check() -> None:
        channel, server_channel = Channel.create()
        task = asyncio.create_task(Server(Manager, TestManager(), server_channel).serve())
        client = Client(Manager, channel)
        locks, peer = EventPair.create()
        request = fmanager.ManagerSuspendContainerRequest(container_job=Job.create(), wake_locks=peer)
        assert (await client.proxy.suspend_container(request)).resume_reason == "test"
        locks, peer = EventPair.create()
        locks.signal_peer(Signals.NONE, Signals.EVENT_SIGNALED)
        with pytest.raises(MethodError) as caught:
            await client.proxy.suspend_container(fmanager.ManagerSuspendContainerRequest(wake_locks=peer))
        assert caught.value.error is fmanager.SuspendError.WAKE_LOCKS_EXIST
        watched, watcher = EventPair.create()
        await client.proxy.register_wake_watcher(fmanager.ManagerRegisterWakeWatcherRequest(watcher=watcher))
        assert watched.pending & Signals.USER_0
        container, remote = Channel.create()
        await client.proxy.proxy_wake_channel(
            fmanager.ManagerProxyWakeChannelRequest(container_channel=container, remote_channel=remote, name="x", counter=Counter.create())
        )
        client.close()
        await task

    run(check())


def test_pager_and_controller_payloads() -> None:
    register = Pager.__fidl_protocol__.by_attribute["register_file"]
    request = PagerRegisterFileRequest(name="f", inode_num=7, size=1 << 40, extents=[PagerExtent(0, 4, 99), PagerExtent(6, 7, 5)])
    data, handles = register.encode_request(3, request)
    assert fidl.decode_body(register.request, data, handles) == request
    vmo = Vmo.create(1)
    assert register.decode_reply(*register.encode_response(3, PagerRegisterFileResponse(vmo=vmo))).vmo is vmo
    spawn = Controller.__fidl_protocol__.by_attribute["spawn_console"]
    console = fcontroller.ControllerSpawnConsoleRequest(
        binary_path="/bin/sh", argv=["sh", "-c", ""], environ=[], window_size=fcontroller.ConsoleWindowSize(24, 80, 0, 0)
    )
    assert fidl.decode_body(spawn.request, *spawn.encode_request(1, console)) == console
    reply, _ = spawn.encode_response(1, fcontroller.ControllerSpawnConsoleResponse(exit_code=3))
    assert reply[16:].hex() == "0100000000000000" + "0300000000000100"
    assert spawn.decode_reply(reply, []).exit_code == 3


# -- dumps -----------------------------------------------------------------------------------------------------------------------


def test_dump() -> None:
    suspend = Manager.__fidl_protocol__.by_attribute["suspend_container"]
    job = Job.create()
    request = suspend.encode_request(1, fmanager.ManagerSuspendContainerRequest(container_job=job, suspend_debounce_duration=5))
    text = describe_message([Manager], *request)
    assert text == f"Manager.SuspendContainer#1(ManagerSuspendContainerRequest(container_job=<Job {job.koid}>, suspend_debounce_duration=5))"
    assert job.is_valid
    reply = suspend.encode_error(1, fmanager.SuspendError.WAKE_LOCKS_EXIST)[0]
    assert describe_message([Manager], reply, reply=True) == "Manager.SuspendContainer#1 -> error WAKE_LOCKS_EXIST"
    reply = suspend.encode_response(1, fmanager.ManagerSuspendContainerResponse(resume_reason="x"))[0]
    assert describe_message([Manager], reply, reply=True) == ("Manager.SuspendContainer#1 -> ManagerSuspendContainerResponse(resume_reason='x')")
    assert describe_message([Manager], fidl.encode_epitaph(-24)) == "epitaph PEER_CLOSED"
    assert "unknown flexible method 0x63#0" in describe_message([Manager], fidl.MessageHeader(0, 99, True).encode())
    assert describe_message([Manager], request[0][:-8], [job]).startswith("malformed message of 56 bytes, 1 handles")
    assert job.is_valid
    assert "malformed" in describe_message([Manager], b"x", reply=True)
