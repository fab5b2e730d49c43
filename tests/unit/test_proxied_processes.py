"""Proxies between real processes: peer, runner, container."""

from __future__ import annotations

import time
from subprocess import Popen

from deadline import soon
from polynix.ipc.channel import MESSAGE_COST, WINDOW
from polynix.ipc.objects import Channel, Event, Signals
from polynix.runner.async_channel import Sender
from polynix.runner.proxy import NewProxy
from proxied import Proxied
from realm import Realm


def start_stream(realm: Realm, proxies: Sender[NewProxy], writer: str) -> tuple[Proxied, Popen[bytes], Channel, Popen[bytes]]:
    """A container that counts what a peer, doing ``writer``, sends it through a proxy, when it has a hundred: (proxy, container, its first channel, peer)."""
    proxied = Proxied(proxies)
    proxied.start()
    container, container_root = realm.start("count")
    peer, peer_root = realm.start(writer)
    container_root.write(b"", [proxied.container])
    peer_root.write(b"", [proxied.remote])
    assert container_root.read_blocking(soon())[0] == b"some"
    return proxied, container, container_root, peer


def test_ten_thousand_messages_and_an_exit(realm: Realm, proxies: Sender[NewProxy]) -> None:
    proxied, _, container_root, _ = start_stream(realm, proxies, "write_ten_thousand")
    assert container_root.read_blocking(soon())[0] == b"10000"
    assert proxied.counter.read() == 10_000
    proxied.wait_until_removed()


def test_a_peer_killed_in_mid_stream(realm: Realm, proxies: Sender[NewProxy]) -> None:
    proxied, _, container_root, peer = start_stream(realm, proxies, "burst")
    peer.kill()
    count = int(container_root.read_blocking(soon())[0])
    assert count >= 100
    assert proxied.counter.read() == count
    proxied.wait_until_removed()


def test_a_container_killed_in_mid_stream(realm: Realm, proxies: Sender[NewProxy]) -> None:
    proxied, container, _, peer = start_stream(realm, proxies, "burst")
    container.kill()
    assert peer.wait(20) == 1  # PEER_CLOSED
    proxied.wait_until_removed()


def test_sizes_and_handles(realm: Realm, proxies: Sender[NewProxy]) -> None:
    proxied = Proxied(proxies)
    proxied.start()
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
    proxied.start()
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
