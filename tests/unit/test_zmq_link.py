"""Channels between real processes, over zmq."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import zmq
from deadline import soon
from polynix.ipc.channel import MESSAGE_COST, WINDOW, Channel
from polynix.ipc.client import BlockingClient
from polynix.ipc.objects import Counter, Event, Signals, Status, ZxStatus
from polynix.ipc.protocols.manager import Manager, ManagerSuspendContainerRequest
from polynix.ipc.record import ROOT, Entry, Operation
from polynix.ipc.wire import MAGIC
from polynix.ipc.zmq_link import CurveKeys, connect, listen
from polynix.runner.async_channel import unbounded
from polynix.runner.proxy import ChannelProxy, run_proxy_thread
from polynix.runner.wake_sources import new_wake_sources
from raw_peer import record, word

PEER = Path(__file__).with_name("link_peer.py")


def start(action: str, address: str, keys: CurveKeys | None = None) -> subprocess.Popen[bytes]:
    texts = [] if keys is None else [key.decode() for key in (keys.public, keys.secret, keys.peer)]
    return subprocess.Popen([sys.executable, str(PEER), action, address, *texts])


@contextmanager
def peer(action: str, tmp_path: Path) -> Iterator[tuple[Channel, subprocess.Popen[bytes]]]:
    address = f"ipc://{tmp_path}/channel"
    channel = listen(address)
    with start(action, address) as process:
        try:
            yield channel, process
        finally:
            process.kill()
            channel.close()


def test_messages_cross(tmp_path: Path) -> None:
    with peer("echo", tmp_path) as (channel, process):
        messages = [b"", b"x", bytes(65536), *(number.to_bytes(2, "little") for number in range(500))]
        for message in messages:
            channel.write(message)
        assert [channel.read_blocking(soon())[0] for _ in messages] == messages
        with pytest.raises(ZxStatus) as caught:
            channel.write(b"", [Event.create()])
        assert caught.value.status == Status.NOT_SUPPORTED
        channel.close()
        assert process.wait(20) == 0


def test_what_a_killed_process_sent_is_read(tmp_path: Path) -> None:
    with peer("burst_and_die", tmp_path) as (channel, _process):
        for number in range(1000):
            assert channel.read_blocking(soon())[0] == number.to_bytes(4, "little")
        channel.write(b"die")
        channel.wait(Signals.PEER_CLOSED, soon())
        with pytest.raises(ZxStatus) as caught:
            channel.read()
        assert caught.value.status == Status.PEER_CLOSED


def test_a_process_that_exits_has_said_all(tmp_path: Path) -> None:
    with peer("say_and_exit", tmp_path) as (channel, process):
        for number in range(1000):
            assert channel.read_blocking(soon())[0] == number.to_bytes(4, "little") * 1000
        channel.wait(Signals.PEER_CLOSED, soon())
        assert process.wait(20) == 0


def test_a_reader_that_rests_is_not_drowned(tmp_path: Path) -> None:
    with peer("flood", tmp_path) as (channel, process):
        end = channel._require()
        deadline = time.monotonic() + 20
        while end.backlog < WINDOW and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert WINDOW <= end.backlog < WINDOW + 4 + MESSAGE_COST
        for number in range(20_000):
            assert channel.read_blocking(soon())[0] == number.to_bytes(4, "little")
        channel.write(b"enough")
        assert process.wait(20) == 0
        channel.wait(Signals.PEER_CLOSED, soon())


def test_a_full_end_gets_all_of_it_after_its_peer_closed(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/channel"
    channel, other = listen(address), connect(address)
    count = 0
    with pytest.raises(ZxStatus) as caught:
        while True:
            other.write(count.to_bytes(4, "little"))
            count += 1
    assert caught.value.status == Status.SHOULD_WAIT
    other.close()
    for number in range(count):
        assert channel.read_blocking(soon())[0] == number.to_bytes(4, "little")
    channel.wait(Signals.PEER_CLOSED, soon())


@pytest.mark.parametrize("after", [1, 700, 3000])
def test_a_sender_killed_in_mid_stream_of_a_proxy(tmp_path: Path, after: int) -> None:
    sending, receiving = unbounded()
    thread = run_proxy_thread(receiving)
    container, container_channel = Channel.create()
    counter = Counter.create()
    count = counter.duplicate()
    with peer("stream", tmp_path) as (channel, process):
        sending.send((ChannelProxy(container_channel, channel, counter, "stream"), new_wake_sources()))
        for number in range(100_000):
            if number == after:
                process.kill()
            try:
                data, _ = container.read_blocking(soon())
            except ZxStatus as error:
                assert error.status == Status.PEER_CLOSED
                break
            assert data == number.to_bytes(4, "little") + bytes(number % 5000)  # whole, in order
        assert after <= number == count.read()
    sending.close()
    thread.join(20)


def test_user_signals_cross(tmp_path: Path) -> None:
    first, second = listen(f"ipc://{tmp_path}/channel"), connect(f"ipc://{tmp_path}/channel")
    first.signal_peer(Signals.NONE, Signals.USER_2)
    assert second.wait(Signals.USER_2, soon()) & Signals.USER_2
    first.write(b"last")
    first.close()
    assert second.read_blocking(soon())[0] == b"last"
    second.wait(Signals.PEER_CLOSED, soon())


def test_a_protocol_over_a_link(tmp_path: Path) -> None:
    with peer("manager", tmp_path) as (channel, _process):
        client = BlockingClient(Manager, channel)
        assert client.call(Manager.suspend_container, ManagerSuspendContainerRequest(), deadline_ns=soon()).resume_reason == "link"


@pytest.mark.parametrize(
    "records",
    [
        b"X",
        record(99, ROOT),
        record(Operation.WRITE, 3),
        record(Operation.WRITE, ROOT, b"", (Entry(2, 2),)),
        record(Operation.CREDIT, ROOT, word(1)),
        record(Operation.CREDIT, ROOT, b"1"),
        record(Operation.SIGNAL, ROOT, b"\xff" * 8),
        record(Operation.CREATE, 2, b"", (Entry(2, 2, 1), Entry(4, 2, 1))),
        record(Operation.WRITE, ROOT, bytes(65537)),
    ],
)
def test_hostile_records_close_the_link(tmp_path: Path, records: bytes) -> None:
    channel = listen(f"ipc://{tmp_path}/channel")
    with zmq.Context() as context, context.socket(zmq.PAIR) as intruder:
        intruder.linger = 0
        intruder.connect(f"ipc://{tmp_path}/channel")
        intruder.send(struct.pack("<III", MAGIC, 0, 0) + records)
        assert channel.wait(Signals.PEER_CLOSED, soon()) & Signals.PEER_CLOSED


# -- keys ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tcp_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_a_peer_on_another_machine(tcp_address: str) -> None:
    (public, secret), (their_public, their_secret) = CurveKeys.generate(), CurveKeys.generate()
    channel = listen(tcp_address, CurveKeys(public, secret, their_public))
    with start("echo", tcp_address, CurveKeys(their_public, their_secret, public)) as process:
        for size in (0, 1, 65536):
            channel.write(bytes(size))
            assert channel.read_blocking(soon())[0] == bytes(size)
        channel.close()
        assert process.wait(20) == 0


@pytest.mark.parametrize("wrong", ["its own", "the other's", "none"])
def test_a_wrong_key_is_refused(tcp_address: str, wrong: str) -> None:
    """And who comes with the right ones is served afterwards."""
    (public, secret), (their_public, their_secret), (bad_public, bad_secret) = CurveKeys.generate(), CurveKeys.generate(), CurveKeys.generate()
    channel = listen(tcp_address, CurveKeys(public, secret, their_public))
    if wrong == "none":
        with zmq.Context() as context, context.socket(zmq.PAIR) as intruder:
            intruder.linger = 0
            intruder.connect(tcp_address)
            intruder.send(struct.pack("<III", MAGIC, 0, 0) + record(Operation.WRITE, ROOT, b"hello"))
            time.sleep(0.3)
    else:
        keys = CurveKeys(bad_public, bad_secret, public) if wrong == "its own" else CurveKeys(their_public, their_secret, bad_public)
        refused = connect(tcp_address, keys)
        with suppress(ZxStatus):  # it may know already
            refused.write(b"hello")
        assert refused.wait(Signals.PEER_CLOSED, soon()) & Signals.PEER_CLOSED
    assert not channel.pending & (Signals.PEER_CLOSED | Signals.READABLE)
    friend = connect(tcp_address, CurveKeys(their_public, their_secret, public))
    friend.write(b"hello from a friend")
    assert channel.read_blocking(soon())[0] == b"hello from a friend"
    friend.close()
    channel.wait(Signals.PEER_CLOSED, soon())


def test_other_machines_need_keys(tcp_address: str) -> None:
    for open_ in (listen, connect):
        with pytest.raises(ZxStatus) as caught:
            open_(tcp_address)
        assert caught.value.status == Status.INVALID_ARGS
    with pytest.raises(ZxStatus):
        listen(tcp_address, CurveKeys(b"no", b"key", b"at all"))


def test_addresses_that_make_no_sense() -> None:
    with pytest.raises(ZxStatus):
        listen("nonsense")
