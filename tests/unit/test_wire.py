"""Wire: edges of zmq's descriptor that nobody may swallow unseen; the size of what it sends at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import zmq
from polynix.ipc.objects import MAX_BYTES, MAX_HANDLES
from polynix.ipc.record import ROOT, Entry, Kind, Operation, Run, decode, encode, encode_run
from polynix.ipc.wire import FRAME_BYTES, FRAME_HEADER_SIZE, FRAMES_AHEAD, MAX_RECORD, Wire


class FoundEmpty:
    """A socket that is first found empty just before ``something_comes``."""

    def __init__(self, socket: Any, something_comes: Any) -> None:
        self._socket = socket
        self._something_comes = something_comes
        self._asked = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def recv(self, flags: int, copy: bool) -> Any:
        if self._asked:
            return self._socket.recv(flags, copy=copy)
        self._asked = True
        try:
            return self._socket.recv(flags, copy=copy)
        finally:
            self._something_comes()


def test_what_comes_after_the_socket_was_empty_is_received(tmp_path: Path) -> None:
    """A peer that connects and sends just after the socket was found empty: the next question to the socket eats the edge that would tell of it."""
    with zmq.Context() as context:
        address = f"ipc://{tmp_path}/wire"
        bound = Wire(context, address, bind=True, beside=None, on_attention=lambda: None)
        peers: list[Wire] = []

        def connect_and_send() -> None:
            peers.append(Wire(context, address, bind=False, beside=None, on_attention=lambda: None))
            peers[0].send(b"first words")
            deadline = time.monotonic() + 20
            while peers[0].has_unsent and time.monotonic() < deadline:
                peers[0].receive()
                peers[0].flush()
            time.sleep(0.2)  # it is on its way, and nothing may ask whether it has come

        bound._socket = FoundEmpty(bound._socket, connect_and_send)
        frames = bound.receive()
        for wire in (bound, *peers):
            wire.close(linger_ms=0)
        assert len(frames) == 1
        assert frames[0].endswith(b"first words")


def test_who_ignores_the_limit_is_held_back(tmp_path: Path) -> None:
    """Not the memory of the process that has no time to receive, but the sender's own fills."""
    with zmq.Context() as context:
        address = f"ipc://{tmp_path}/wire"
        bound = Wire(context, address, bind=True, beside=None, on_attention=lambda: None)
        with context.socket(zmq.PAIR) as flood:
            flood.sndhwm, flood.linger = 1, 0
            flood.connect(address)
            sent = 0
            while sent < 1000 and flood.poll(2000, zmq.POLLOUT):
                flood.send(bytes(FRAME_BYTES), zmq.NOBLOCK)
                sent += 1
        bound.close(linger_ms=0)
        assert FRAMES_AHEAD < sent < 100


@pytest.mark.parametrize("sizes", [[MAX_BYTES] * 3, [MAX_BYTES - 3, MAX_BYTES, 1], [1] * 100_000, [0], [31000, MAX_BYTES - 300, 40000]])
def test_no_run_is_larger_than_what_is_sent_at_once(sizes: list[int]) -> None:
    """A frame beyond the limit would end the connection, and the process with it."""
    datas = [bytes([number & 255]) * size for number, size in enumerate(sizes)]
    pieces = list(encode_run(ROOT, datas))
    assert max(map(len, pieces)) <= MAX_RECORD
    runs = [run for piece in pieces for run in decode(bytes(FRAME_HEADER_SIZE) + piece)]
    assert [data for run in runs if isinstance(run, Run) for data in run.datas] == datas


def test_the_largest_message_is_sent_at_once() -> None:
    entries = [Entry(number, 0, Kind.CHANNEL) for number in range(MAX_HANDLES)]
    assert len(encode(Operation.WRITE, ROOT, bytes(MAX_BYTES), entries)) <= MAX_RECORD
