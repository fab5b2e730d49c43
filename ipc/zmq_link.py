"""Channels between processes: each is a zmq PAIR socket on either side, served by one thread of the process.

:func:`listen` and :func:`connect` give a :class:`Channel` whose other end is in the process that did the other. What one side writes
is read by the other whole and in order; when a process dies, what had left it is still read, and then PEER_CLOSED is seen. Handles
can't be sent (NOT_SUPPORTED): they travel within a realm (:mod:`polynix.ipc.session`), and a link is for peers outside of one.

A sender may be 4096 messages ahead of the reader; the rest waits in its own process. (zmq's own limits are off: a connection that
breaks while they hold it back loses what the host's socket still has.)

Frames: ``M`` data | ``K`` (half of 4096 messages have been read) | ``S`` clear set | ``C`` (closed). Anything else closes the link.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from polynix.ipc.channel import MAX_BYTES, MESSAGE_COST, RIGHTS, Channel, ChannelEnd, Message
from polynix.ipc.signals import Signals
from polynix.ipc.status import Status, ZxStatus

log = logging.getLogger(__name__)

_SIGNALS = struct.Struct("<II")
_LINGER_MS = 1000
WINDOW = 4096  # messages that were sent and not read yet
_BATCH = 256  # messages of one link before the others' turn


class Link:
    """The :class:`~polynix.ipc.channel.ChannelPeer` of an end whose other end is elsewhere."""

    koid = 0  # the far end's is not known here

    def __init__(self, thread: _LinkThread, end: ChannelEnd, address: str, bind: bool) -> None:
        self.thread = thread
        self.end = end
        self.address = address
        self.bind = bind
        self.outgoing: deque[list[bytes]] = deque()
        self.closing = False
        self.disconnected = False
        self.credit = WINDOW  # messages that may go out
        self.sent_up = self.reported = 0  # messages that came, and were reported as read
        self.accepted = -1  # zmq's descriptor of the one connection
        self.socket: Any = None
        self.monitor: Any = None

    # -- called by the end, its lock held, from any thread -----------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        """Errors: NOT_SUPPORTED for handles that the far process can't be given."""
        if message.handles:
            raise ZxStatus(Status.NOT_SUPPORTED, "handles cannot leave the realm")
        self._send(b"M", message.data)

    def deliver_plain(self, datas: Sequence[bytes], cost: int) -> None:
        for data in datas:
            self._send(b"M", data)

    @property
    def backlog(self) -> int:
        return len(self.outgoing)

    is_full = False

    def signal_from_peer(self, clear: Signals, set_: Signals) -> None:
        self._send(b"S", _SIGNALS.pack(int(clear), int(set_)))

    def consumed(self, cost: int, backlog: int) -> None:
        read = self.sent_up - len(self.end.queue) - self.reported
        if read >= WINDOW // 2:
            self.reported += WINDOW // 2
            self._send(b"K")

    def peer_closed(self) -> None:
        self.closing = True  # first: should the thread come in between, the connection's end tells as much
        self._send(b"C")

    def _send(self, *frames: bytes) -> None:
        self.outgoing.append(list(frames))
        self.thread.wake()

    @property
    def may_send(self) -> bool:
        """Whether there is something, and the far side has room for it."""
        return bool(self.outgoing) and (self.credit > 0 or self.outgoing[0][0] != b"M")

    # -- called by the thread ----------------------------------------------------------------------------------------------------

    def receive(self, frames: list[bytes]) -> bool:
        """False when the link is over. Errors: ValueError, ZxStatus, struct.error for frames that no link sends."""
        kind, *rest = frames
        if kind == b"K" and not rest and self.credit <= WINDOW // 2:
            self.credit += WINDOW // 2
        elif kind == b"C":
            return False
        elif self.closing:
            pass  # nobody reads it; handles come back when the link is over
        elif kind == b"M":
            (data,) = rest
            if len(self.end.queue) >= WINDOW:
                raise ValueError("more messages than the window")
            if len(data) > MAX_BYTES:
                raise ValueError("a message beyond the limits")
            self.end.deliver_plain((data,), len(data) + MESSAGE_COST)
            self.sent_up += 1
        elif kind == b"S":
            clear, set_ = _SIGNALS.unpack(*rest)
            if (clear | set_) & ~int(self.end.user_signals):
                raise ValueError("not user signals")
            self.end.signal_from_peer(Signals(clear), Signals(set_))
        else:
            raise ValueError(f"frame {kind!r}")
        return True

    def ended(self) -> None:
        """The far side is gone, or what it says makes no sense."""
        self.end.peer_closed()


class _LinkThread:
    """Serves all links of this process; sockets belong to it alone."""

    def __init__(self) -> None:
        import zmq

        self.zmq = zmq
        self.context = zmq.Context(io_threads=1)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._new: deque[Link] = deque()
        self._links: list[Link] = []
        self._stop_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="links", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The process ends: send what can be sent within a second."""
        self._stop_at = time.monotonic() + _LINGER_MS / 1000
        self.wake()
        self._thread.join(2 * _LINGER_MS / 1000)

    def wake(self) -> None:
        os.eventfd_write(self._wake, 1)

    def add(self, link: Link) -> None:
        zmq = self.zmq
        link.socket = self.context.socket(zmq.PAIR)
        link.socket.linger = _LINGER_MS
        link.socket.reconnect_ivl = 5
        link.socket.maxmsgsize = MAX_BYTES
        link.socket.set_hwm(0)
        link.monitor = link.socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        try:
            if link.bind:
                link.socket.bind(link.address)
            else:
                link.socket.connect(link.address)
        except zmq.ZMQError as error:
            link.socket.disable_monitor()
            link.monitor.close(linger=0)
            link.socket.close(linger=0)
            raise ZxStatus(Status.INVALID_ARGS, f"{link.address}: {error}") from error
        self._new.append(link)
        self.wake()

    def _run(self) -> None:
        zmq = self.zmq
        while self._stop_at is None or (time.monotonic() < self._stop_at and (self._new or any(link.may_send for link in self._links))):
            poller = zmq.Poller()
            poller.register(self._wake, zmq.POLLIN)
            for link in self._links:
                poller.register(link.socket, zmq.POLLIN | (zmq.POLLOUT if link.may_send else 0))
                poller.register(link.monitor, zmq.POLLIN)
            ready = dict(poller.poll(None if self._stop_at is None else 10))
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            while self._new:
                self._links.append(self._new.popleft())
            for link in list(self._links):
                try:
                    going_on = self._serve(link, link.monitor in ready)
                except Exception as error:
                    log.warning("closing a link to %s: %s", link.address, error)
                    going_on = False
                if not going_on:
                    self._links.remove(link)
                    link.ended()
                    self._close(link)
        for link in self._links:
            self._close(link)
        self.context.term()  # after the sockets' linger time at the latest

    def _close(self, link: Link) -> None:
        link.socket.disable_monitor()
        link.monitor.close(linger=0)
        link.socket.close()

    def _serve(self, link: Link, event: bool) -> bool:
        zmq = self.zmq
        if event:
            self._read_events(link)
        read_all = False
        for _ in range(_BATCH):
            try:
                frames = link.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                read_all = True
                break
            if not link.receive(frames):
                return False
        if link.disconnected:
            return not (read_all or link.closing)
        while link.may_send:
            try:
                link.socket.send_multipart(link.outgoing[0], zmq.NOBLOCK)
            except zmq.Again:
                return True
            link.credit -= link.outgoing.popleft()[0] == b"M"
        return bool(link.outgoing) or not link.closing

    def _read_events(self, link: Link) -> None:
        from zmq.utils.monitor import recv_monitor_message

        zmq = self.zmq
        while link.monitor.poll(0):
            event = recv_monitor_message(link.monitor, zmq.NOBLOCK)
            if event["event"] == zmq.EVENT_ACCEPTED:
                if link.accepted < 0:  # zmq turns others away: a pair is for two
                    link.accepted = event["value"]
            elif not link.bind or event["value"] == link.accepted:
                link.disconnected = True
                self.wake()


class _Process:
    """The thread of this process; a forked child starts one of its own."""

    lock = threading.Lock()
    thread: _LinkThread | None = None
    pid = 0

    @classmethod
    def link_thread(cls) -> _LinkThread:
        with cls.lock:
            if cls.thread is None or cls.pid != os.getpid():
                cls.thread, cls.pid = _LinkThread(), os.getpid()
                atexit.register(cls.stop)
            return cls.thread

    @classmethod
    def stop(cls) -> None:
        if cls.thread is not None and cls.pid == os.getpid():
            cls.thread.stop()


def _open(address: str, bind: bool) -> Channel:
    thread = _Process.link_thread()
    end = ChannelEnd()
    channel = Channel(end, RIGHTS)
    link = Link(thread, end, address, bind)
    thread.add(link)
    end.peer = link
    return channel


def listen(address: str) -> Channel:
    """One end of a channel; the other goes to the first process that connects to ``address``, such as ``ipc:///run/x/manager``.
    Errors: INVALID_ARGS.
    """
    return _open(address, True)


def connect(address: str) -> Channel:
    """The other end of what listens, or will listen, at ``address``. Messages may be written at once. Errors: INVALID_ARGS."""
    return _open(address, False)
