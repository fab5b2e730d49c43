"""Channels to peers outside of a realm, other machines' among them: each is a zmq PAIR of its own.

:func:`listen` and :func:`connect` give a :class:`Channel` whose other end is in the process that did the other, at an ``ipc://`` or, with
:class:`CurveKeys`, a ``tcp://`` address. It does what channels do, within :data:`~polynix.ipc.channel.WINDOW`, save for handles: these
travel within a realm (:mod:`polynix.ipc.session`), and a message with any is NOT_SUPPORTED here. When a process dies, what had left it
is still read, and then PEER_CLOSED is seen.

The records are a session's, with one number: WRITE, SIGNAL, CREDIT, CLOSED. Anything else closes the link.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polynix.ipc.channel import REPORT, RIGHTS, WINDOW, Channel, ChannelEnd, Message
from polynix.ipc.object_lock import OBJECTS
from polynix.ipc.record import NUMBER, ROOT, SIGNALS, Operation, Record, Run, decode, encode, encode_run, signals, word
from polynix.ipc.service import Service
from polynix.ipc.signals import Signals
from polynix.ipc.status import Status, ZxStatus
from polynix.ipc.wire import Wire, WireError
from polynix.ipc.wire_server import WireServer

log = logging.getLogger(__name__)

_LINGER_SECONDS = 1.0
_SLACK = 1 << 20  # by which who passes on many messages at once may exceed the window
_ZAP_ENDPOINT = "inproc://zeromq.zap.01"  # https://rfc.zeromq.org/spec/27
_ZAP_VERSION = b"1.0"


@dataclass(frozen=True)
class CurveKeys:
    """A side's own keys, and the other side's public one; in zmq's text form (Z85, 40 characters). Both sides check each other."""

    public: bytes
    secret: bytes
    peer: bytes

    @staticmethod
    def generate() -> tuple[bytes, bytes]:
        """A new pair: public, secret."""
        import zmq

        public, secret = zmq.curve_keypair()
        return bytes(public), bytes(secret)


class Link:
    """The :class:`~polynix.ipc.channel.ChannelPeer` of an end whose other end is elsewhere."""

    koid = 0  # the far end's is not known here

    def __init__(self, links: _Links, end: ChannelEnd, address: str, bind: bool, keys: CurveKeys | None) -> None:
        import zmq

        self._links = links
        self._end = end
        self.address = address
        self.closing = False
        self._credit = WINDOW
        self._unreported = 0
        self._flush_due = False
        self._zap_domain = links.allow(keys.peer) if bind and keys is not None else b""
        self.polled: dict[int, int] = {}
        context = links.context

        def give_keys(socket: Any) -> None:
            assert keys is not None
            socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
            if bind:
                socket.curve_server = True
                socket.zap_domain = self._zap_domain
            else:
                socket.curve_serverkey = keys.peer

        try:
            self.wire = Wire(
                context,
                address,
                bind=bind,
                beside=None,
                on_attention=lambda: links.look_at(self),
                curve=None if keys is None else give_keys,
            )
        except (zmq.ZMQError, ValueError, AssertionError) as error:
            raise ZxStatus(Status.INVALID_ARGS, f"{address}: {error}") from error

    # -- ChannelPeer: called by the end, the lock held, from any thread ----------------------------------------------------------

    @property
    def is_full(self) -> bool:
        return self._credit <= 0

    @property
    def backlog(self) -> int:
        return WINDOW - self._credit

    def deliver(self, message: Message) -> bool:
        """Errors: NOT_SUPPORTED."""
        raise ZxStatus(Status.NOT_SUPPORTED, "handles cannot leave the realm")

    def deliver_plain(self, datas: Sequence[bytes], cost: int) -> bool:
        for records in encode_run(ROOT, datas):
            self._send(records)
        self._credit -= cost
        return self.is_full

    def peer_closed(self) -> None:
        self.closing = True
        self._send(encode(Operation.CLOSED, ROOT))

    def signal_from_peer(self, clear: Signals, set_: Signals) -> None:
        self._send(encode(Operation.SIGNAL, ROOT, SIGNALS.pack(int(clear), int(set_))))

    def consumed(self, cost: int, backlog: int) -> None:
        self._unreported += cost
        if self._unreported >= REPORT:
            self._send(encode(Operation.CREDIT, ROOT, NUMBER.pack(self._unreported)))
            self._unreported = 0

    def _send(self, record: bytes) -> None:
        if self.wire.send(record) and not self._flush_due:
            self._flush_due = True
            OBJECTS.after(self.flush)

    def flush(self) -> None:
        self._flush_due = False
        self.wire.flush()
        if self.closing:
            self._links.look_at(self)

    # -- called by who serves the links ------------------------------------------------------------------------------------------

    def process(self) -> bool:
        """False when the link is over. Errors: WireError, ZxStatus."""
        frames = self.wire.receive()
        going_on = True
        with OBJECTS:
            for frame in frames:
                for record in decode(frame):
                    if record.number != ROOT:
                        raise WireError(f"number {record.number} on a link")
                    if type(record) is Run:
                        if self._end.backlog + record.cost - len(record.datas[-1]) >= WINDOW + _SLACK:
                            raise WireError("a write beyond the window")
                        if not self.closing:
                            self._end.deliver_plain(record.datas, record.cost)
                    elif isinstance(record, Record):
                        going_on = self._handle(record) and going_on
        self.wire.flush()
        if not self.wire.drained:
            self._links.look_at(self)
        if self.closing and not self.wire.has_unsent:
            return False
        return going_on and not self.wire.ended

    def _handle(self, record: Record) -> bool:
        if record.entries:
            raise WireError("handles on a link")
        if record.operation == Operation.CREDIT:
            self._credit += word(record)
            if self._credit > WINDOW:
                raise WireError("more was read than was sent")
            if self._credit > WINDOW // 2 and not self.closing:
                self._end.update_signals(Signals.NONE, Signals.WRITABLE)
        elif record.operation == Operation.SIGNAL:
            clear, set_ = signals(record)
            self._end.signal_from_peer(Signals(clear), Signals(set_))
        elif record.operation == Operation.CLOSED:
            return False
        else:
            raise WireError(f"operation {record.operation} on a link")
        return True

    def ended(self) -> None:
        """The far side is gone, or what it says makes no sense."""
        if not self.closing:
            self._end.peer_closed()
        self.wire.close()
        self._links.forbid(self._zap_domain)


class _Links(WireServer[Link]):
    """All links of this process, and the keys that may connect to them."""

    def __init__(self) -> None:
        import zmq

        super().__init__()
        self._zmq = zmq
        self.context = zmq.Context(io_threads=1)
        self._links: set[Link] = set()
        self._allowed: dict[bytes, bytes] = {}  # zap domain -> raw public key
        self._domains = 0
        self._zap: Any = None
        self._zap_fd = -1
        self._service = Service(self, "links", helped=False)

    # -- keys --------------------------------------------------------------------------------------------------------------------

    def allow(self, public: bytes) -> bytes:
        """A zap domain for who has the secret to this key. Errors: ZxStatus INVALID_ARGS."""
        from zmq.utils import z85

        try:
            key = z85.decode(public)
        except (ValueError, KeyError) as error:
            raise ZxStatus(Status.INVALID_ARGS, f"not a public key: {public!r}") from error
        with _Process.lock:
            if self._zap is None:
                self._zap = self.context.socket(self._zmq.ROUTER)
                self._zap.bind(_ZAP_ENDPOINT)
                self._zap_fd = int(self._zap.getsockopt(self._zmq.FD))
                self._epoll.register(self._zap_fd, select.EPOLLIN)
            self._domains += 1
            domain = b"link-%d" % self._domains
            self._allowed[domain] = key
        self.interrupt()
        return domain

    def forbid(self, domain: bytes) -> None:
        self._allowed.pop(domain, None)

    def _answer_zap(self) -> None:
        """Say to zmq who may connect."""
        while True:
            try:
                frames = self._zap.recv_multipart(self._zmq.NOBLOCK)
            except self._zmq.Again:
                return
            split = frames.index(b"") + 1 if b"" in frames else len(frames)
            request = frames[split:]
            if len(request) < 6:
                continue
            _version, number, domain, _address, _identity, mechanism, *credentials = request
            known = mechanism == b"CURVE" and credentials == [self._allowed.get(domain)]
            answer = (b"200", b"OK") if known else (b"400", b"not the key that was agreed on")
            if not known:
                log.warning("a peer without the right key is turned away")
            self._zap.send_multipart([*frames[:split], _ZAP_VERSION, number, *answer, b"", b""])

    # -- serving -----------------------------------------------------------------------------------------------------------------

    def add(self, link: Link) -> None:
        self._links.add(link)
        self.look_at(link)

    def serve(self, timeout: float) -> None:
        due = self.await_due(timeout)
        if self._zap is not None:
            self._answer_zap()
        for link in due:
            if link not in self._links:
                continue
            try:
                going_on = link.process()
            except (WireError, ZxStatus) as error:
                log.warning("closing a link to %s: %s", link.address, error)
                going_on = False
            if not going_on:
                self._remove(link)
            elif not link.polled:
                self.poll_for(link)

    def _remove(self, link: Link) -> None:
        self._links.discard(link)
        self.poll_no_more(link)
        link.ended()

    def stop(self) -> None:
        """The process ends: send what can be sent within a second."""
        deadline = time.monotonic() + _LINGER_SECONDS
        while any(link.wire.has_unsent for link in list(self._links)) and time.monotonic() < deadline:
            time.sleep(0.001)
        self.ended = True
        self._service.join()
        for link in list(self._links):
            self._remove(link)
        if self._zap is not None:
            self._zap.close(linger=0)
        self.context.term()  # after the sockets' linger time at the latest


class _Process:
    """The links of this process; a forked child starts anew."""

    lock = threading.Lock()
    links: _Links | None = None
    pid = 0

    @classmethod
    def get(cls) -> _Links:
        with cls.lock:
            if cls.links is None or cls.pid != os.getpid():
                cls.links, cls.pid = _Links(), os.getpid()
                atexit.register(cls.stop)
            return cls.links

    @classmethod
    def stop(cls) -> None:
        if cls.links is not None and cls.pid == os.getpid():
            cls.links.stop()


def _open(address: str, bind: bool, keys: CurveKeys | None) -> Channel:
    if keys is None and not address.startswith(("ipc://", "inproc://")):
        raise ZxStatus(Status.INVALID_ARGS, f"{address}: an address that other machines reach needs keys")
    links = _Process.get()
    end = ChannelEnd()
    channel = Channel(end, RIGHTS)
    link = Link(links, end, address, bind, keys)
    end.peer = link
    links.add(link)
    return channel


def listen(address: str, keys: CurveKeys | None = None) -> Channel:
    """One end of a channel; the other goes to the first process that connects to ``address``, such as ``ipc:///run/x/manager`` or, with
    the right keys, ``tcp://192.0.2.1:7000``. Errors: INVALID_ARGS, also for ``tcp://`` without keys.
    """
    return _open(address, True, keys)


def connect(address: str, keys: CurveKeys | None = None) -> Channel:
    """The other end of what listens, or will listen, at ``address``. Messages may be written at once; PEER_CLOSED is seen if either side's
    keys are not what the other expects. Errors: INVALID_ARGS.
    """
    return _open(address, False, keys)
