"""Handles between real processes, through a broker."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deadline import soon
from polynix.ipc.channel import MESSAGE_COST, WINDOW, ChannelEnd
from polynix.ipc.objects import Channel, Counter, Event, EventPair, HostFile, Job, Rights, Signals, Status, Vmo, ZxStatus
from polynix.ipc.session import Session
from realm import Realm


@contextmanager
def raises(status: Status) -> Iterator[None]:
    with pytest.raises(ZxStatus) as caught:
        yield
    assert caught.value.status == status


def test_every_kind_of_handle_between_three_processes(realm: Realm) -> None:
    maker, maker_root = realm.start("make")
    taker, taker_root = realm.start("take")
    first, second = Channel.create()
    maker_root.write(b"", [first])
    taker_root.write(b"", [second])
    assert taker_root.read_blocking(soon())[0] == b"taken"
    assert maker_root.read_blocking(soon())[0] == b"made"
    maker_root.close()
    taker_root.close()
    assert (maker.wait(20), taker.wait(20)) == (0, 0)


def test_handles_that_come_back_are_the_same_objects(realm: Realm) -> None:
    _, root = realm.start("echo")
    read_fd, write_fd = os.pipe()
    end, other = Channel.create()
    handles = [Counter.create(), Event.create(), EventPair.create()[0], Vmo.create(1), HostFile.create(write_fd), Job.create(), end]
    koids = [(handle.koid, handle.related_koid, handle.rights) for handle in handles]
    root.write(b"there and back", handles)
    data, back = root.read_blocking(soon())
    assert data == b"there and back"
    assert [(handle.koid, handle.related_koid, handle.rights) for handle in back] == koids
    other.write(b"x")
    assert isinstance(back[6], Channel)
    assert back[6].read_blocking(soon())[0] == b"x"
    os.close(read_fd)
    os.close(write_fd)


def test_memory_of_a_file_travels(realm: Realm, tmp_path: Path) -> None:
    _, root = realm.start("echo")
    with tempfile.TemporaryFile() as file:
        file.write(b"content of a file")
        file.flush()
        root.write(b"", [Vmo.of_file(os.dup(file.fileno()), 7)])
    _, (vmo,) = root.read_blocking(soon())
    assert isinstance(vmo, Vmo)
    assert (vmo.get_size(), vmo.read(7)) == (7, b"content")
    with raises(Status.ACCESS_DENIED):
        vmo.write(b"x")


def test_messages_of_all_sizes(realm: Realm) -> None:
    process, root = realm.start("echo")
    messages = [b"", b"x", bytes(65536), *(number.to_bytes(2, "little") for number in range(500)), *[os.urandom(65536)] * 40]
    for message in messages:
        root.write(message)
    assert [root.read_blocking(soon())[0] for _ in messages] == messages
    root.close()
    assert process.wait(20) == 0


def test_sixty_four_handles(realm: Realm) -> None:
    _, root = realm.start("echo")
    events = [Event.create() for _ in range(64)]
    koids = [event.koid for event in events]
    root.write(b"", events)
    assert [handle.koid for handle in root.read_blocking(soon())[1]] == koids
    with raises(Status.OUT_OF_RANGE):
        root.write(b"", [Event.create() for _ in range(65)])


def test_rights_travel(realm: Realm) -> None:
    _, root = realm.start("echo")
    counter = Counter.create()
    root.write(b"", [counter.duplicate(Rights.READ | Rights.TRANSFER | Rights.WAIT)])
    _, (weak,) = root.read_blocking(soon())
    assert isinstance(weak, Counter)
    assert weak.rights == Rights.READ | Rights.TRANSFER | Rights.WAIT
    with raises(Status.ACCESS_DENIED):
        weak.add(1)
    with raises(Status.ACCESS_DENIED):
        root.write(b"", [counter.replace(Rights.READ)])


def test_a_moved_end_keeps_its_queue(realm: Realm) -> None:
    _, root = realm.start("pass_on")
    writer, reader = Channel.create()
    inside = EventPair.create()
    for number in range(50):
        writer.write(number.to_bytes(2, "little"))
    root.write(b"", [reader])
    for number in range(50, 100):
        writer.write(number.to_bytes(2, "little"), [inside[1]] if number == 99 else [])
    _, (back,) = root.read_blocking(soon())
    assert isinstance(back, Channel)
    writer.write(b"more")
    writer.close()
    for number in range(30, 100):
        data, handles = back.read_blocking(soon())
        assert data == number.to_bytes(2, "little")
    assert handles[0].koid == inside[0].related_koid
    assert back.read_blocking(soon())[0] == b"more"
    with raises(Status.PEER_CLOSED):
        back.read_blocking(soon())


def test_a_killed_carrier_closes_what_it_carried(realm: Realm) -> None:
    process, root = realm.start("hold")
    assert root.read_blocking(soon())[0] == b"ready"
    kept, carried = EventPair.create()
    end, other = Channel.create()
    inner, deep = Channel.create()
    end.write(b"", [inner])
    root.write(b"nobody reads this", [carried, other])
    time.sleep(0.1)  # it is in the process's queue by now, or on its way
    assert not kept.pending
    process.kill()
    kept.wait(Signals.PEER_CLOSED, soon())
    end.wait(Signals.PEER_CLOSED, soon())
    deep.wait(Signals.PEER_CLOSED, soon())
    root.wait(Signals.PEER_CLOSED, soon())


def test_a_process_that_exits_has_said_all(realm: Realm) -> None:
    process, root = realm.start("say_and_exit")
    for number in range(1000):
        assert root.read_blocking(soon())[0] == number.to_bytes(4, "little") * 1000
    with raises(Status.PEER_CLOSED):
        root.read_blocking(soon())
    assert process.wait(20) == 0


def test_what_a_killed_process_sent_is_read(realm: Realm) -> None:
    _, root = realm.start("say_and_die")
    for number in range(1000):
        assert root.read_blocking(soon())[0] == number.to_bytes(4, "little")
    root.write(b"die")
    root.wait(Signals.PEER_CLOSED, soon())


@pytest.mark.parametrize("after", [1, 500, 5000])
def test_a_writer_killed_in_mid_stream(realm: Realm, after: int) -> None:
    process, root = realm.start("burst")
    reader, writer = Channel.create()
    root.write(b"", [writer])
    count = 0
    while True:
        try:
            data, _ = reader.read_blocking(soon())
        except ZxStatus as error:
            assert error.status == Status.PEER_CLOSED
            break
        assert data == count.to_bytes(4, "little") + bytes(count % 3000)  # whole, in order
        count += 1
        if count == after:
            process.kill()
    assert count >= after


def test_a_reader_killed_in_mid_stream(realm: Realm) -> None:
    """Between two processes: the writer learns it, and the broker is none the worse."""
    writer, writer_root = realm.start("burst")
    reader, reader_root = realm.start("hold")
    first, second = Channel.create()
    assert reader_root.read_blocking(soon())[0] == b"ready"
    writer_root.write(b"", [first])
    reader_root.write(b"", [second])
    time.sleep(0.05)
    reader.kill()
    assert writer.wait(20) == 1  # PEER_CLOSED
    _, root = realm.start("echo")
    root.write(b"still here")
    assert root.read_blocking(soon())[0] == b"still here"


def test_a_reader_that_rests_is_not_drowned(realm: Realm) -> None:
    _, root = realm.start("fill")
    reader, writer = Channel.create()
    root.write(b"", [writer])
    count = int(root.read_blocking(soon())[0])
    assert count == -(-WINDOW // (1000 + MESSAGE_COST))
    for _ in range(count):
        assert reader.read_blocking(soon())[0] == bytes(1000)
    assert root.read_blocking(soon())[0] == b"there was room"
    assert reader.read_blocking(soon())[0] == b"the end"


def test_a_process_that_never_reads_does_not_fill_the_broker(realm: Realm) -> None:
    _, root = realm.start("hold")
    assert root.read_blocking(soon())[0] == b"ready"
    count = 0
    with raises(Status.SHOULD_WAIT):
        while True:
            root.write(bytes(1000))
            count += 1
    assert count == -(-WINDOW // (1000 + MESSAGE_COST))
    assert not root.pending & Signals.WRITABLE
    event = Event.create()
    with raises(Status.SHOULD_WAIT):
        root.write(b"", [event])
    assert event.is_valid  # it can be tried again


def test_a_stopped_process_gets_all_of_it(realm: Realm) -> None:
    process, root = realm.start("echo")
    root.write(b"first")
    assert root.read_blocking(soon())[0] == b"first"
    os.kill(process.pid, 19)
    for number in range(2000):
        root.write(number.to_bytes(2, "little"))
        root.signal_peer(Signals.NONE, Signals.USER_3)
    os.kill(process.pid, 18)
    for number in range(2000):
        assert root.read_blocking(soon())[0] == number.to_bytes(2, "little")


def test_counters_of_two_processes(realm: Realm) -> None:
    counter = Counter.create()
    roots = [realm.start("add")[1] for _ in range(2)]
    for root in roots:
        root.write(b"", [counter.duplicate()])
    assert counter.wait(Signals.COUNTER_POSITIVE, soon()) & Signals.COUNTER_POSITIVE
    for _ in range(2000):
        counter.add(1)
    assert [root.read_blocking(soon())[0] for root in roots] == [b"done"] * 2
    assert counter.read() == 42_000
    counter.write((1 << 63) - 1)
    with raises(Status.OUT_OF_RANGE):
        counter.add(1)
    counter.write(-5)
    assert counter.pending == Signals.COUNTER_NON_POSITIVE


def test_a_process_killed_while_it_counts_blocks_nobody(realm: Realm) -> None:
    counter = Counter.create()
    for _ in range(3):
        process, root = realm.start("add_for_ever")
        root.write(b"", [counter.duplicate()])
        counter.wait(Signals.COUNTER_POSITIVE, soon())
        process.kill()
        root.wait(Signals.PEER_CLOSED, soon())
        counter.write(0)
        counter.add(1)
        assert counter.read() == 1
        counter.write(0)


def test_event_pairs_tell_of_the_last_handle(realm: Realm) -> None:
    _, root = realm.start("wait_for_signals")
    mine, theirs = EventPair.create()
    kept = theirs.duplicate()
    root.write(b"", [theirs])
    mine.signal_peer(Signals.NONE, Signals.USER_0)
    assert mine.wait(Signals.USER_1, soon()) & Signals.USER_1
    mine.close()
    assert root.read_blocking(soon())[0] == b"closed"
    assert kept.pending & Signals.PEER_CLOSED


def test_asyncio_waits_for_another_process(realm: Realm) -> None:
    counter = Counter.create()
    _, root = realm.start("add")

    async def check() -> None:
        root.write(b"", [counter.duplicate()])
        await asyncio.wait_for(counter.on_signals(Signals.COUNTER_POSITIVE), 20)
        assert (await asyncio.wait_for(root.read_async(), 20))[0] == b"done"

    asyncio.run(check())


def test_waiting_uses_no_cpu(realm: Realm) -> None:
    counter = Counter.create()
    _, root = realm.start("hold")
    root.write(b"", [counter.duplicate()])
    assert root.read_blocking(soon())[0] == b"ready"
    time.sleep(0.1)
    before = time.process_time()
    with raises(Status.TIMED_OUT):
        counter.wait(Signals.COUNTER_POSITIVE, soon(0.5))
    assert time.process_time() - before < 0.05


def test_slots_of_the_arena_return(tmp_path: Path) -> None:
    realm = Realm(tmp_path)
    try:
        _, root = realm.start("echo")
        for _ in range(300):
            root.write(b"", [Counter.create() for _ in range(64)])  # 19 200 of them, in 16 384 slots
            assert len(root.read_blocking(soon())[1]) == 64
    finally:
        realm.close()


def test_a_session_without_a_thread(realm: Realm) -> None:
    session = Session.connect(realm.directory, threaded=False)
    _, root = realm.connected.get(timeout=20)
    root.write(b"question")
    while not session.root.pending & Signals.READABLE:
        assert select.select([session], [], [], 20)[0]
        session.process()
    assert session.root.read()[0] == b"question"
    session.root.write(b"answer", [Counter.create()])
    assert root.read_blocking(soon())[0] == b"answer"
    session.close()
    root.wait(Signals.PEER_CLOSED, soon())


def test_an_invited_process(realm: Realm) -> None:
    socket, root = realm.broker.invite()
    root.write(b"before it was born")
    code = """if True:
        import socket, sys
        from polynix.ipc.session import Session
        session = Session(socket.socket(fileno=int(sys.argv[1])))
        session.root.write(*session.root.read_blocking())
    """
    with subprocess.Popen([sys.executable, "-P", "-c", code, str(socket.fileno())], pass_fds=[socket.fileno()]) as process:
        socket.close()
        assert root.read_blocking(soon())[0] == b"before it was born"
        root.wait(Signals.PEER_CLOSED, soon())
        assert process.wait(20) == 0


def test_an_invited_process_that_is_never_born(realm: Realm) -> None:
    socket, root = realm.broker.invite()
    socket.close()
    root.wait(Signals.PEER_CLOSED, soon())


def test_pairs_of_a_process_go_with_all_that_lies_in_them(realm: Realm) -> None:
    """Queues in queues: exported, sent to another process, and moved on."""
    session = Session.connect(realm.directory)
    _, root = realm.connected.get(timeout=20)
    outer, other = Channel.create()
    inner, deep = Channel.create()
    counter = Counter.create()
    deep.write(b"deep", [counter.duplicate()])
    outer.write(b"", [inner])
    other.write(b"for outer")
    session.root.write(b"", [other])
    assert outer.read()[0] == b"for outer"  # it never left
    _, echo_root = realm.start("echo")
    echo_root.write(*root.read_blocking(soon()))
    _, (back,) = echo_root.read_blocking(soon())
    assert isinstance(back, Channel)
    _, (back_inner,) = back.read_blocking(soon())
    assert isinstance(back_inner, Channel)
    data, (back_counter,) = back_inner.read_blocking(soon())
    assert data == b"deep"
    assert back_counter.koid == counter.koid
    assert isinstance(back_counter, Counter)
    back_counter.add(7)
    assert counter.read() == 7
    deep.close()
    outer.close()
    back_inner.wait(Signals.PEER_CLOSED, soon())
    back.wait(Signals.PEER_CLOSED, soon())
    session.close()


def test_what_cannot_travel_stays(realm: Realm, tmp_path: Path) -> None:
    session = Session.connect(realm.directory)
    second = Session.connect(realm.directory)
    _, root = realm.connected.get(timeout=20)
    with raises(Status.NOT_SUPPORTED):
        session.root.write(b"", [second.root])
    with raises(Status.NOT_SUPPORTED):
        session.root.write(b"", [session.root])
    assert session.root.is_valid
    session.root.write(b"still")
    assert root.read_blocking(soon())[0] == b"still"
    session.close()
    with raises(Status.PEER_CLOSED):
        session.root.write(b"")
    second.close()


def test_there_is_no_broker(tmp_path: Path) -> None:
    with raises(Status.NOT_FOUND):
        Session.connect(str(tmp_path))


def test_ends_are_ends() -> None:
    """The window is for other processes: within one, queues have no limit."""
    first, second = ChannelEnd.create()
    assert not second.is_full
    assert first.koid == second.related_koid
