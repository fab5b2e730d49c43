"""The other process of test_shared_objects: ``shared_peer.py ACTION FD REFERENCE...``; says "ready" once it has adopted."""

from __future__ import annotations

import sys
import time

from polynix.ipc.counter import Counter
from polynix.ipc.event import EventPair
from polynix.ipc.objects import Signals
from polynix.ipc.shared_arena import SharedArena
from polynix.ipc.shared_objects import SharedReference, adopt


def main() -> None:
    action, fd, *texts = sys.argv[1:]
    arena = SharedArena.attach(int(fd))
    handles = [adopt(arena, SharedReference(*map(int, text.split(",")))) for text in texts]
    print("ready", flush=True)
    first = handles[0]
    if action == "add":
        assert isinstance(first, Counter)
        for _ in range(2000):
            first.add(1)
    elif action == "add_for_ever":
        assert isinstance(first, Counter)
        while True:
            first.add(1)
    elif action == "answer":
        assert isinstance(first, EventPair)
        deadline = time.monotonic_ns() + 20_000_000_000
        first.wait(Signals.USER_0, deadline)
        first.signal_peer(Signals.NONE, Signals.USER_1)
        first.wait(Signals.PEER_CLOSED, deadline)
    elif action == "sleep":
        time.sleep(60)
    arena.close()


main()
