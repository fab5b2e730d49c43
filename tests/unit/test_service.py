"""Who serves: a thread that waits, as long as one does; the service's own otherwise."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator

import pytest
from polynix.ipc._atomics import Words
from polynix.ipc.service import Service, Sleeper, sleep, sleep_until
from waiting import wait_until

WAIT_SECONDS = 30.0


class Mailbox:
    """Something to serve: whoever serves runs the calls that lie in it."""

    def __init__(self) -> None:
        self.ended = False
        self.leader = 0
        self.served_by: Tally[int] = Tally()
        self.sleeping = threading.Semaphore(0)  # once for each time that somebody went to sleep here
        self._calls: list[Callable[[], object]] = []
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)

    def put(self, call: Callable[[], object]) -> None:
        self._calls.append(call)
        self.interrupt()

    def interrupt(self) -> None:
        os.eventfd_write(self._wake, 1)

    def serve(self, timeout: float) -> None:
        self.sleeping.release()
        self._poll.poll(None if timeout < 0 else timeout * 1000)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while self._calls:
            self.served_by[threading.get_ident()] += 1
            self._calls.pop(0)()

    def close(self) -> None:
        os.close(self._wake)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    served = Mailbox()
    service = Service(served, "test")
    yield served
    served.ended = True
    service.join()
    served.close()


def test_the_service_thread_serves_while_nobody_waits(mailbox: Mailbox) -> None:
    done = threading.Event()
    mailbox.put(done.set)
    assert done.wait(WAIT_SECONDS)
    assert threading.get_ident() not in mailbox.served_by


def test_it_gives_way_to_who_waits(mailbox: Mailbox) -> None:
    """What comes for a thread that waits is fetched by that thread, though the service's led before."""
    assert mailbox.sleeping.acquire(timeout=WAIT_SECONDS)
    assert wait_until(lambda: mailbox.leader != 0)
    sleeper = Sleeper()

    def send() -> None:
        assert wait_until(lambda: mailbox.leader == main)
        mailbox.put(sleeper.wake)

    main = threading.get_ident()
    sender = threading.Thread(target=send)
    sender.start()
    assert sleep_until(sleeper, time.monotonic() + WAIT_SECONDS)
    sender.join()
    assert mailbox.served_by == {main: 1}


def test_no_wait_in_a_row_waits_for_the_service_thread(mailbox: Mailbox) -> None:
    """It once looked whether it was needed, and whoever came to wait meanwhile waited for it."""
    main = threading.get_ident()
    turns = 300

    def send(sleeper: Sleeper) -> None:
        assert wait_until(lambda: mailbox.leader == main)
        mailbox.put(sleeper.wake)

    for _ in range(turns):
        sleeper = Sleeper()
        sender = threading.Thread(target=send, args=(sleeper,))
        sender.start()
        assert sleep_until(sleeper, time.monotonic() + WAIT_SECONDS)
        sender.join()
    assert mailbox.served_by == {main: turns}


def test_it_leads_again_when_nobody_waits_any_more(mailbox: Mailbox) -> None:
    assert not sleep_until(Sleeper(), time.monotonic() + 0.01)
    done = threading.Event()
    mailbox.put(done.set)
    assert done.wait(WAIT_SECONDS)


def test_a_sleep_of_no_time_serves_what_has_come(mailbox: Mailbox) -> None:
    main = threading.get_ident()
    sleeper = Sleeper()

    def fetched() -> bool:
        sleep_until(sleeper, time.monotonic() + 0.01)  # nobody else leads for a moment
        mailbox.put(lambda: None)
        sleep(sleeper, 0)
        return mailbox.served_by[main] > 0

    assert wait_until(fetched)


def test_a_second_sleeper_leads_after_the_first(mailbox: Mailbox) -> None:
    first, second = Sleeper(), Sleeper()
    woken: list[int] = []
    threads: list[threading.Thread] = []

    def wait(sleeper: Sleeper) -> None:
        assert sleep_until(sleeper, time.monotonic() + WAIT_SECONDS)
        woken.append(threading.get_ident())

    threads = [threading.Thread(target=wait, args=(sleeper,)) for sleeper in (first, second)]
    threads[0].start()
    assert wait_until(lambda: mailbox.leader == threads[0].ident)
    threads[1].start()
    mailbox.put(first.wake)
    assert wait_until(lambda: mailbox.leader == threads[1].ident)
    mailbox.put(second.wake)
    for thread in threads:
        thread.join()
    assert woken == [thread.ident for thread in threads]
    assert mailbox.served_by == {thread.ident: 1 for thread in threads}


def test_one_that_waits_elsewhere_is_woken_by_its_own_thread_too(mailbox: Mailbox) -> None:
    """A wake-up from outside ends a sleep that leads, and one that follows."""
    leading, following = Sleeper(), Sleeper()
    threads = [threading.Thread(target=sleep_until, args=(sleeper, None)) for sleeper in (leading, following)]
    for thread in threads:
        thread.start()
        assert wait_until(lambda: mailbox.leader == threads[0].ident)
    for sleeper, thread in zip((following, leading), reversed(threads), strict=True):
        sleeper.wake()
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


def test_the_end_wakes_all(mailbox: Mailbox) -> None:
    """Who still waits then does so without serving."""
    sleeper = Sleeper()
    thread = threading.Thread(target=sleep_until, args=(sleeper, None))
    thread.start()
    assert wait_until(lambda: mailbox.leader == thread.ident)
    mailbox.ended = True
    mailbox.interrupt()
    assert wait_until(lambda: mailbox.leader == 0)
    sleeper.wake()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


def test_a_word_is_still_when_it_is_even_and_stays(mailbox: Mailbox) -> None:
    words = Words(bytearray(8))
    words.add(0, 1)
    seen: list[int] = []

    def wait() -> None:
        words.wait_still(0, 1000)
        seen.append(words.load(0))

    thread = threading.Thread(target=wait)
    thread.start()
    assert not seen
    words.wake(0)
    thread.join(WAIT_SECONDS)
    assert seen == [2]
