"""Connections from outside into containers: Container.proxy over TCP, and VsockConnect, to real servers inside."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

import polynix

SERVER = """
import os, socket, sys, threading
kind, where = sys.argv[1:]
if kind == "unix":
    listener = socket.socket(socket.AF_UNIX); listener.bind(where)
else:
    listener = socket.socket(socket.AF_VSOCK); listener.bind((socket.VMADDR_CID_ANY, int(where)))
listener.listen(20)
print("ready", flush=True)
def echo(connection):
    with connection:
        total = 0
        while data := connection.recv(65536):
            total += len(data)
            connection.sendall(data)
        connection.sendall(b"%d" % total)
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture(scope="module")
def container() -> Iterator[polynix.Container]:
    with polynix.Container() as container:
        for kind, where in (("unix", "/tmp/server"), ("vsock", "5000")):
            server = container.spawn(["python3", "-c", SERVER, kind, where], stdout=polynix.PIPE)
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        yield container


def connect(address: str) -> socket.socket:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    peer = socket.create_connection((host, int(port)), timeout=60)
    return peer


def read_to_end(peer: socket.socket) -> bytes:
    return b"".join(iter(lambda: peer.recv(1 << 16), b""))


def exchange(peer: socket.socket, data: bytes) -> bytes:
    """Send all, half-close, and read to the end."""
    thread = threading.Thread(target=lambda: (peer.sendall(data), peer.shutdown(socket.SHUT_WR)))
    thread.start()
    with peer:
        answer = read_to_end(peer)
    thread.join()
    return answer


@pytest.mark.parametrize("target", ["unix:/tmp/server", "port:5000"])
def test_tcp_peers_reach_a_server_inside(container: polynix.Container, target: str) -> None:
    address = container.proxy("tcp://127.0.0.1:0", to=target)
    assert exchange(connect(address), b"hello") == b"hello5"
    data = os.urandom(5 << 20)
    assert exchange(connect(address), data) == data + b"%d" % len(data)


def test_many_peers_at_once(container: polynix.Container) -> None:
    address = container.proxy("tcp://localhost:0", to="unix:/tmp/server")
    peers = [connect(address) for _ in range(20)]
    for number, peer in enumerate(peers):
        peer.sendall(b"%02d" % number)
    for number, peer in enumerate(peers):
        assert peer.recv(2) == b"%02d" % number
    for peer in peers:
        assert exchange(peer, b"") == b"2"


def test_nobody_listens_inside(container: polynix.Container) -> None:
    for target in ("unix:/tmp/nobody", "unix:@nobody", "port:5999"):
        address = container.proxy("tcp://127.0.0.1:0", to=target)
        with pytest.raises(ConnectionResetError), connect(address) as peer:  # the reset may come before connect(2) returns
            peer.recv(1)


def test_a_peer_that_resets_leaves_the_others_alone(container: polynix.Container) -> None:
    address = container.proxy("tcp://127.0.0.1:0", to="unix:/tmp/server")
    kept = connect(address)
    for _ in range(5):
        peer = connect(address)
        peer.sendall(b"x" * 100_000)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
    assert exchange(kept, b"still") == b"still5"


def test_an_address_that_is_taken(container: polynix.Container) -> None:
    address = container.proxy("tcp://127.0.0.1:0", to="port:5000")
    with pytest.raises(OSError) as error:
        container.proxy(address, to="port:5000")
    assert error.value.errno == 98
    with pytest.raises(ValueError):
        container.proxy("tcp://nowhere:80", to="port:5000")
    assert exchange(connect(address), b"on") == b"on2"


def test_vsock_connect(container: polynix.Container) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    container.vsock_connect(5000, theirs)
    theirs.close()
    data = os.urandom(1 << 20)
    assert exchange(ours, data) == data + b"%d" % len(data)


def test_vsock_connect_waits_for_a_listener(container: polynix.Container) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    container.vsock_connect(5001, theirs)
    theirs.close()
    ours.sendall(b"early")
    with container.spawn(["python3", "-c", SERVER, "vsock", "5001"], stdout=polynix.PIPE) as server:
        assert ours.recv(5) == b"early"
        server.kill()
    assert read_to_end(ours) == b""


def test_the_listener_ends_with_its_container() -> None:
    with polynix.Container() as container:
        address = container.proxy("tcp://127.0.0.1:0", to="port:1")
        connect(address).close()
    refused = False
    deadline = time.monotonic() + 20
    while not refused:  # the runner may be on its way out
        assert time.monotonic() < deadline
        try:
            connect(address).close()
        except ConnectionRefusedError:
            refused = True
        except ConnectionResetError:
            pass


def test_a_proxy_is_removed(container: polynix.Container) -> None:
    addresses = [container.proxy("tcp://127.0.0.1:0", to=target) for target in ("unix:/tmp/server", "port:5000")]
    known = container.proxies()
    assert [known[address] for address in addresses] == ["unix:/tmp/server", "port:5000"]
    open_there, open_elsewhere = (connect(address) for address in addresses)
    for peer in (open_there, open_elsewhere):
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
    container.remove_proxy(addresses[0])
    with pytest.raises(ConnectionRefusedError):
        connect(addresses[0])
    with open_there, pytest.raises(ConnectionResetError):
        open_there.recv(1)
    assert exchange(open_elsewhere, b"on") == b"on3"
    assert addresses[0] not in container.proxies() and addresses[1] in container.proxies()
    with pytest.raises(FileNotFoundError):
        container.remove_proxy(addresses[0])
    assert container.proxy(addresses[0], to="port:5000") == addresses[0]  # the address is free again
    assert exchange(connect(addresses[0]), b"again") == b"again5"
    container.remove_proxy(addresses[0])


SLEEPER = """
import socket, time
listener = socket.socket(socket.AF_UNIX); listener.bind("/tmp/sleeper"); listener.listen()
print("ready", flush=True)
def slept():
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
while True:
    connection, _ = listener.accept()
    with connection:
        while connection.recv(100):
            connection.sendall(b"%f" % slept())
"""


def test_messages_and_new_connections_wake_a_container_that_sleeps() -> None:
    with polynix.Container(suspend_after=0.3) as container:
        server = container.spawn(["python3", "-c", SLEEPER], stdout=polynix.PIPE)
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        address = container.proxy("tcp://127.0.0.1:0", to="unix:/tmp/sleeper")

        def ask(peer: socket.socket) -> float:
            peer.sendall(b"how long did you sleep?")
            return float(peer.recv(100))

        with connect(address) as peer:
            before = now = ask(peer)
            deadline = time.monotonic() + 60
            while now - before < 0.1:  # each question wakes it, or comes before it has fallen asleep
                assert time.monotonic() < deadline
                time.sleep(1.0)
                now = ask(peer)
        deadline, before = time.monotonic() + 60, now
        while now - before < 0.1:
            assert time.monotonic() < deadline
            time.sleep(1.0)
            with connect(address) as peer:
                now = ask(peer)
