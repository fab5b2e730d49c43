"""What goes wrong around a broker: strangers, liars, the dead, and machines without memory."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from deadline import soon
from polynix.ipc.channel import RIGHTS, WINDOW
from polynix.ipc.objects import EventPair, Signals, Status, ZxStatus
from polynix.ipc.record import Entry, Kind, Operation
from polynix.ipc.session import BROKER_SOCKET, Session
from polynix.ipc.shared_arena import SharedArena
from polynix.ipc.wire import EndpointDirectory
from polynix.runner.broker import Broker
from raw_peer import RawPeer, record, send_random_records, word
from realm import PEER, Realm


def check_alive(realm: Realm) -> None:
    """Others are none the worse."""
    session = Session.connect(realm.directory)
    _, root = realm.connected.get(timeout=20)
    root.write(b"alive")
    assert session.root.read_blocking(soon())[0] == b"alive"
    session.close()


EVERYTHING = int(RIGHTS)
A_PAIR = record(Operation.CREATE, 2, b"", (Entry(2, EVERYTHING, Kind.CHANNEL), Entry(4, EVERYTHING, Kind.CHANNEL)))

LIES: dict[str, list[bytes]] = {
    "an operation that is none": [record(99, 1)],
    "a number that wasn't given": [record(Operation.WRITE, 3, b"")],
    "half a header": [b"\1\0\0"],
    "data that isn't there": [record(Operation.WRITE, 1, b"", size=10)],
    "entries that aren't there": [record(Operation.WRITE, 1, b"", count=3)],
    "a message too long": [record(Operation.WRITE, 1, bytes(65537))],
    "too many handles": [record(Operation.WRITE, 1, b"", (Entry(3, 2),) * 65)],
    "a handle that isn't there": [record(Operation.WRITE, 1, b"", (Entry(7, 2),))],
    "a channel in itself": [record(Operation.WRITE, 1, b"", (Entry(1, EVERYTHING),))],
    "rights that it lacks": [A_PAIR, record(Operation.WRITE, 1, b"", (Entry(2, EVERYTHING | 1),))],
    "a handle twice": [A_PAIR, record(Operation.WRITE, 1, b"", (Entry(2, EVERYTHING), Entry(2, EVERYTHING)))],
    "a handle that went": [A_PAIR, record(Operation.WRITE, 1, b"", (Entry(2, EVERYTHING),)), record(Operation.WRITE, 2, b"")],
    "a handle that was closed": [A_PAIR, record(Operation.CLOSE, 2, word(0)), record(Operation.CLOSE, 2, word(0))],
    "more read than was sent": [record(Operation.READ, 1, word(1))],
    "a word that is none": [record(Operation.READ, 1, b"abc")],
    "signals that aren't the user's": [record(Operation.SIGNAL, 1, b"\xff" * 8)],
    "a number of the broker's": [record(Operation.CREATE, 3, b"", (Entry(3, 2, Kind.JOB),))],
    "a number in use": [A_PAIR, record(Operation.CREATE, 2, b"", (Entry(2, 2, Kind.JOB),))],
    "a kind that is none": [record(Operation.CREATE, 2, b"", (Entry(2, 2, 77),))],
    "half a pair": [record(Operation.CREATE, 2, b"", (Entry(2, 2, Kind.CHANNEL),))],
    "one number for both ends": [record(Operation.CREATE, 2, b"", (Entry(2, 2, Kind.CHANNEL), Entry(2, 2, Kind.CHANNEL)))],
    "a slot that isn't its own": [record(Operation.CREATE, 2, b"", (Entry(2, 2, Kind.COUNTER, extra=5),))],
    "a slot beyond the arena": [record(Operation.CREATE, 2, b"", (Entry(2, 2, Kind.COUNTER, extra=1 << 30),))],
    "a descriptor that didn't come": [record(Operation.CREATE, 2, b"", (Entry(2, 2, Kind.HOST_FILE),))],
    "a duplicate of a channel": [record(Operation.DUPLICATE, 1, word(2))],
    "stock for a handle that isn't there": [record(Operation.STOCK, 9, b"")],
    "stock without end": [record(Operation.STOCK, 1, bytes(65536))] * 1100,
    "more than the window": [record(Operation.WRITE, 1, bytes(65536))] * (WINDOW // 65536 + 2),
    "what only the broker says": [record(Operation.CREDIT, 1, word(1))],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_ends_the_session_of_the_liar(realm: Realm, lie: str, caplog: pytest.LogCaptureFixture) -> None:
    honest = Session.connect(realm.directory)
    _, honest_root = realm.connected.get(timeout=20)
    peer = RawPeer(realm.directory)
    _, root = realm.connected.get(timeout=20)
    for one in LIES[lie]:
        peer.send(one)
    root.wait(Signals.PEER_CLOSED, soon())
    assert not (honest.root.pending | honest_root.pending) & Signals.PEER_CLOSED
    check_alive(realm)
    assert [entry.levelname for entry in caplog.records if "closing the session" in entry.message] == ["WARNING"]  # foreseen, and told
    peer.close()
    honest.close()


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"short"],
        [bytes(12)],
        [b"PXN1" + bytes(8), b"two parts"],
        [b"PXN1" + word(1) + word(0)],  # confirms what was not sent
        [b"PXN1" + word(0) + word(64)],
        [b"PXN1" + word(0) + word(2) + b"records in a confirmation"],
    ],
)
def test_a_frame_that_makes_no_sense(realm: Realm, parts: list[bytes]) -> None:
    peer = RawPeer(realm.directory)
    _, root = realm.connected.get(timeout=20)
    peer.send_raw(*parts)
    root.wait(Signals.PEER_CLOSED, soon())
    check_alive(realm)
    peer.close()


def test_koids_cannot_be_stolen(realm: Realm) -> None:
    """A job's koid is a container's key."""
    honest = Session.connect(realm.directory)
    _, honest_root = realm.connected.get(timeout=20)
    pair, _other = EventPair.create()
    koid = pair.koid
    honest.root.write(b"", [pair])
    _, (kept,) = honest_root.read_blocking(soon())
    assert kept.koid == koid
    peer = RawPeer(realm.directory)
    _, root = realm.connected.get(timeout=20)
    peer.send(record(Operation.CREATE, 2, b"", (Entry(2, 2, Kind.JOB, koid=koid),)))
    root.wait(Signals.PEER_CLOSED, soon())
    peer.close()
    honest.close()


def test_random_records(realm: Realm, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever comes, the broker goes on, and says nothing that it did not foresee."""
    caplog.set_level(logging.ERROR)
    logging.getLogger("polynix.runner.broker").setLevel(logging.ERROR)
    for seed in range(150):
        send_random_records(realm, seed)
    check_alive(realm)
    assert caplog.records == []


# -- strangers -------------------------------------------------------------------------------------------------------------------


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@needs_root
def test_another_user_is_refused_by_the_directory(realm: Realm) -> None:
    assert _connect_as_nobody(realm.directory, "") == "ACCESS_DENIED"


@needs_root
def test_another_user_is_refused_by_the_broker(realm: Realm) -> None:
    """Even if somebody opens the doors."""
    Path(realm.directory).chmod(0o755)
    Path(realm.directory, BROKER_SOCKET).chmod(0o777)
    directory = os.open(realm.directory, os.O_PATH)  # the way there may be closed to nobody
    assert _connect_as_nobody(f"/proc/self/fd/{directory}", "another user's", pass_fds=(directory,)) == "ACCESS_DENIED"
    os.close(directory)
    assert realm.connected.empty()


def _connect_as_nobody(path: str, why: str, pass_fds: tuple[int, ...] = ()) -> str:
    code = """if True:
        import os, sys
        from polynix.ipc.objects import Status, ZxStatus
        from polynix.ipc.session import Session
        import zmq, json, posix_ipc
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        try:
            Session.connect(sys.argv[1])
        except ZxStatus as error:
            assert sys.argv[2] in str(error), error
            print(Status(error.status).name)
    """
    command = [sys.executable, "-P", "-c", code, path, why]
    return subprocess.run(command, pass_fds=pass_fds, capture_output=True, timeout=30, check=True).stdout.decode().strip()


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(ZxStatus) as caught:
        Broker(str(tmp_path))
    assert caught.value.status == Status.ACCESS_DENIED


def test_two_brokers_in_one_directory(realm: Realm) -> None:
    with pytest.raises(ZxStatus) as caught:
        Broker(realm.directory)
    assert caught.value.status == Status.ALREADY_EXISTS
    check_alive(realm)


def test_a_directory_with_a_long_name(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 100) / ("e" * 100)
    long.mkdir(parents=True)
    realm = Realm(long)
    check_alive(realm)
    realm.close()
    directory = EndpointDirectory(str(long))
    assert len(directory.endpoint("x")) < 107
    directory.close()


# -- the dead, and the poor ------------------------------------------------------------------------------------------------------


def test_a_broker_that_is_killed(tmp_path: Path) -> None:
    """Its processes read what it had said, and then all their channels are closed."""
    tmp_path.chmod(0o700)
    code = """if True:
        import sys, time
        from polynix.ipc.objects import Channel
        from polynix.runner.broker import Broker
        def greet(peer, root):
            writer, reader = Channel.create()
            root.write(b"", [reader])
            kept.append((root, writer))
        kept = []
        broker = Broker(sys.argv[1], greet)
        print("listening", flush=True)
        while not kept:
            time.sleep(0.01)
        root, writer = kept[0]
        root.read_blocking()
        for number in range(500):
            writer.write(number.to_bytes(4, "little"))
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-P", "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as broker:
        assert broker.stdout is not None
        assert broker.stdout.readline() == b"listening\n"
        with subprocess.Popen([sys.executable, str(PEER), "outlive", str(tmp_path)], stdout=subprocess.PIPE) as process:
            time.sleep(1)
            broker.send_signal(signal.SIGKILL)
            output, _ = process.communicate(timeout=20)
            assert process.returncode == 0
            assert output == b"500\n"
    with pytest.raises(ZxStatus) as caught:
        Session.connect(str(tmp_path))
    assert caught.value.status == Status.NOT_FOUND


def test_who_connects_and_says_nothing(realm: Realm) -> None:
    """Nobody waits for him, and his end is noticed."""
    beside = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    beside.connect(f"{realm.directory}/{BROKER_SOCKET}")
    _, root = realm.connected.get(timeout=20)
    check_alive(realm)
    beside.close()
    root.wait(Signals.PEER_CLOSED, soon())


def test_no_room_for_an_arena() -> None:
    """A limit stands for a file system that is full: filling one would take the machine's memory."""
    code = """if True:
        import os, resource
        from polynix.ipc.objects import Status, ZxStatus
        from polynix.ipc.shared_arena import SharedArena
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        try:
            SharedArena.create()
        except ZxStatus as error:
            print(Status(error.status).name, [name for name in os.listdir("/dev/shm") if name.startswith(f"polynix-arena-{os.getpid()}-")])
    """
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, timeout=30, check=True).stdout == b"NO_MEMORY []\n"


def test_what_is_not_an_arena() -> None:
    for size in (0, 4096):
        fd = os.memfd_create("zeros")
        os.ftruncate(fd, size)
        with pytest.raises(ZxStatus) as caught:
            SharedArena.attach(fd, 1)
        assert caught.value.status == Status.INVALID_ARGS


def test_too_many_processes(realm: Realm) -> None:
    peers = []
    with suppress(ValueError):  # a refusal has no descriptor
        while len(peers) < 300:
            peers.append(RawPeer(realm.directory))
    assert len(peers) == 255
    for peer in peers:
        peer.close()
    deadline = time.monotonic() + 20
    while True:
        with suppress(ZxStatus):
            Session.connect(realm.directory).close()
            break
        assert time.monotonic() < deadline
