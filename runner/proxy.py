"""ChannelProxy: messages between a container and the outside, counted on their way in, so that they wake a suspended container.

::

    peer outside <-- remote_channel --> runner <-- container_channel --> container

One thread with a loop of its own serves all proxies (:func:`run_proxy_thread`). A message for the container raises the proxy's
counter before it is written; the container lowers it when it has handled the message, and is not suspended while it is positive.
What the container sends isn't counted. While the reader of one side is behind, nothing is read from the other. Behaviour:
Starnix's ``kernel_manager/proxy.rs``.

The loop is a queue of calls. Before each round of them its thread serves the broker if it can (:mod:`polynix.ipc.service`): then a message
comes in and goes out without another thread, and without a detour by the queue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from polynix.ipc.channel import Queued
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.objects import Channel, Counter, Message, Observer, Signals, Status, ZxStatus
from polynix.ipc.service import Sleeper, sleep
from polynix.runner.async_channel import ChannelClosed, Receiver
from polynix.runner.lockdep import LockDepMutex
from polynix.runner.trace import is_traced, trace_duration, trace_ended, trace_instant
from polynix.runner.wake_sources import WakeSources

log = logging.getLogger(__name__)

PROXY_THREAD_NAME = "proxy_thread"
_CATEGORY = "power"
_TURN = 64  # messages of one proxy before the others' turn
_TURN_COST = 256 << 10  # or what they count in windows
_WANTED = Signals.CHANNEL_READABLE | Signals.CHANNEL_PEER_CLOSED
_ROOM = Signals.CHANNEL_WRITABLE | Signals.CHANNEL_PEER_CLOSED  # nobody else writes there, so what is read can be written

Post = Callable[[Callable[[], None]], object]
"""Has a call made in the loop, from any thread."""


@dataclass(frozen=True)
class ChannelProxy:
    """What one proxy connects; it owns the handles."""

    container_channel: Channel
    """The channel to the container."""
    remote_channel: Channel
    """The channel to a peer outside of it."""
    message_counter: Counter
    """Messages that the container hasn't handled yet."""
    name: str
    """For people."""

    def close(self) -> None:
        """Close both channels, so that the peers see it, and the counter."""
        self.container_channel.close()
        self.remote_channel.close()
        self.message_counter.close()


NewProxy = tuple[ChannelProxy, LockDepMutex[WakeSources]]


class PeerClosed(Exception):
    """One side of a proxy is gone, and all that it sent has been forwarded."""


def run_proxy_thread(new_proxies: Receiver[NewProxy]) -> threading.Thread:
    """Start the thread that forwards for each proxy that it is sent. It ends, and its proxies with it, once the sender is closed."""
    thread = threading.Thread(target=lambda: _ProxyLoop(new_proxies).run(), name=PROXY_THREAD_NAME, daemon=True)
    thread.start()
    return thread


async def start_proxy(proxy: ChannelProxy, wake_sources: LockDepMutex[WakeSources]) -> None:
    """The same for one proxy, in an asyncio loop: forward messages until either side is closed or fails; then close both sides and
    remove the wake source.
    """
    import asyncio  # 40 ms, which the thread saves

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def post(call: Callable[[], None]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(call)

    def finish() -> None:
        if not ended.done():
            ended.set_result(None)

    run = ProxyRun(proxy, wake_sources, post, finish)
    run.start()
    try:
        await ended
    finally:
        run.stop()


class _ProxyLoop:
    """The thread's loop."""

    def __init__(self, new_proxies: Receiver[NewProxy]) -> None:
        self._new_proxies = new_proxies
        self._calls: deque[Callable[[], None]] = deque()
        self._sleeper = Sleeper()
        self._sleeps_in = 0  # the thread, while it sleeps or serves
        self._runs: set[ProxyRun] = set()
        self._closed = False

    def post(self, call: Callable[[], None]) -> None:
        """Make a call soon; at once if the loop's own thread has just fetched the reason for it."""
        here = self._sleeps_in
        if here and here == threading.get_ident():
            self._sleeps_in = 0
            try:
                call()
            finally:
                self._sleeps_in = here
        else:
            self._calls.append(call)
            self._sleeper.wake()

    def run(self) -> None:
        self._receive()
        calls = self._calls
        here = threading.get_ident()
        while not self._closed:
            self._sleeper.woken = False
            self._sleeps_in = here
            sleep(self._sleeper, 0 if calls else -1)
            self._sleeps_in = 0
            for _ in range(len(calls)):
                calls.popleft()()
        for run in list(self._runs):
            run.stop()

    def _receive(self) -> None:
        """Start the proxies that have come."""
        try:
            while True:
                new = self._new_proxies.try_recv(lambda: self.post(self._receive))
                if new is None:
                    return
                run = ProxyRun(*new, self.post, lambda: None)
                run.on_end = partial(self._runs.discard, run)
                self._runs.add(run)
                run.start()
        except ChannelClosed:
            self._closed = True


class ProxyRun:
    """One proxy at work, in whatever loop; ``on_end`` is called when both sides are closed."""

    def __init__(self, proxy: ChannelProxy, wake_sources: LockDepMutex[WakeSources], post: Post, on_end: Callable[[], object]) -> None:
        self.proxy = proxy
        self.post = post
        self.on_end = on_end
        self._wake_sources = wake_sources
        self._koid = proxy.message_counter.koid
        self._ended = False
        container, remote = proxy.container_channel, proxy.remote_channel
        self._directions = (
            _Direction(self, container, remote, None, "container"),
            _Direction(self, remote, container, proxy.message_counter, "remote"),
        )

    def start(self) -> None:
        trace_instant(_CATEGORY, "starnix_runner:start_proxy:loop:enter", self.proxy.name)
        for direction in self._directions:
            direction.forward()

    def direction_ended(self) -> None:
        """A write may fail before the closed side's last messages have been forwarded: then the other direction goes on until it ends too."""
        if any(not direction.ended and direction.is_last_words for direction in self._directions):
            return
        self.stop()

    def stop(self) -> None:
        """Close both sides, and remove the wake source."""
        if self._ended:
            return
        self._ended = True
        for direction in self._directions:
            direction.ended = True
            direction.cancel()
        trace_instant(_CATEGORY, "starnix_runner:start_proxy:loop:exit", self.proxy.name)
        with self._wake_sources.lock() as sources:
            sources.pop(self._koid, None)  # its handle closes when a suspend that may be waiting lets go of it
        self.proxy.close()
        self.on_end()


class _Direction:
    """One direction: forwards what there is, and waits for more."""

    def __init__(self, run: ProxyRun, read_channel: Channel, write_channel: Channel, message_counter: Counter | None, side: str) -> None:
        self.ended = False
        self._run = run
        self._read_channel = read_channel
        self._write_channel = write_channel
        self._message_counter = message_counter
        self._side = side
        self._observed: tuple[Channel, Observer] | None = None
        self._waiting_since = 0

    @property
    def is_last_words(self) -> bool:
        """Whether the side that is read from is closed, and only what it had sent is left."""
        return self._read_channel.is_valid and bool(self._read_channel.pending & Signals.CHANNEL_PEER_CLOSED)

    def forward(self) -> None:
        """A few messages, so that proxies take turns."""
        if self.ended:
            return
        try:
            if not self._write_channel.has(_ROOM):
                self._wait(self._write_channel, _ROOM)
                return
            if is_traced():
                self._forward_traced()
                return
            many = self._read_channel.read_many(_TURN, _TURN_COST)
            if not many:
                self._wait(self._read_channel, _WANTED)
                return
            self._pass_on(many)
            if len(many) < _TURN and not self._read_channel.has(_WANTED):
                self._wait(self._read_channel, _WANTED)
                return
        except PeerClosed:
            self._end(None)
        except ZxStatus as error:
            self._end(error)
        else:
            self._run.post(self.forward)

    def _pass_on(self, many: list[Queued]) -> None:
        """The counter goes up before they are written."""
        if self._message_counter is not None:
            try:
                self._message_counter.add(len(many))
            except ZxStatus:
                for queued in many:
                    if isinstance(queued, Message):
                        queued.close()
                raise
        self._write_channel.write_many(many)

    def _forward_traced(self) -> None:
        """One message, as a trace shows it."""
        name = self._run.proxy.name
        signals = self._read_channel.pending
        if not signals & _WANTED:
            self._wait(self._read_channel, _WANTED)
            return
        if self._waiting_since:
            trace_ended(_CATEGORY, "starnix_runner:start_proxy:wait_for_messages", name, self._waiting_since)
            self._waiting_since = 0
            trace_instant(_CATEGORY, f"starnix_runner:start_proxy:{self._side}_readable", name)
        forward_message(signals, self._read_channel, self._write_channel, self._message_counter, name)
        self._run.post(self.forward)

    def _wait(self, channel: Channel, signals: Signals) -> None:
        if signals is _WANTED:
            self._waiting_since = time.monotonic_ns()
        self._observed = channel, channel.wait_async(signals, self._wake)

    def _wake(self, _status: Status, _pending: Signals) -> None:
        self._run.post(self.forward)

    def cancel(self) -> None:
        if self._observed is not None:
            channel, observer = self._observed
            channel.cancel(observer)

    def _end(self, error: ZxStatus | None) -> None:
        self.ended = True
        name = self._run.proxy.name
        if error is None or error.status == Status.PEER_CLOSED:
            log.debug("proxy %s: the %s side is closed", name, self._side)
        else:
            trace_instant(_CATEGORY, "starnix_runner:start_proxy:result:error", name)
            log.warning("proxy %s failed to forward a message from the %s side: %s", name, self._side, error)
        self._run.direction_ended()


def forward_message(signals: Signals, read_channel: Channel, write_channel: Channel, message_counter: Counter | None, name: str) -> None:
    """Forward one message if there is one; the counter goes up before it is written. Errors: ZxStatus; PeerClosed only once nothing
    is left to read.
    """
    with trace_duration(_CATEGORY, "starnix_runner:forward_message", name):
        if signals & Signals.CHANNEL_READABLE:
            many = read_channel.read_many(1)
            if message_counter is not None:
                try:
                    message_counter.add(1)
                except ZxStatus:
                    for queued in many:
                        if isinstance(queued, Message):
                            queued.close()
                    raise
                trace_instant(_CATEGORY, "starnix_runner:forward_message:counter_incremented", name)
            write_channel.write_many(many)
        elif signals & Signals.CHANNEL_PEER_CLOSED:  # after all that was queued
            raise PeerClosed
