"""Wire: edges of zmq's descriptor that nobody may swallow unseen."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import zmq
from polynix.ipc.wire import Wire


def test_what_comes_while_the_pair_is_checked_is_received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that connects and sends just after the socket was found empty: the next question to the socket eats the edge that would tell of it."""
    with zmq.Context() as context:
        address = f"ipc://{tmp_path}/wire"
        bound = Wire(context, address, bind=True, beside=None, on_attention=lambda: None)
        peers: list[Wire] = []
        check = bound._check_pair

        def check_late() -> bool:
            if not peers:
                peers.append(Wire(context, address, bind=False, beside=None, on_attention=lambda: None))
                peers[0].send(b"first words")
                deadline = time.monotonic() + 20
                while peers[0].has_unsent and time.monotonic() < deadline:
                    peers[0].receive()
                    peers[0].flush()
                time.sleep(0.2)  # it is on its way, and nothing may ask whether it has come
            return check()

        monkeypatch.setattr(bound, "_check_pair", check_late)
        frames = bound.receive()
        for wire in (bound, *peers):
            wire.close(linger_ms=0)
        assert len(frames) == 1
        assert frames[0].endswith(b"first words")
