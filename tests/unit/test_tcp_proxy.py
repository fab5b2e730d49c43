"""TcpProxy over real TCP and a real proxy thread; the container's end of the channels is played here."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from typing import Any

import pytest
from polynix.ipc.objects import Channel, Counter, Rights, Signals, ZxStatus
from polynix.ipc.protocols.connections import ConnectionsConnectRequest, ProxyTarget, TcpAddress
from polynix.runner.async_channel import unbounded
from polynix.runner.parameters import ParameterError, proxy_target, tcp_address, tcp_url
from polynix.runner.proxy import PROXY_THREAD_NAME, ChannelProxy, NewProxy, run_proxy_thread
from polynix.runner.tcp_proxy import TcpProxy
from polynix.runner.wake_sources import WakeSource, new_wake_sources

TARGET = ProxyTarget(unix_path=b"/run/server")


class Container:
    """A TcpProxy with its proxy thread, and the connections that reach the container."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[ConnectionsConnectRequest] = asyncio.Queue()
        self.wake_sources = new_wake_sources()
        self._proxies, receiver = unbounded()
        self._thread = run_proxy_thread(receiver)
        self.proxy = TcpProxy(TARGET, self._start_proxy, self._connected)

    def _start_proxy(self, proxy: ChannelProxy) -> None:
        counter = proxy.message_counter.duplicate()
        with self.wake_sources.lock() as sources:
            sources[counter.koid] = WakeSource.from_counter(counter, proxy.name)
        new: NewProxy = proxy, self.wake_sources
        self._proxies.send(new)

    def _connected(self, request: ConnectionsConnectRequest) -> None:
        assert request.channel is not None and request.counter is not None
        request.channel = request.channel.replace(Rights.SAME_RIGHTS)  # they move, as in a message
        request.counter = request.counter.replace(Rights.SAME_RIGHTS)
        self.connections.put_nowait(request)

    async def connect(self) -> tuple[socket.socket, Channel, Counter]:
        """An outside peer, and what the container got of it."""
        peer = socket.create_connection((self.proxy.address.host, self.proxy.address.port))
        peer.setblocking(False)
        request = await self.connections.get()
        assert request.target == TARGET and request.channel is not None and request.counter is not None
        return peer, request.channel, request.counter

    async def close(self) -> None:
        await self.proxy.close()
        self._proxies.close()
        self._thread.join()
        with self.wake_sources.lock() as sources:
            assert not sources


def run(check: Any) -> None:
    async def whole() -> None:
        container = Container()
        await container.proxy.listen(TcpAddress("127.0.0.1", 0))
        try:
            await check(container)
        finally:
            await container.close()

    asyncio.run(asyncio.wait_for(whole(), 60))
    assert PROXY_THREAD_NAME not in {thread.name for thread in threading.enumerate()}


async def receive(peer: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count and (piece := await loop.sock_recv(peer, 1 << 16)):
        data += piece
    return data


async def send(peer: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(peer, data)


def test_bytes_go_both_ways_and_messages_in_are_counted() -> None:
    async def check(container: Container) -> None:
        peer, channel, counter = await container.connect()
        await counter.on_signals(Signals.COUNTER_NON_POSITIVE)
        await send(peer, b"hello")
        assert (await channel.read_async())[0] == b"hello"
        with container.wake_sources.lock() as sources:
            assert counter.read() == 1 and len(sources) == 1
        counter.add(-1)
        channel.write(b"world")
        assert await receive(peer, 5) == b"world"
        assert counter.read() == 0
        peer.shutdown(socket.SHUT_WR)
        assert (await channel.read_async())[0] == b""
        channel.write(b"still there")
        assert await receive(peer, 11) == b"still there"
        channel.write(b"")
        assert await receive(peer, 1) == b""
        channel.close()

    run(check)


def test_much_both_ways_at_once() -> None:
    inward, outward = os.urandom(6 << 20), os.urandom(5 << 20)

    async def check(container: Container) -> None:
        peer, channel, counter = await container.connect()

        async def send_inward() -> None:
            await send(peer, inward)
            peer.shutdown(socket.SHUT_WR)

        async def take() -> bytes:
            data = b""
            while piece := (await channel.read_async())[0]:
                assert len(piece) <= 65536
                counter.add(-1)
                data += piece
            return data

        async def give() -> None:
            for start in range(0, len(outward), 50_000):
                await channel.write_async(outward[start : start + 50_000])
            await channel.write_async(b"")

        _, taken, _, received = await asyncio.gather(send_inward(), take(), give(), receive(peer, len(outward) + 1))
        assert taken == inward and received == outward

    run(check)


def test_a_container_that_does_not_read_stops_the_peer() -> None:
    async def check(container: Container) -> None:
        peer, channel, _counter = await container.connect()
        sent = 0
        data = os.urandom(1 << 20)

        async def flood() -> None:
            nonlocal sent
            while True:
                await send(peer, data)
                sent += len(data)

        task = asyncio.create_task(flood())
        done, _ = await asyncio.wait([task], timeout=1.0)
        assert not done and sent < 64 << 20
        before = sent
        received = 0
        while received < before:
            received += len((await channel.read_async())[0])
        task.cancel()

    run(check)


def test_a_reset_of_the_peer_closes_the_channel() -> None:
    async def check(container: Container) -> None:
        peer, channel, _ = await container.connect()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        with pytest.raises(ZxStatus):
            await channel.read_async()

    run(check)


def test_a_container_that_fails_resets_the_peer() -> None:
    async def check(container: Container) -> None:
        peer, channel, _ = await container.connect()
        channel.close()  # nobody listens, say
        with pytest.raises(ConnectionResetError):
            await receive(peer, 1)

    run(check)


def test_closing_ends_connections_and_listens_no_more() -> None:
    async def check(container: Container) -> None:
        peers = [await container.connect() for _ in range(10)]
        await container.proxy.close()
        for peer, channel, _ in peers:
            with pytest.raises(ConnectionResetError):
                await receive(peer, 1)
            with pytest.raises(ZxStatus):
                await channel.read_async()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((container.proxy.address.host, container.proxy.address.port))

    run(check)


BAD_TARGETS = ("unix:relative", "unix:", "unix:@", "port:", "port:0", "port:-1", "port:4294967295", "port:x", "", "tcp:80", "unix:/" + "x" * 120)
BAD_ADDRESSES = ("127.0.0.1:80", "tcp://:80", "tcp://host:80", "tcp://1.2.3.4", "tcp://1.2.3.4:", "tcp://1.2.3.4:65536", "udp://1.2.3.4:5", "")


@pytest.mark.parametrize("text", BAD_TARGETS)
def test_bad_targets(text: str) -> None:
    with pytest.raises(ParameterError) as error:
        proxy_target(text)
    assert "\n" not in str(error.value)


def test_good_addresses() -> None:
    assert proxy_target("unix:/run/x y") == ProxyTarget(unix_path=b"/run/x y")
    assert proxy_target("unix:@abstract") == ProxyTarget(unix_path=b"@abstract")
    assert proxy_target("port:5000") == ProxyTarget(port=5000)
    assert tcp_address("tcp://127.0.0.1:80") == TcpAddress("127.0.0.1", 80)
    assert tcp_address("tcp://localhost:0") == TcpAddress("127.0.0.1", 0)
    assert tcp_address("tcp://[::1]:8080") == TcpAddress("::1", 8080)
    for text in ("tcp://[::1]:8080", "tcp://127.0.0.1:80"):
        assert tcp_url(tcp_address(text)) == text


@pytest.mark.parametrize("text", BAD_ADDRESSES)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ParameterError):
        tcp_address(text)
