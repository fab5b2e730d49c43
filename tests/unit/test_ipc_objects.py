"""Kernel objects: handles, rights, signals, waits, and each type of object."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from polynix.ipc.object_lock import OBJECTS
from polynix.ipc.objects import Channel, Counter, Event, EventPair, Handle, Job, Rights, Signals, Status, Vmo, ZxStatus, wait_many

MILLISECOND = 1_000_000


@contextmanager
def raises(status: Status) -> Iterator[None]:
    with pytest.raises(ZxStatus) as caught:
        yield
    assert caught.value.status == status


def soon(milliseconds: int = 20) -> int:
    return time.monotonic_ns() + milliseconds * MILLISECOND


def later(action: object) -> None:
    timer = threading.Timer(0.02, action)  # type: ignore[arg-type]
    timer.daemon = True
    timer.start()


# -- channels --------------------------------------------------------------------------------------------------------------------


def test_messages_stay_whole_and_in_order() -> None:
    first, second = Channel.create()
    assert first.related_koid == second.koid
    with raises(Status.SHOULD_WAIT):
        second.read()
    first.write(b"one")
    first.write(b"")
    first.write(bytes(65536))
    assert second.pending == Signals.READABLE | Signals.WRITABLE
    assert second.read() == (b"one", [])
    assert second.read() == (b"", [])
    assert second.read() == (bytes(65536), [])
    assert second.pending == Signals.WRITABLE


def test_limits() -> None:
    first, second = Channel.create()
    with raises(Status.OUT_OF_RANGE):
        first.write(bytes(65537))
    many = [Event.create() for _ in range(65)]
    with raises(Status.OUT_OF_RANGE):
        first.write(b"", many)
    assert not any(event.is_valid for event in many)
    first.write(b"abc", [Event.create() for _ in range(64)])
    with raises(Status.BUFFER_TOO_SMALL):
        second.read(max_bytes=2)
    with raises(Status.BUFFER_TOO_SMALL):
        second.read(max_handles=63)
    data, handles = second.read()
    assert (data, len(handles)) == (b"abc", 64)


def test_what_was_queued_is_read_before_the_close_is_seen() -> None:
    first, second = Channel.create()
    first.write(b"last")
    first.close()
    assert second.pending == Signals.READABLE | Signals.PEER_CLOSED
    with raises(Status.PEER_CLOSED):
        second.write(b"")
    assert second.read()[0] == b"last"
    with raises(Status.PEER_CLOSED):
        second.read()
    assert second.related_koid == 0


def test_handles_travel() -> None:
    first, second = Channel.create()
    inner, outer = Channel.create()
    inner_koid = inner.koid
    outer.write(b"kept")
    first.write(b"", [inner, Counter.create()])
    assert not inner.is_valid
    with raises(Status.BAD_HANDLE):
        inner.read()
    _, (moved, counter) = second.read()
    assert isinstance(moved, Channel)
    assert isinstance(counter, Counter)
    assert moved.koid == inner_koid
    assert moved.read()[0] == b"kept"


def test_handles_in_flight_close_with_their_carrier() -> None:
    first, second = Channel.create()
    inner, outer = Channel.create()
    first.write(b"", [inner])
    second.close()
    assert outer.pending & Signals.PEER_CLOSED
    inner, outer = Channel.create()
    with raises(Status.PEER_CLOSED):
        first.write(b"", [inner])
    assert outer.pending & Signals.PEER_CLOSED
    assert not inner.is_valid


def test_a_long_chain_of_carriers_closes() -> None:
    carrier, outer = Channel.create()
    for _ in range(3000):
        next_first, next_second = Channel.create()
        next_first.write(b"", [carrier])
        next_first.close()
        carrier = next_second
    carrier.close()
    assert outer.pending & Signals.PEER_CLOSED


def test_handles_that_may_not_be_sent() -> None:
    first, second = Channel.create()
    with raises(Status.NOT_SUPPORTED):
        first.write(b"", [first])
    assert first.is_valid
    event = Event.create()
    with raises(Status.INVALID_ARGS):
        first.write(b"", [event, event])
    with raises(Status.ACCESS_DENIED):
        first.write(b"", [Event.create().replace(Rights.WAIT)])
    closed = Event.create()
    closed.close()
    with raises(Status.BAD_HANDLE):
        first.write(b"", [closed])
    assert second.pending == Signals.WRITABLE


# -- handles and rights ----------------------------------------------------------------------------------------------------------


def test_duplicates_share_an_object() -> None:
    counter = Counter.create()
    other = counter.duplicate()
    assert other.koid == counter.koid
    other.add(2)
    counter.close()
    assert other.read() == 2
    reader = other.duplicate(Rights.READ | Rights.WAIT)
    with raises(Status.ACCESS_DENIED):
        reader.add(1)
    with raises(Status.ACCESS_DENIED):
        reader.duplicate()
    with raises(Status.INVALID_ARGS):
        reader.replace(Rights.WRITE)
    assert not reader.is_valid
    first, _second = Channel.create()
    with raises(Status.ACCESS_DENIED):
        first.duplicate()


def test_koids_differ() -> None:
    handles: list[Handle] = [Event.create(), Job.create(), Counter.create(), *Channel.create(), *EventPair.create()]
    assert len({handle.koid for handle in handles}) == len(handles)


def test_a_dropped_handle_closes() -> None:
    first, second = EventPair.create()
    del first
    gc.collect()
    assert second.pending == Signals.PEER_CLOSED


# -- signals and waits -----------------------------------------------------------------------------------------------------------


def test_event_signals() -> None:
    event = Event.create()
    event.signal(Signals.NONE, Signals.EVENT_SIGNALED | Signals.USER_0)
    assert event.wait(Signals.USER_0) == Signals.EVENT_SIGNALED | Signals.USER_0
    event.signal(Signals.USER_0, Signals.NONE)
    assert event.pending == Signals.EVENT_SIGNALED
    with raises(Status.INVALID_ARGS):
        event.signal(Signals.NONE, Signals.READABLE)
    with raises(Status.TIMED_OUT):
        event.wait(Signals.USER_1, soon())
    with raises(Status.TIMED_OUT):
        event.wait(Signals.USER_1, 0)


def test_event_pairs_signal_each_other() -> None:
    first, second = EventPair.create()
    first.signal_peer(Signals.NONE, Signals.USER_0)
    first.signal_peer(Signals.USER_0, Signals.USER_1)
    assert second.pending == Signals.USER_1
    assert first.pending == Signals.NONE
    second.close()
    assert first.wait(Signals.PEER_CLOSED) == Signals.PEER_CLOSED
    with raises(Status.PEER_CLOSED):
        first.signal_peer(Signals.NONE, Signals.USER_0)


def test_counter() -> None:
    counter = Counter.create()
    assert counter.pending == Signals.COUNTER_NON_POSITIVE
    counter.add(1)
    assert counter.pending == Signals.COUNTER_POSITIVE
    counter.add(-2)
    assert counter.pending == Signals.COUNTER_NON_POSITIVE
    counter.write((1 << 63) - 1)
    with raises(Status.OUT_OF_RANGE):
        counter.add(1)
    assert counter.read() == (1 << 63) - 1
    counter.write(-(1 << 63))
    with raises(Status.OUT_OF_RANGE):
        counter.add(-1)


def test_waits_wake_other_threads() -> None:
    first, second = Channel.create()
    later(lambda: first.write(b"x"))
    assert second.wait(Signals.READABLE, soon(5000)) & Signals.READABLE
    event, counter = Event.create(), Counter.create()
    later(lambda: counter.add(1))
    assert wait_many([(event, Signals.EVENT_SIGNALED), (counter, Signals.COUNTER_POSITIVE)], soon(5000)) == [0, Signals.COUNTER_POSITIVE]
    later(event.close)
    with raises(Status.CANCELED):
        event.wait(Signals.EVENT_SIGNALED, soon(5000))
    with raises(Status.OUT_OF_RANGE):
        wait_many([(counter, Signals.USER_0)] * 65)


def test_moving_a_handle_cancels_its_waits() -> None:
    first, _second = Channel.create()
    event = Event.create()
    told: list[Status] = []
    event.wait_async(Signals.EVENT_SIGNALED, lambda status, _: told.append(status))
    first.write(b"", [event])
    assert told == [Status.CANCELED]


def test_withdrawn_waits_stay_silent() -> None:
    event = Event.create()
    told: list[Status] = []
    observer = event.wait_async(Signals.EVENT_SIGNALED, lambda status, _: told.append(status))
    event.cancel(observer)
    event.signal(Signals.NONE, Signals.EVENT_SIGNALED)
    assert told == []


def test_observers_may_use_their_object() -> None:
    first, second = EventPair.create()
    second.wait_async(Signals.USER_0, lambda *_: second.signal_peer(Signals.NONE, Signals.USER_1))
    first.wait_async(Signals.USER_1, lambda *_: first.close())
    first.signal_peer(Signals.NONE, Signals.USER_0)
    assert second.pending == Signals.USER_0 | Signals.PEER_CLOSED


def test_asyncio_waits() -> None:
    async def check() -> None:
        first, second = Channel.create()
        later(lambda: first.write(b"x"))
        assert await asyncio.wait_for(second.read_async(), 5) == (b"x", [])
        task = asyncio.create_task(second.on_signals(Signals.USER_0))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        later(second.close)
        with raises(Status.CANCELED):
            await asyncio.wait_for(second.on_signals(Signals.USER_0), 5)

    asyncio.run(check())


def test_many_threads_write_to_one_channel() -> None:
    first, second = Channel.create()

    def write(name: int) -> None:
        for number in range(200):
            first.write(bytes([name, number]))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    seen: dict[int, list[int]] = {name: [] for name in range(4)}
    for _ in range(800):
        (name, number), _handles = second.read_blocking(soon(10000))
        seen[name].append(number)
    assert all(numbers == list(range(200)) for numbers in seen.values())


# -- memory ----------------------------------------------------------------------------------------------------------------------


def test_vmo() -> None:
    vmo = Vmo.create(5000)
    assert vmo.get_size() == 8192
    vmo.write(b"hello", 8187)
    assert vmo.duplicate().read(5, 8187) == b"hello"
    with raises(Status.OUT_OF_RANGE):
        vmo.read(2, 8191)
    with raises(Status.OUT_OF_RANGE):
        vmo.write(b"x", 8192)
    vmo.set_size(12288)
    assert vmo.read(1, 12287) == b"\0"
    with raises(Status.ACCESS_DENIED):
        vmo.duplicate(Rights.READ).write(b"x")


def test_a_finaliser_never_waits_for_the_lock() -> None:
    """It may run in a thread that whoever has the lock waits for."""
    kept, lost = EventPair.create()
    dropped = threading.Event()

    def drop() -> None:
        nonlocal lost
        lost = kept
        dropped.set()

    with OBJECTS:
        thread = threading.Thread(target=drop)
        thread.start()
        assert dropped.wait(20)
        thread.join(20)
        assert not kept.pending & Signals.PEER_CLOSED
    assert kept.pending & Signals.PEER_CLOSED
