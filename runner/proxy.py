"""ChannelProxy: messages between a container and the outside, counted on their way in, so that they wake a suspended container.

::

    peer outside <-- remote_channel --> runner <-- container_channel --> container

One thread with a loop of its own serves all proxies (:func:`run_proxy_thread`). A message for the container raises the proxy's
counter before it is written; the container lowers it when it has handled the message, and is not suspended while it is positive.
What the container sends isn't counted. While the reader of one side is behind, nothing is read from the other. Behaviour:
Starnix's ``kernel_manager/proxy.rs``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass

from polynix.ipc.objects import Channel, Counter, Signals, Status, ZxStatus
from polynix.runner.async_channel import ChannelClosed, Receiver
from polynix.runner.lockdep import LockDepMutex
from polynix.runner.trace import trace_duration, trace_instant
from polynix.runner.wake_sources import WakeSources

log = logging.getLogger(__name__)

PROXY_THREAD_NAME = "proxy_thread"
_CATEGORY = "power"
_TURN = 64  # messages of one proxy before the others' turn
_WANTED = Signals.CHANNEL_READABLE | Signals.CHANNEL_PEER_CLOSED
_ROOM = Signals.CHANNEL_WRITABLE | Signals.CHANNEL_PEER_CLOSED  # nobody else writes there, so what is read can be written


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
    """Start the thread that runs :func:`start_proxy` for each proxy that it is sent. It ends, and its proxies with it, once the
    sender is closed.
    """

    async def serve() -> None:
        tasks: set[asyncio.Task[None]] = set()
        while True:
            try:
                proxy, wake_sources = await new_proxies.recv()
            except ChannelClosed:
                break
            task = asyncio.create_task(start_proxy(proxy, wake_sources))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0)  # one that came last must have begun to end in an orderly way
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name=PROXY_THREAD_NAME, daemon=True)
    thread.start()
    return thread


async def start_proxy(proxy: ChannelProxy, wake_sources: LockDepMutex[WakeSources]) -> None:
    """Forward messages until either side is closed or fails; then close both sides and remove the wake source."""
    koid = proxy.message_counter.koid
    trace_instant(_CATEGORY, "starnix_runner:start_proxy:loop:enter", proxy.name)
    container, remote = proxy.container_channel, proxy.remote_channel
    directions = {
        asyncio.create_task(_forward(proxy, container, remote, None)): container,
        asyncio.create_task(_forward(proxy, remote, container, proxy.message_counter)): remote,
    }
    try:
        _ended, going_on = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for direction in going_on:  # a write may fail before the closed side's last messages have been forwarded
            if directions[direction].pending & Signals.CHANNEL_PEER_CLOSED:
                await asyncio.wait([direction])
    finally:
        for direction in directions:
            direction.cancel()
        try:
            await asyncio.gather(*directions, return_exceptions=True)
        finally:  # the thread may end just now
            trace_instant(_CATEGORY, "starnix_runner:start_proxy:loop:exit", proxy.name)
            with wake_sources.lock() as sources:
                sources.pop(koid, None)  # its handle closes when a suspend that may be waiting lets go of it
            proxy.close()


async def _forward(proxy: ChannelProxy, read_channel: Channel, write_channel: Channel, message_counter: Counter | None) -> None:
    """One direction: a few messages for each wait, so that proxies take turns."""
    side = "container" if message_counter is None else "remote"
    try:
        while True:
            with trace_duration(_CATEGORY, "starnix_runner:start_proxy:wait_for_messages", proxy.name):
                await write_channel.on_signals(_ROOM)
                signals = await read_channel.on_signals(_WANTED)
            trace_instant(_CATEGORY, f"starnix_runner:start_proxy:{side}_readable", proxy.name)
            for _ in range(_TURN):
                forward_message(signals, read_channel, write_channel, message_counter, proxy.name)
                signals = read_channel.pending
                if not signals & _WANTED or not write_channel.pending & _ROOM:
                    break
            await asyncio.sleep(0)
    except PeerClosed:
        log.debug("proxy %s: the %s side is closed", proxy.name, side)
    except ZxStatus as error:
        trace_instant(_CATEGORY, "starnix_runner:start_proxy:result:error", proxy.name)
        level = logging.DEBUG if error.status in (Status.PEER_CLOSED, Status.CANCELED) else logging.WARNING
        log.log(level, "proxy %s failed to forward a message from the %s side: %s", proxy.name, side, error)


def forward_message(signals: Signals, read_channel: Channel, write_channel: Channel, message_counter: Counter | None, name: str) -> None:
    """Forward one message if there is one; the counter goes up before it is written. Errors: ZxStatus; PeerClosed only once nothing
    is left to read.
    """
    with trace_duration(_CATEGORY, "starnix_runner:forward_message", name):
        if signals & Signals.CHANNEL_READABLE:
            message = read_channel.read_message()
            if message_counter is not None:
                try:
                    message_counter.add(1)
                except ZxStatus:
                    message.close()
                    raise
                trace_instant(_CATEGORY, "starnix_runner:forward_message:counter_incremented", name)
            write_channel.write_message(message)
        elif signals & Signals.CHANNEL_PEER_CLOSED:  # after all that was queued
            raise PeerClosed
