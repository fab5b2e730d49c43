"""The client's end of a protocol, for threads (:class:`BlockingClient`) and for those who poll (:class:`PolledClient`); ``async_client`` is for asyncio.

A reply carries the txid and the ordinal of its request, and both are checked. Anything wrong closes the channel, and all who wait for
a reply are told; so are they when the server closes, with the status of its epitaph if it left one.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, overload

from polynix.ipc.bindings import FidlProtocol, Method, MethodKind, ProtocolInfo, allows_unknown, method_of
from polynix.ipc.channel import Channel
from polynix.ipc.fidl.coding import close_handles
from polynix.ipc.fidl.errors import DecodeError
from polynix.ipc.fidl.message import EPITAPH_ORDINAL, KERNEL_TXID_BIT, MessageHeader, decode_body, decode_epitaph, decode_header
from polynix.ipc.handle import INFINITE
from polynix.ipc.status import Status, ZxStatus

P = TypeVar("P", bound=FidlProtocol)
Payload = TypeVar("Payload")
Reply = TypeVar("Reply")

log = logging.getLogger(__name__)

MAX_QUEUED_EVENTS = 1024

Finish = Callable[[Any, Exception | None], bool]


def _next_txid(txid: int) -> int:
    return txid % (KERNEL_TXID_BIT - 1) + 1


def _decode_event(info: ProtocolInfo, header: MessageHeader, data: bytes, handles: list[Any]) -> tuple[Method, Any] | None:
    """An event, None if it is one that nobody needs to know. Errors: DecodeError, ZxStatus of an epitaph."""
    if header.ordinal == EPITAPH_ORDINAL:
        raise ZxStatus(decode_epitaph(header, data, handles), "the server closed the channel")
    method = info.by_ordinal.get(header.ordinal)
    if method is not None and method.kind is MethodKind.EVENT:
        return method, decode_body(method.request, data, handles)
    close_handles(handles)
    if method is not None or not allows_unknown(info.openness, header):
        raise DecodeError(f"unknown event {header.ordinal:#x} of {info.name}")
    return None


class PendingCalls:
    """The calls over one channel that wait for their replies, without a loop: what :class:`Client` and the kernel's own loop have in common."""

    def __init__(self, protocol: type[FidlProtocol], channel: Channel) -> None:
        self.info = protocol.__fidl_protocol__
        self.channel = channel
        self.error: Exception | None = None  # why the channel is closed
        self._txid = 0
        self._waiting: dict[int, tuple[Method, Finish]] = {}

    def send(self, method: Method, payload: Any, finish: Finish | None) -> None:
        """Send a request; a two-way method's ``finish(reply, None)`` or ``finish(None, error)`` is called once, and returns False if the caller has gone.
        Errors: EncodeError, ZxStatus, why the channel is closed; SHOULD_WAIT, and nothing was sent, while the server is behind.
        """
        if method.kind is MethodKind.EVENT:
            raise TypeError(f"{method.name} is an event")
        if self.error is not None:
            raise self.error
        if finish is None:
            self.channel.write(*method.encode_request(0, payload))
            return
        self._txid = _next_txid(self._txid)
        while self._txid in self._waiting:
            self._txid = _next_txid(self._txid)
        txid = self._txid
        message = method.encode_request(txid, payload)
        self._waiting[txid] = method, finish
        try:
            self.channel.write(*message)
        except ZxStatus as error:
            if error.status != Status.PEER_CLOSED:
                del self._waiting[txid]
                raise
            # the reader finds the epitaph, and tells us

    def receive(self, data: bytes, handles: list[Any]) -> tuple[Method, Any] | None:
        """A message came: a reply finishes its call; an event is returned. Errors: DecodeError, ZxStatus of an epitaph; the channel must be closed then."""
        header = decode_header(data, handles)
        if header.txid == 0:
            return _decode_event(self.info, header, data, handles)
        method, finish = self._waiting.pop(header.txid, (None, None))
        if method is None or finish is None or method.ordinal != header.ordinal:
            close_handles(handles)
            if finish is not None:
                finish(None, DecodeError("reply with another ordinal"))
            raise DecodeError(f"reply {header.ordinal:#x} to no request, txid {header.txid}")
        try:
            reply = method.decode_reply(data, handles)
        except Exception as error:
            finish(None, error)
            if isinstance(error, DecodeError):
                raise
        else:
            if not finish(reply, None):
                close_handles(handles)
        return None

    def end(self, error: Exception) -> None:
        """Close the channel because of ``error``, and tell all who wait."""
        self.error = error
        self.channel.close()
        waiting, self._waiting = self._waiting, {}
        for _, finish in waiting.values():
            finish(None, error)


class PolledClient:
    """Calls over one channel for those who poll: :meth:`pump` reads what has come. ``on_event(method, payload)`` hears of events."""

    def __init__(self, protocol: type[FidlProtocol], channel: Channel, on_event: Callable[[Method, Any], None] | None = None) -> None:
        self.protocol = protocol
        self._calls = PendingCalls(protocol, channel)
        self._on_event = on_event

    @property
    def error(self) -> Exception | None:
        """Why the channel is closed, once all that came before has been read."""
        return self._calls.error

    def send(self, method: Callable[..., Awaitable[Any]], request: Any = None, finish: Finish | None = None) -> None:
        """Send a request; ``finish`` is for two-way methods, as in :meth:`PendingCalls.send`. Errors: EncodeError, ZxStatus, why the channel is closed."""
        self._calls.send(method_of(self.protocol, method), request, finish)

    def pump(self) -> bool:
        """Take all messages that have come; returns whether there was something new."""
        heard = False
        while self._calls.error is None:
            try:
                event = self._calls.receive(*self._calls.channel.read())
                heard = True
                if event is not None and self._on_event is not None:
                    self._on_event(*event)
            except (DecodeError, ZxStatus) as error:
                if isinstance(error, ZxStatus) and error.status == Status.SHOULD_WAIT:
                    break
                self._calls.end(error)
                return True
        return heard

    def close(self) -> None:
        """Close the channel; calls that wait get CANCELED."""
        self._calls.end(self._calls.error or ZxStatus(Status.CANCELED, "the client is closed"))


class BlockingClient(Generic[P]):
    """Calls over one channel from any thread, one at a time: ``client.call(Manager.suspend_container, request)``.

    Events that come meanwhile are kept in ``events``, as (method, payload), the oldest dropped beyond 1024.
    """

    def __init__(self, protocol: type[P], channel: Channel) -> None:
        self.protocol = protocol
        self.info = protocol.__fidl_protocol__
        self.channel = channel
        self.events: deque[tuple[Method, Any]] = deque(maxlen=MAX_QUEUED_EVENTS)
        self._lock = threading.Lock()
        self._txid = 0
        self._abandoned: dict[int, int] = {}  # txid -> ordinal of calls whose time ran out

    @overload
    def call(self, method: Callable[[P, Payload], Awaitable[Reply]], request: Payload, *, deadline_ns: int = INFINITE) -> Reply: ...
    @overload
    def call(self, method: Callable[[P], Awaitable[Reply]], *, deadline_ns: int = INFINITE) -> Reply: ...
    def call(self, method: Any, request: Any = None, *, deadline_ns: int = INFINITE) -> Any:
        """Call ``method`` and wait for its reply. Errors: MethodError, UnknownMethodError, EncodeError; ZxStatus, TIMED_OUT among
        them; DecodeError, and the channel is closed.
        """
        declared = method_of(self.protocol, method)
        if declared.kind is MethodKind.EVENT:
            raise TypeError(f"{declared.name} is an event")
        with self._lock:
            if declared.kind is MethodKind.ONE_WAY:
                self.channel.write_blocking(*declared.encode_request(0, request), deadline_ns)
                return None
            self._txid = _next_txid(self._txid)
            message = declared.encode_request(self._txid, request)
            try:
                self.channel.write_blocking(*message, deadline_ns)
            except ZxStatus as error:
                if error.status != Status.PEER_CLOSED:
                    close_handles(message[1])
                    raise
            try:
                return self._wait_for_reply(declared, deadline_ns)
            except DecodeError:
                self.channel.close()
                raise
            except ZxStatus as error:
                if error.status == Status.TIMED_OUT and self.channel.is_valid:
                    self._abandoned[self._txid] = declared.ordinal
                raise

    def _wait_for_reply(self, method: Method, deadline_ns: int) -> Any:
        while True:
            data, handles = self.channel.read_blocking(deadline_ns)
            header = decode_header(data, handles)
            if header.txid == 0:
                event = _decode_event(self.info, header, data, handles)
                if event is not None:
                    self.events.append(event)
            elif header.txid == self._txid and header.ordinal == method.ordinal:
                return method.decode_reply(data, handles)
            else:
                close_handles(handles)
                if self._abandoned.pop(header.txid, None) != header.ordinal:
                    raise DecodeError(f"reply {header.ordinal:#x} to no request, txid {header.txid}")

    def close(self) -> None:
        self.channel.close()
