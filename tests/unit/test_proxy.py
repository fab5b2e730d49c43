"""ChannelProxy: Starnix's four tests, and what it promises under load."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
from deadline import soon
from harness import environment
from polynix.ipc.objects import Channel, Counter, Event, EventPair, Signals, Status, ZxStatus
from polynix.runner import trace
from polynix.runner.async_channel import ChannelClosed, Sender, unbounded
from polynix.runner.lockdep import LockDepMutex, LockLevel, LockOrderError
from polynix.runner.proxy import ChannelProxy, NewProxy, run_proxy_thread, start_proxy
from polynix.runner.wake_sources import new_wake_sources
from proxied import Proxied


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 20))


def run_proxy_for_test(proxy: ChannelProxy) -> asyncio.Task[None]:
    return asyncio.create_task(start_proxy(proxy, new_wake_sources()))


# -- Starnix's tests --------------------------------------------------------------------------------------------------------------


def test_peer_closed_kernel() -> None:
    async def check() -> None:
        local_client, local_server = Channel.create()
        remote_client, remote_server = Channel.create()
        task = run_proxy_for_test(ChannelProxy(local_server, remote_client, Counter.create(), "test"))
        local_client.close()
        await remote_server.on_signals(Signals.CHANNEL_PEER_CLOSED)
        await task

    run(check())


def test_peer_closed_remote() -> None:
    async def check() -> None:
        local_client, local_server = Channel.create()
        remote_client, remote_server = Channel.create()
        task = run_proxy_for_test(ChannelProxy(local_server, remote_client, Counter.create(), "test"))
        remote_server.close()
        await local_client.on_signals(Signals.CHANNEL_PEER_CLOSED)
        await task

    run(check())


def test_counter_sequential() -> None:
    async def check() -> None:
        _local_client, local_server = Channel.create()
        remote_client, remote_server = Channel.create()
        message_counter = Counter.create()
        local_message_counter = message_counter.duplicate()
        _task = run_proxy_for_test(ChannelProxy(local_server, remote_client, message_counter, "test"))
        await local_message_counter.on_signals(Signals.COUNTER_NON_POSITIVE)
        remote_server.write(bytes([0, 1, 2]))
        await local_message_counter.on_signals(Signals.COUNTER_POSITIVE)
        local_message_counter.add(-1)  # as if it were read
        await local_message_counter.on_signals(Signals.COUNTER_NON_POSITIVE)
        remote_server.write(bytes([0, 1, 2]))
        await local_message_counter.on_signals(Signals.COUNTER_POSITIVE)

    run(check())


def test_counter_multiple() -> None:
    async def check() -> None:
        local_client, local_server = Channel.create()
        remote_client, remote_server = Channel.create()
        message_counter = Counter.create()
        local_message_counter = message_counter.duplicate()
        _task = run_proxy_for_test(ChannelProxy(local_server, remote_client, message_counter, "test"))
        for _ in range(3):
            remote_server.write(bytes([0, 1, 2]))
        await local_message_counter.on_signals(Signals.COUNTER_POSITIVE)
        for _ in range(3):
            await local_client.read_async()
        assert local_message_counter.read() == 3

    run(check())


# -- the thread ------------------------------------------------------------------------------------------------------------------


def test_the_counter_rises_before_the_message_comes(proxies: Sender[NewProxy]) -> None:
    proxied = Proxied(proxies)
    counts: list[int] = []
    proxied.container.wait_async(Signals.READABLE, lambda *_: counts.append(proxied.counter.read()))
    proxied.start()
    proxied.remote.write(b"in")
    assert proxied.container.read_blocking(soon())[0] == b"in"
    assert counts == [1]
    proxied.container.write(b"out")
    assert proxied.remote.read_blocking(soon())[0] == b"out"
    assert proxied.counter.read() == 1


def test_the_wake_source_goes_with_the_proxy(proxies: Sender[NewProxy]) -> None:
    proxied = Proxied(proxies)
    proxied.start()
    proxied.remote.close()
    proxied.container.wait(Signals.PEER_CLOSED, soon())
    with proxied.wake_sources.lock() as sources:
        assert sources == {}


def test_ten_thousand_queued_messages_then_a_close(proxies: Sender[NewProxy]) -> None:
    proxied = Proxied(proxies)
    for number in range(10_000):
        proxied.remote.write(number.to_bytes(4, "little"))
    proxied.remote.close()
    proxied.start()
    for number in range(10_000):
        assert proxied.container.read_blocking(soon())[0] == number.to_bytes(4, "little")
    with pytest.raises(ZxStatus) as caught:
        proxied.container.read_blocking(soon())
    assert caught.value.status == Status.PEER_CLOSED
    assert proxied.counter.read() == 10_000


def test_the_last_words_of_a_closed_side_survive_a_failing_write(proxies: Sender[NewProxy]) -> None:
    proxied = Proxied(proxies)
    for number in range(500):
        proxied.container.write(number.to_bytes(2, "little"))
        proxied.remote.write(b"never read")
    proxied.container.close()
    proxied.start()
    for number in range(500):
        assert proxied.remote.read_blocking(soon())[0] == number.to_bytes(2, "little")
    proxied.remote.wait(Signals.PEER_CLOSED, soon())


def test_sizes_and_handles(proxies: Sender[NewProxy]) -> None:
    proxied = Proxied(proxies)
    proxied.start()
    for size in (0, 1, 65_536):
        proxied.remote.write(bytes(size))
        assert proxied.container.read_blocking(soon()) == (bytes(size), [])
    events = [Event.create() for _ in range(64)]
    koids = [event.koid for event in events]
    proxied.remote.write(b"handles", events)
    data, handles = proxied.container.read_blocking(soon())
    assert data == b"handles"
    assert [handle.koid for handle in handles] == koids


def test_handles_close_when_they_cannot_be_forwarded(proxies: Sender[NewProxy]) -> None:
    proxied = Proxied(proxies)
    kept, sent = EventPair.create()
    proxied.remote.write(b"", [sent])
    proxied.container.close()
    proxied.start()
    kept.wait(Signals.PEER_CLOSED, soon())


def test_five_hundred_proxies(proxies: Sender[NewProxy]) -> None:
    several = [Proxied(proxies, f"proxy {number}") for number in range(500)]
    for proxied in several:
        proxied.start()
    for number, proxied in enumerate(several):
        proxied.remote.write(str(number).encode())
    for number, proxied in enumerate(several):
        assert proxied.container.read_blocking(soon())[0] == str(number).encode()
    for proxied in several[:250]:
        proxied.container.close()
    for proxied in several[:250]:
        proxied.remote.wait(Signals.PEER_CLOSED, soon())
    several[499].remote.write(b"still here")
    assert several[499].container.read_blocking(soon())[0] == b"still here"


def test_the_end_of_the_thread_closes_its_proxies() -> None:
    sending, receiving = unbounded()
    thread = run_proxy_thread(receiving)
    proxied = Proxied(sending)
    proxied.start()
    proxied.remote.write(b"through")
    proxied.container.read_blocking(soon())
    sending.close()
    thread.join(20)
    assert proxied.remote.pending & Signals.PEER_CLOSED
    assert proxied.container.pending & Signals.PEER_CLOSED
    with pytest.raises(ChannelClosed):
        proxied.start()


def test_trace(proxies: Sender[NewProxy]) -> None:
    events: list[trace.TraceEvent] = []
    trace.set_listener(events.append)
    try:
        proxied = Proxied(proxies, "traced")
        proxied.start()
        proxied.remote.write(b"x")
        proxied.container.read_blocking(soon())
        proxied.remote.close()
        proxied.container.wait(Signals.PEER_CLOSED, soon())
    finally:
        trace.set_listener(None)
    names = [event.event.removeprefix("starnix_runner:") for event in events if event.name == "traced"]
    assert names[0] == "start_proxy:loop:enter"
    assert names[-1] == "start_proxy:loop:exit"
    for name in ("start_proxy:wait_for_messages", "start_proxy:remote_readable", "forward_message", "forward_message:counter_incremented"):
        assert name in names
    assert all(event.category == "power" for event in events)


# -- locks -----------------------------------------------------------------------------------------------------------------------


def test_lock_order() -> None:
    kernels = LockDepMutex(1, "kernels", LockLevel.KERNELS)
    leaf = LockDepMutex(2, "leaf")
    with kernels.lock() as first, leaf.lock() as second:
        assert (first, second) == (1, 2)
    with leaf.lock(), pytest.raises(LockOrderError), kernels.lock():
        pass
    with leaf.lock(), pytest.raises(LockOrderError), leaf.lock():
        pass
    with leaf.lock():  # each thread has an order of its own
        thread = threading.Thread(target=lambda: kernels.lock().__enter__())
        thread.start()
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("variables", [{}, dict(os.environ), environment("/")], ids=["users", "inherited", "harness"])
def test_lock_order_is_checked_in_the_processes_of_tests(variables: dict[str, str]) -> None:
    code = "from polynix.runner import lockdep; print(lockdep.CHECKED)"
    done = subprocess.run([sys.executable, "-P", "-c", code], env=variables, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{bool(variables)}\n"
