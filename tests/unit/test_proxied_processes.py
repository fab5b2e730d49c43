"""Proxies between real processes: peer, runner, container."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from polynix.ipc.channel import MESSAGE_COST, WINDOW
from polynix.ipc.objects import Channel, Counter, Event, Signals
from polynix.runner.async_channel import Receiver, Sender, unbounded
from polynix.runner.proxy import ChannelProxy, NewProxy, run_proxy_thread
from polynix.runner.wake_sources import WakeSource, new_wake_sources
from realm import Realm, soon


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    realm = Realm(tmp_path)
    yield realm
    realm.close()
    assert os.listdir(tmp_path) == []


@pytest.fixture
def proxies() -> Iterator[Sender[NewProxy]]:
    pair: tuple[Sender[NewProxy], Receiver[NewProxy]] = unbounded()
    thread = run_proxy_thread(pair[1])
    yield pair[0]
    pair[0].close()
    thread.join(20)
    assert not thread.is_alive()


class Proxied:
    """A proxy, the ends that processes are given, and its counter."""

    def __init__(self, proxies: Sender[NewProxy]) -> None:
        self.container, container_channel = Channel.create()
        self.remote, remote_channel = Channel.create()
        counter = Counter.create()
        self.counter = counter.duplicate()
        self.wake_sources = new_wake_sources()
        with self.wake_sources.lock() as sources:
            sources[counter.koid] = WakeSource.from_counter(counter.duplicate(), "test")
        proxies.send((ChannelProxy(container_channel, remote_channel, counter, "test"), self.wake_sources))

    def wait_until_removed(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            with self.wake_sources.lock() as sources:
                if not sources:
                    return
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_ten_thousand_messages_and_an_exit(realm: Realm, proxies: Sender[NewProxy]) -> None:
    proxied = Proxied(proxies)
    _, container_root = realm.start("count")
    _, peer_root = realm.start("write_ten_thousand")
    container_root.write(b"", [proxied.container])
    peer_root.write(b"", [proxied.remote])
    assert container_root.read_blocking(soon())[0] == b"some"
    assert container_root.read_blocking(soon())[0] == b"10000"
    assert proxied.counter.read() == 10_000
    proxied.wait_until_removed()


def test_a_peer_killed_in_mid_stream(realm: Realm, proxies: Sender[NewProxy]) -> None:
    proxied = Proxied(proxies)
    _, container_root = realm.start("count")
    peer, peer_root = realm.start("burst")
    container_root.write(b"", [proxied.container])
    peer_root.write(b"", [proxied.remote])
    assert container_root.read_blocking(soon())[0] == b"some"
    peer.kill()
    count = int(container_root.read_blocking(soon())[0])
    assert count >= 100
    assert proxied.counter.read() == count
    proxied.wait_until_removed()


def test_a_container_killed_in_mid_stream(realm: Realm, proxies: Sender[NewProxy]) -> None:
    proxied = Proxied(proxies)
    container, container_root = realm.start("count")
    peer, peer_root = realm.start("burst")
    container_root.write(b"", [proxied.container])
    peer_root.write(b"", [proxied.remote])
    assert container_root.read_blocking(soon())[0] == b"some"
    container.kill()
    assert peer.wait(20) == 1  # PEER_CLOSED
    proxied.wait_until_removed()


def test_sizes_and_handles(realm: Realm, proxies: Sender[NewProxy]) -> None:
    proxied = Proxied(proxies)
    _, root = realm.start("pass_through")
    root.write(b"", [proxied.container])
    for size in (0, 1, 65536):
        proxied.remote.write(bytes(size))
        assert proxied.remote.read_blocking(soon())[0] == bytes(size)
    events = [Event.create() for _ in range(64)]
    koids = [event.koid for event in events]
    proxied.remote.write(b"", events)
    assert [handle.koid for handle in proxied.remote.read_blocking(soon())[1]] == koids
    assert proxied.counter.read() == 4


def test_a_container_that_never_reads(realm: Realm, proxies: Sender[NewProxy]) -> None:
    """Its peer has to wait, and what the runner keeps has a limit."""
    proxied = Proxied(proxies)
    _, container_root = realm.start("hold")
    assert container_root.read_blocking(soon())[0] == b"ready"
    container_root.write(b"", [proxied.container])
    _, peer_root = realm.start("fill_as_it_may")
    peer_root.write(b"", [proxied.remote])
    count = 0
    while proxied.counter.read() != count or not count:
        count = proxied.counter.read()
        time.sleep(0.3)
    assert WINDOW <= count * (1000 + MESSAGE_COST) < WINDOW + (1 << 20)
    assert not peer_root.pending & Signals.PEER_CLOSED
