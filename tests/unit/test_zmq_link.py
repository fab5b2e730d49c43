"""Channels between real processes, over zmq."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from polynix.ipc.channel import Channel
from polynix.ipc.client import BlockingClient
from polynix.ipc.objects import Counter, Event, Signals, Status, ZxStatus
from polynix.ipc.protocols.manager import Manager, ManagerSuspendContainerRequest
from polynix.ipc.zmq_link import WINDOW, connect, listen
from polynix.runner.async_channel import unbounded
from polynix.runner.proxy import ChannelProxy, run_proxy_thread
from polynix.runner.wake_sources import new_wake_sources

PEER = Path(__file__).with_name("link_peer.py")


def soon() -> int:
    return time.monotonic_ns() + 20_000_000_000


@contextmanager
def peer(action: str, tmp_path: Path) -> Iterator[tuple[Channel, subprocess.Popen[bytes]]]:
    address = f"ipc://{tmp_path}/channel"
    channel = listen(address)
    with subprocess.Popen([sys.executable, str(PEER), action, address]) as process:
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
        end = channel._end
        deadline = time.monotonic() + 20
        while len(end.queue) < WINDOW and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(end.queue) == WINDOW
        for number in range(20_000):
            assert channel.read_blocking(soon())[0] == number.to_bytes(4, "little")
        channel.write(b"enough")
        assert process.wait(20) == 0
        channel.wait(Signals.PEER_CLOSED, soon())


def test_a_full_end_gets_the_rest_after_its_peer_closed(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/channel"
    channel, other = listen(address), connect(address)
    for number in range(WINDOW + 500):
        other.write(number.to_bytes(4, "little"))
    other.close()
    time.sleep(0.1)
    assert not channel.pending & Signals.PEER_CLOSED
    for number in range(WINDOW + 500):
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


@pytest.mark.parametrize("frames", [[b"X"], [b"M"], [b"M", b"", b"short"], [b"K"], [b"S", b"1"], [b"S", b"\xff" * 8]])
def test_hostile_frames_close_the_link(tmp_path: Path, frames: list[bytes]) -> None:
    channel = listen(f"ipc://{tmp_path}/channel")
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.linger = 0
        socket.connect(f"ipc://{tmp_path}/channel")
        socket.send_multipart(frames)
        assert channel.wait(Signals.PEER_CLOSED, soon()) & Signals.PEER_CLOSED


def test_addresses_that_make_no_sense() -> None:
    with pytest.raises(ZxStatus):
        listen("nonsense")
