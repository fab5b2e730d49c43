"""Counters and event pairs between real processes: waits, deaths, and what an arena refuses."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from polynix.ipc.objects import Counter, Event, Handle, Rights, Signals, Status, ZxStatus
from polynix.ipc.shared_arena import SharedArena
from polynix.ipc.shared_objects import SharedReference, adopt, create_shared_counter, create_shared_event_pair, reference

PEER = Path(__file__).with_name("shared_peer.py")


@pytest.fixture
def arena() -> Iterator[SharedArena]:
    arena = SharedArena.create(slots=8)
    yield arena
    arena.close()


def soon(seconds: float = 20) -> int:
    return time.monotonic_ns() + int(seconds * 1e9)


@contextmanager
def raises(status: Status) -> Iterator[None]:
    with pytest.raises(ZxStatus) as caught:
        yield
    assert caught.value.status == status


@contextmanager
def peer(action: str, arena: SharedArena, *handles: Handle) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which has adopted ``handles``."""
    texts = [",".join(map(str, reference(handle))) for handle in handles]
    command = [sys.executable, str(PEER), action, str(arena.fd), *texts]
    with subprocess.Popen(command, pass_fds=(arena.fd,), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def test_a_counter_between_processes(arena: SharedArena) -> None:
    counter = create_shared_counter(arena)
    assert counter.pending == Signals.COUNTER_NON_POSITIVE
    with peer("add", arena, counter) as first, peer("add", arena, counter) as second:
        assert counter.wait(Signals.COUNTER_POSITIVE, soon()) & Signals.COUNTER_POSITIVE
        for _ in range(2000):
            counter.add(1)
        assert (first.wait(20), second.wait(20)) == (0, 0)
    assert counter.read() == 6000
    counter.write(-5)
    assert counter.pending == Signals.COUNTER_NON_POSITIVE
    counter.write((1 << 63) - 1)
    with raises(Status.OUT_OF_RANGE):
        counter.add(1)


def test_an_event_pair_between_processes(arena: SharedArena) -> None:
    mine, theirs = create_shared_event_pair(arena)
    with peer("answer", arena, theirs) as process:
        theirs.close()
        assert not mine.pending & Signals.PEER_CLOSED
        mine.signal_peer(Signals.NONE, Signals.USER_0)
        assert mine.wait(Signals.USER_1, soon()) == Signals.USER_1
        mine.close()
        assert process.wait(20) == 0


def test_a_killed_process_closes_what_it_held(arena: SharedArena) -> None:
    mine, theirs = create_shared_event_pair(arena)
    other, kept = create_shared_event_pair(arena)
    with peer("sleep", arena, theirs, kept) as process:
        theirs.close()
        process.kill()
        assert mine.wait(Signals.PEER_CLOSED, soon()) == Signals.PEER_CLOSED
    with raises(Status.PEER_CLOSED):
        mine.signal_peer(Signals.NONE, Signals.USER_0)
    assert not other.pending & Signals.PEER_CLOSED  # this process holds that end as well


def test_a_process_killed_with_the_lock_held_does_not_block_others(arena: SharedArena) -> None:
    counter = create_shared_counter(arena)
    for _ in range(3):
        with peer("add_for_ever", arena, counter) as process:
            counter.wait(Signals.COUNTER_POSITIVE, soon())
            process.kill()
            process.wait()
            counter.write(0)
            counter.add(1)
            assert counter.read() == 1
            counter.write(0)


def test_asyncio_waits_for_another_process(arena: SharedArena) -> None:
    counter = create_shared_counter(arena)

    async def check() -> None:
        assert await asyncio.wait_for(counter.on_signals(Signals.COUNTER_POSITIVE), 20) == Signals.COUNTER_POSITIVE

    with peer("add", arena, counter):
        asyncio.run(check())


def test_waiting_uses_no_cpu(arena: SharedArena) -> None:
    counter = create_shared_counter(arena)
    with peer("sleep", arena, counter):
        time.sleep(0.1)
        before = time.process_time()
        with raises(Status.TIMED_OUT):
            counter.wait(Signals.COUNTER_POSITIVE, soon(0.5))
        assert time.process_time() - before < 0.05


def test_two_views_in_one_process(arena: SharedArena) -> None:
    other = SharedArena.attach(arena.fd)
    mine, theirs = create_shared_event_pair(arena)
    moved = adopt(other, reference(theirs))
    assert moved.koid == theirs.koid == mine.related_koid
    theirs.close()
    mine.signal_peer(Signals.NONE, Signals.USER_3)
    assert moved.wait(Signals.USER_3, soon()) == Signals.USER_3
    again = adopt(other, SharedReference(2, 0, 1, 0, int(moved.rights)))
    moved.close()
    assert not mine.pending
    again.close()
    assert mine.wait(Signals.PEER_CLOSED, soon()) == Signals.PEER_CLOSED
    counter = create_shared_counter(arena)
    lent = adopt(other, reference(counter.duplicate(Rights.READ | Rights.WAIT | Rights.TRANSFER)))
    assert isinstance(lent, Counter)
    with raises(Status.ACCESS_DENIED):
        lent.add(1)
    other.close()
    with raises(Status.BAD_STATE):
        create_shared_counter(other)


def test_slots_return(arena: SharedArena) -> None:
    counters = [create_shared_counter(arena) for _ in range(8)]
    assert len({counter.koid for counter in counters}) == 8
    with raises(Status.NO_RESOURCES):
        create_shared_event_pair(arena)
    stale = reference(counters[3])
    counters[3].close()
    with raises(Status.NOT_FOUND):
        adopt(arena, stale)
    create_shared_counter(arena)
    with raises(Status.NOT_FOUND):
        adopt(arena, stale)


@pytest.mark.parametrize("values", [(0, 0, 0, 0, 0), (1, 8, 0, 0, 0), (1, -1, 0, 0, 0), (1, 0, 1, 0, 0), (2, 0, 2, 0, 0), (1, 0, 0, 0, 1 << 30)])
def test_references_that_make_no_sense(arena: SharedArena, values: tuple[int, int, int, int, int]) -> None:
    with raises(Status.INVALID_ARGS):
        adopt(arena, SharedReference(*values))


def test_what_is_not_an_arena() -> None:
    with raises(Status.WRONG_TYPE):
        reference(Event.create())
    fd = os.memfd_create("zeros")
    try:
        for size in (0, 4096):
            os.ftruncate(fd, size)
            with raises(Status.INVALID_ARGS):
                SharedArena.attach(fd)
    finally:
        os.close(fd)


def test_nothing_has_a_name() -> None:
    SharedArena.create().close()
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(f"polynix-arena-{os.getpid()}-")]
