"""The other processes of test_session, test_broker_faults and test_proxied_processes: ``session_peer.py ACTION DIRECTORY``."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from deadline import soon
from polynix.ipc.objects import Channel, Counter, Event, EventPair, Handle, HostFile, Job, Signals, Status, Vmo, ZxStatus
from polynix.ipc.session import Session

ACTIONS: dict[str, Callable[[Session], None]] = {}


def action(function: Callable[[Session], None]) -> Callable[[Session], None]:
    ACTIONS[function.__name__] = function
    return function


def only_channel(session: Session) -> Channel:
    _, (channel,) = session.root.read_blocking(soon())
    assert isinstance(channel, Channel)
    return channel


@action
def echo(session: Session) -> None:
    """Send back what comes, handles too."""
    while True:
        try:
            session.root.write_blocking(*session.root.read_blocking(soon()), soon())
        except ZxStatus as error:
            assert error.status == Status.PEER_CLOSED
            return


@action
def make(session: Session) -> None:
    """Send one of each kind to whoever has the other end, and see what he does with them."""
    channel = only_channel(session)
    counter, event, vmo, job = Counter.create(), Event.create(), Vmo.create(4096), Job.create()
    mine, theirs = EventPair.create()
    here, there = Channel.create()
    here.write(b"before")
    vmo.write(b"from the maker")
    read_fd, write_fd = os.pipe()
    file = HostFile.create(write_fd)
    os.close(write_fd)
    handles: list[Handle] = [counter.duplicate(), event.duplicate(), theirs, there, vmo.duplicate(), file, job.duplicate()]
    koids = [handle.koid for handle in handles]
    channel.write(",".join(map(str, koids)).encode(), handles)
    here.write(b"after")
    assert here.read_blocking(soon())[0] == b"answer"
    counter.wait(Signals.COUNTER_POSITIVE, soon())
    event.wait(Signals.USER_0, soon())
    mine.wait(Signals.USER_1, soon())
    assert vmo.read(14) == b"from the taker"
    assert os.read(read_fd, 100) == b"to the host file"
    assert os.read(read_fd, 100) == b""  # nobody, the broker neither, keeps it open
    mine.wait(Signals.PEER_CLOSED, soon())
    here.wait(Signals.PEER_CLOSED, soon())
    session.root.write(b"made")
    session.root.wait(Signals.PEER_CLOSED, soon())


@action
def take(session: Session) -> None:
    """The other side of ``make``."""
    channel = only_channel(session)
    data, handles = channel.read_blocking(soon())
    counter, event, pair, there, vmo, file, job = handles
    assert isinstance(counter, Counter) and isinstance(event, Event) and isinstance(pair, EventPair) and isinstance(there, Channel)
    assert isinstance(vmo, Vmo) and isinstance(file, HostFile) and isinstance(job, Job)
    assert data.decode() == ",".join(str(handle.koid) for handle in handles)
    assert vmo.read(14) == b"from the maker"
    vmo.write(b"from the taker")
    os.write(file.fileno(), b"to the host file")
    assert there.read_blocking(soon())[0] == b"before"
    assert there.read_blocking(soon())[0] == b"after"
    there.write(b"answer")
    counter.add(2)
    event.signal(Signals.NONE, Signals.USER_0)
    pair.signal_peer(Signals.NONE, Signals.USER_1)
    for handle in handles:
        handle.close()
    session.root.write(b"taken")
    session.root.wait(Signals.PEER_CLOSED, soon())


@action
def pass_on(session: Session) -> None:
    """Read thirty messages of an end, and send the end back with the rest."""
    channel = only_channel(session)
    for number in range(30):
        assert channel.read_blocking(soon())[0] == number.to_bytes(2, "little")
    session.root.write(b"", [channel])
    session.root.wait(Signals.PEER_CLOSED, soon())


@action
def hold(session: Session) -> None:
    """Take nothing, say nothing."""
    session.root.write(b"ready")
    time.sleep(60)


@action
def burst(session: Session) -> None:
    """Write for ever, as fast as the window lets."""
    channel = only_channel(session)
    number = 0
    while True:
        channel.write_blocking(number.to_bytes(4, "little") + bytes(number % 3000))
        number += 1


@action
def write_ten_thousand(session: Session) -> None:
    channel = only_channel(session)
    for number in range(10_000):
        channel.write_blocking(number.to_bytes(4, "little") + bytes(number % 3000))


@action
def count(session: Session) -> None:
    """Read what ``burst`` writes until its channel closes, and tell how many messages came, whole and in order."""
    channel = only_channel(session)
    number = 0
    try:
        while True:
            assert channel.read_blocking(soon())[0] == number.to_bytes(4, "little") + bytes(number % 3000)
            number += 1
            if number == 100:
                session.root.write(b"some")
    except ZxStatus as error:
        assert error.status == Status.PEER_CLOSED, error
    session.root.write(str(number).encode())
    session.root.wait(Signals.PEER_CLOSED, soon())


@action
def say_and_exit(session: Session) -> None:
    for number in range(1000):
        session.root.write_blocking(number.to_bytes(4, "little") * 1000)


@action
def say_and_die(session: Session) -> None:
    for number in range(1000):
        session.root.write(number.to_bytes(4, "little"))
    session.root.read_blocking(soon())  # the reader has all of it, so it had left
    os.kill(os.getpid(), signal.SIGKILL)


@action
def fill(session: Session) -> None:
    """Write until it must wait, and tell how many messages that were."""
    channel = only_channel(session)
    count = 0
    try:
        while True:
            channel.write(bytes(1000))
            count += 1
    except ZxStatus as error:
        assert error.status == Status.SHOULD_WAIT
    assert not channel.pending & Signals.WRITABLE
    session.root.write(str(count).encode())
    channel.wait(Signals.WRITABLE, soon())
    channel.write(b"the end")
    session.root.write(b"there was room")
    session.root.wait(Signals.PEER_CLOSED, soon())


@action
def fill_as_it_may(session: Session) -> None:
    """Write whenever there is room."""
    channel = only_channel(session)
    while True:
        channel.write_blocking(bytes(1000))


@action
def pass_through(session: Session) -> None:
    """Send back through the channel what comes through it."""
    channel = only_channel(session)
    try:
        while True:
            channel.write_blocking(*channel.read_blocking(soon()))
    except ZxStatus as error:
        assert error.status == Status.PEER_CLOSED


@action
def add(session: Session) -> None:
    _, (counter,) = session.root.read_blocking(soon())
    assert isinstance(counter, Counter)
    for _ in range(20_000):
        counter.add(1)
    session.root.write(b"done")
    session.root.wait(Signals.PEER_CLOSED, soon())


@action
def add_for_ever(session: Session) -> None:
    _, (counter,) = session.root.read_blocking(soon())
    assert isinstance(counter, Counter)
    while True:
        counter.add(1)


@action
def wait_for_signals(session: Session) -> None:
    _, (pair,) = session.root.read_blocking(soon())
    assert isinstance(pair, EventPair)
    pair.wait(Signals.USER_0, soon())
    pair.signal_peer(Signals.NONE, Signals.USER_1)
    pair.wait(Signals.PEER_CLOSED, soon())
    session.root.write(b"closed")
    session.root.wait(Signals.PEER_CLOSED, soon())


@action
def outlive(session: Session) -> None:
    """The broker dies: all that it said is read, then its channels are closed."""
    channel = only_channel(session)
    session.root.write(b"ready")
    number = 0
    try:
        while True:
            assert channel.read_blocking(soon())[0] == number.to_bytes(4, "little")
            number += 1
    except ZxStatus as error:
        assert error.status == Status.PEER_CLOSED
    session.root.wait(Signals.PEER_CLOSED, soon())
    print(number, flush=True)


def main() -> None:
    ACTIONS[sys.argv[1]](Session.connect(sys.argv[2]))


if __name__ == "__main__":
    main()
