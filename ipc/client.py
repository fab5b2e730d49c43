"""The client's end of a protocol, for asyncio (:class:`Client`), for threads (:class:`BlockingClient`) and for those who poll (:class:`PolledClient`).

A reply carries the txid and the ordinal of its request, and both are checked. Anything wrong closes the channel, and all who wait for
a reply are told; so are they when the server closes, with the status of its epitaph if it left one.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar, cast, overload

from polynix.ipc.bindings import FidlProtocol, Method, MethodKind, ProtocolInfo, allows_unknown, method_of
from polynix.ipc.channel import Channel
from polynix.ipc.fidl.coding import close_handles
from polynix.ipc.fidl.errors import DecodeError
from polynix.ipc.fidl.message import EPITAPH_ORDINAL, KERNEL_TXID_BIT, MessageHeader, decode_body, decode_epitaph
from polynix.ipc.handle import INFINITE
from polynix.ipc.signals import Signals
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
        try:
            header = MessageHeader.decode(data)
        except DecodeError:
            close_handles(handles)
            raise
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


class Client(Generic[P]):
    """Calls over one channel, which is the client's from now on: ``await client.proxy.method(request)``.

    ``events`` is an object of the protocol whose event methods are called as events come.
    """

    def __init__(self, protocol: type[P], channel: Channel, events: P | None = None) -> None:
        self.channel = channel
        self.events = events
        self.proxy: P = make_proxy(protocol, self._call)
        self._calls = PendingCalls(protocol, channel)
        self._reader: asyncio.Task[None] | None = None

    @property
    def error(self) -> Exception | None:
        """Why the channel is closed."""
        return self._calls.error

    async def _call(self, method: Method, payload: Any = None) -> Any:
        self.start()
        if method.kind is not MethodKind.TWO_WAY:
            await self._send(method, payload, None)
            return None
        future = asyncio.get_running_loop().create_future()

        def finish(reply: Any, error: Exception | None) -> bool:
            if future.done():
                return False
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(reply)
            return True

        await self._send(method, payload, finish)
        return await future  # if canceled, its entry waits for the reply that will come

    async def _send(self, method: Method, payload: Any, finish: Finish | None) -> None:
        while True:
            try:
                return self._calls.send(method, payload, finish)
            except ZxStatus as error:
                if error.status != Status.SHOULD_WAIT:
                    raise
            await self.channel.on_signals(Signals.WRITABLE | Signals.PEER_CLOSED)

    def start(self) -> None:
        """Listen for replies and events. The first call does it by itself."""
        if self._reader is None and self.error is None:
            self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        error: Exception
        try:
            while True:
                event = self._calls.receive(*await self.channel.read_async())
                if event is not None and self.events is not None:
                    method, payload = event
                    function = getattr(self.events, method.attribute)
                    await (function() if method.request is None else function(payload))
        except (DecodeError, ZxStatus) as failure:
            error = failure
        except Exception as failure:
            log.exception("%s: an event failed", self._calls.info.name)
            error = failure
        self._calls.end(error)

    async def on_closed(self) -> Exception:
        """Wait until the channel is closed; returns why."""
        self.start()
        if self._reader is not None:
            await asyncio.wait([self._reader])
        assert self.error is not None
        return self.error

    def close(self) -> None:
        """Close the channel; calls that wait get CANCELED."""
        self._calls.end(self.error or ZxStatus(Status.CANCELED, "the client is closed"))


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


def make_proxy(protocol: type[P], call: Callable[..., Coroutine[Any, Any, Any]]) -> P:
    """An object of ``protocol`` whose methods do ``call(method, payload)``."""
    methods = {name: functools.partial(call, method) for name, method in protocol.__fidl_protocol__.by_attribute.items()}
    proxy = type(f"{protocol.__name__}Proxy", (protocol,), {name: staticmethod(function) for name, function in methods.items()})
    return cast(P, proxy())


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
            try:
                header = MessageHeader.decode(data)
            except DecodeError:
                close_handles(handles)
                raise
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
