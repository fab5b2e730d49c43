"""Protocols in the kernel's own loop: servers, clients, the outgoing directory, and what ends them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from event_world import Running, new_kernel
from polynix.ipc import fidl
from polynix.ipc.bindings import FidlProtocol, MethodError, UnknownMethodError, event, one_way, protocol, two_way
from polynix.ipc.client import BlockingClient
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.objects import Channel, Signals, Status, ZxStatus
from polynix.ipc.protocols.component import Directory, DirectoryOpenRequest
from polynix.ipc.server import MAX_REQUESTS
from polynix.kernelproc.engine import Engine
from polynix.kernelproc.fidl_loop import EngineClient, EngineServer
from polynix.kernelproc.outgoing_directory import OutgoingDirectory
from polynix.kernelproc.wait_queue import WaitQueue


@fidl.table
@dataclass(kw_only=True)
class Number:
    value: int | None = fidl.member(1, fidl.INT64)


@protocol("test.polynix.Sum")
class Sum(FidlProtocol):
    @two_way(error=fidl.INT32)
    async def add(self, request: Number) -> Number:
        raise NotImplementedError

    @two_way()
    async def wait(self, request: Number) -> Number:
        raise NotImplementedError

    @one_way()
    async def note(self, request: Number) -> None:
        raise NotImplementedError

    @two_way()
    async def missing(self) -> None:
        raise NotImplementedError

    @event()
    async def on_number(self, payload: Number) -> None:
        raise NotImplementedError


class SumServer(Sum):
    def __init__(self) -> None:
        self.total = 0
        self.order: list[int] = []
        self.gate = WaitQueue()
        self.waiting = 0

    async def add(self, request: Number) -> Number:
        if request.value is None:
            raise MethodError(22)
        self.order.append(request.value)
        self.total += request.value
        return Number(value=self.total)

    async def wait(self, request: Number) -> Number:
        self.waiting += 1
        await self.gate.wait(interruptible=False)
        self.waiting -= 1
        return request

    async def note(self, request: Number) -> None:
        assert request.value is not None
        self.order.append(request.value)


class World:
    """A server in the engine, which this thread turns, and its channel's other end."""

    def __init__(self, *, bounded: bool = False) -> None:
        self.kernel = new_kernel()
        self.engine = self.kernel.engine
        Engine.running = self.engine
        self.closed = 0
        self.implementation = SumServer()
        self.channel, server_channel = Channel.create(bounded=bounded)
        self.server = EngineServer(self.engine, Sum, self.implementation, server_channel, self._closed)

    def _closed(self) -> None:
        self.closed += 1

    def turn_until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            self.engine.call_from_thread(time.sleep, 0.001)  # a turn that always ends, which a timer that expires before the wait does not ensure
            self.engine.turn()

    def run(self, function: Callable[[BlockingClient[Sum]], Any]) -> Any:
        """Call from another thread, while this one turns the engine."""
        client = BlockingClient(Sum, self.channel)
        outcome: list[Any] = []

        def work() -> None:
            try:
                outcome.append(function(client))
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        self.turn_until(lambda: outcome)
        thread.join()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]


def test_calls_and_errors() -> None:
    world = World()
    assert world.run(lambda client: client.call(Sum.add, Number(value=5))) == Number(value=5)
    assert world.run(lambda client: client.call(Sum.add, Number(value=-7))) == Number(value=-2)
    with pytest.raises(MethodError) as caught:
        world.run(lambda client: client.call(Sum.add, Number()))
    assert caught.value.error == 22
    with pytest.raises(UnknownMethodError):
        world.run(lambda client: client.call(Sum.missing))
    assert world.closed == 0
    world.channel.close()
    world.turn_until(lambda: world.closed)
    assert world.closed == 1 and not world.server.channel.is_valid


def test_requests_start_in_order_and_waiting_ones_hold_up_none() -> None:
    world = World()
    wait, add, note = (Sum.__fidl_protocol__.by_attribute[name] for name in ("wait", "add", "note"))
    world.channel.write(*wait.encode_request(1, Number(value=1)))
    for value in range(200):
        method = add if value % 2 else note
        world.channel.write(*method.encode_request(value + 2 if value % 2 else 0, Number(value=value)))
    world.turn_until(lambda: len(world.implementation.order) == 200)
    assert world.implementation.order == list(range(200))
    assert world.implementation.waiting == 1
    world.implementation.gate.notify()
    world.turn_until(lambda: not world.implementation.waiting)
    replies = []
    while world.channel.pending & Signals.CHANNEL_READABLE:
        replies.append(fidl.MessageHeader.decode(world.channel.read()[0]).txid)
    assert replies[-1] == 1 and sorted(replies[:-1]) == list(range(3, 202, 2))
    world.channel.close()
    world.turn_until(lambda: world.closed)


def test_requests_that_wait_are_bounded() -> None:
    world = World()
    wait = Sum.__fidl_protocol__.by_attribute["wait"]
    for txid in range(1, 2 * MAX_REQUESTS + 1):
        world.channel.write(*wait.encode_request(txid, Number(value=txid)))
    world.turn_until(lambda: world.implementation.waiting == MAX_REQUESTS)
    for _ in range(20):
        world.engine.call_from_thread(time.sleep, 0.001)
        world.engine.turn()
    assert world.implementation.waiting == MAX_REQUESTS
    answered = 0

    def all_answered() -> bool:
        nonlocal answered
        world.implementation.gate.notify()
        while world.channel.pending & Signals.CHANNEL_READABLE:
            world.channel.read()
            answered += 1
        return answered == 2 * MAX_REQUESTS

    world.turn_until(all_answered)
    world.channel.close()
    world.turn_until(lambda: world.closed)


UNKNOWN = fidl.MessageHeader(7, 0x1234_5678, flexible=True).encode()


@pytest.mark.parametrize("request_", [Sum.__fidl_protocol__.by_attribute["add"].encode_request(7, Number(value=1))[0], UNKNOWN], ids=["known", "unknown"])
def test_a_reply_waits_for_a_client_that_is_behind(request_: bytes) -> None:
    world = World(bounded=True)
    events = 0
    with pytest.raises(ZxStatus) as caught:
        while True:
            world.server.send_event(Sum.on_number, Number(value=events))
            events += 1
    assert caught.value.status == Status.SHOULD_WAIT
    world.channel.write(request_)
    for _ in range(20):
        world.engine.call_from_thread(time.sleep, 0.001)
        world.engine.turn()
    assert world.server.channel.is_valid
    for _ in range(events):
        assert fidl.MessageHeader.decode(world.channel.read()[0]).txid == 0
    world.turn_until(lambda: world.channel.pending & Signals.CHANNEL_READABLE)
    assert fidl.MessageHeader.decode(world.channel.read()[0]).txid == 7
    world.channel.close()
    world.turn_until(lambda: world.closed)


def test_a_reply_that_waits_ends_with_its_channel() -> None:
    world = World(bounded=True)
    with pytest.raises(ZxStatus):
        while True:
            world.server.send_event(Sum.on_number, Number(value=0))
    world.channel.write(UNKNOWN)
    for _ in range(20):
        world.engine.call_from_thread(time.sleep, 0.001)
        world.engine.turn()
    world.server.close()
    world.turn_until(lambda: world.closed)
    world.channel.close()


@pytest.mark.parametrize("data", [b"", b"x" * 15, bytes(16), b"\1\0\0\0\2\0\0\1" + b"\xff" * 8, b"\1\0\0\0\2\0\0\1" + bytes(7) + b"\1"])
def test_a_hostile_message_closes_its_own_channel(data: bytes) -> None:
    world, other = World(), World()
    world.channel.write(data)
    world.turn_until(lambda: world.closed)
    assert other.run(lambda client: client.call(Sum.add, Number(value=1))) == Number(value=1)
    epitaph, _ = world.channel.read()
    assert fidl.MessageHeader.decode(epitaph).ordinal == fidl.EPITAPH_ORDINAL
    with pytest.raises(ZxStatus) as caught:
        world.channel.read()
    assert caught.value.status == Status.PEER_CLOSED
    other.channel.close()
    other.turn_until(lambda: other.closed)


def test_a_client_in_the_engine() -> None:
    world = World()
    events: list[Any] = []
    client = EngineClient(world.engine, Sum, world.channel, lambda method, payload: events.append((method.name, payload)))
    call = Running(world.kernel, client.call(Sum.add, Number(value=3)))
    slow = Running(world.kernel, client.call(Sum.wait, Number(value=9)))
    world.turn_until(lambda: call.done and world.implementation.waiting)
    assert call.value == Number(value=3)
    world.server.send_event(Sum.on_number, Number(value=4))
    client.send(Sum.note, Number(value=6))
    world.turn_until(lambda: events and 6 in world.implementation.order)
    assert events == [("OnNumber", Number(value=4))]
    bad = Running(world.kernel, client.call(Sum.add, Number()))
    world.turn_until(lambda: bad.done)
    assert isinstance(bad.error, MethodError)
    world.server.close(Status.UNAVAILABLE)
    world.turn_until(lambda: slow.done)
    assert isinstance(slow.error, ZxStatus) and slow.error.status == Status.UNAVAILABLE
    late = Running(world.kernel, client.call(Sum.add, Number(value=1)))
    assert isinstance(late.error, ZxStatus)


def test_the_outgoing_directory_opens_protocols_by_name() -> None:
    world = World()
    directory = OutgoingDirectory()
    directory.add("test.polynix.Sum", lambda channel: EngineServer(world.engine, Sum, world.implementation, channel))
    root, theirs = Channel.create()
    directory.serve(theirs)
    client = EngineClient(world.engine, Directory, root)
    ends = {}
    for name in ("test.polynix.Sum", "test.polynix.Nothing"):
        ends[name], far = Channel.create()
        client.send(Directory.open, DirectoryOpenRequest(name=name, channel=far))
    client.send(Directory.open, DirectoryOpenRequest(name="test.polynix.Sum"))  # incomplete: ignored
    found = Running(world.kernel, EngineClient(world.engine, Sum, ends["test.polynix.Sum"]).call(Sum.add, Number(value=8)))
    absent = Running(world.kernel, EngineClient(world.engine, Sum, ends["test.polynix.Nothing"]).call(Sum.add, Number(value=8)))
    world.turn_until(lambda: found.done and absent.done)
    assert found.value == Number(value=8)
    assert isinstance(absent.error, ZxStatus) and absent.error.status == Status.NOT_FOUND
