"""The client's end of a protocol, for asyncio (:class:`Client`) and for threads (:class:`BlockingClient`).

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
from polynix.ipc.status import Status, ZxStatus

P = TypeVar("P", bound=FidlProtocol)
Payload = TypeVar("Payload")
Reply = TypeVar("Reply")

log = logging.getLogger(__name__)

MAX_QUEUED_EVENTS = 1024


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


class Client(Generic[P]):
    """Calls over one channel, which is the client's from now on: ``await client.proxy.method(request)``.

    ``events`` is an object of the protocol whose event methods are called as events come.
    """

    def __init__(self, protocol: type[P], channel: Channel, events: P | None = None) -> None:
        self.info = protocol.__fidl_protocol__
        self.channel = channel
        self.events = events
        self.error: Exception | None = None  # why the channel is closed
        self.proxy: P = _make_proxy(protocol, self._call)
        self._txid = 0
        self._waiting: dict[int, tuple[Method, asyncio.Future[Any]]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def _call(self, method: Method, payload: Any = None) -> Any:
        if method.kind is MethodKind.EVENT:
            raise TypeError(f"{method.name} is an event")
        if self.error is not None:
            raise self.error
        self.start()
        if method.kind is MethodKind.ONE_WAY:
            self.channel.write(*method.encode_request(0, payload))
            return None
        self._txid = _next_txid(self._txid)
        while self._txid in self._waiting:
            self._txid = _next_txid(self._txid)
        txid = self._txid
        message = method.encode_request(txid, payload)
        future = asyncio.get_running_loop().create_future()
        self._waiting[txid] = method, future
        try:
            self.channel.write(*message)
        except ZxStatus as error:
            if error.status != Status.PEER_CLOSED:
                del self._waiting[txid]
                raise
            # the reader finds the epitaph, and tells us
        return await future  # if canceled, its entry waits for the reply that will come

    def start(self) -> None:
        """Listen for replies and events. The first call does it by itself."""
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        error: Exception
        try:
            while True:
                await self._receive(*await self.channel.read_async())
        except (DecodeError, ZxStatus) as failure:
            error = failure
        except Exception as failure:
            log.exception("%s: an event failed", self.info.name)
            error = failure
        self._end(error)

    async def _receive(self, data: bytes, handles: list[Any]) -> None:
        try:
            header = MessageHeader.decode(data)
        except DecodeError:
            close_handles(handles)
            raise
        if header.txid == 0:
            event = _decode_event(self.info, header, data, handles)
            if event is not None and self.events is not None:
                function = getattr(self.events, event[0].attribute)
                await (function() if event[0].request is None else function(event[1]))
            return
        method, future = self._waiting.pop(header.txid, (None, None))
        if method is None or future is None or method.ordinal != header.ordinal:
            close_handles(handles)
            if future is not None and not future.done():
                future.set_exception(DecodeError("reply with another ordinal"))
            raise DecodeError(f"reply {header.ordinal:#x} to no request, txid {header.txid}")
        try:
            reply = method.decode_reply(data, handles)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
            if isinstance(error, DecodeError):
                raise
        else:
            if future.done():
                close_handles(handles)  # the caller has gone
            else:
                future.set_result(reply)

    def _end(self, error: Exception) -> None:
        self.error = error
        self.channel.close()
        waiting, self._waiting = self._waiting, {}
        for _, future in waiting.values():
            if not future.done():
                future.set_exception(error)

    async def on_closed(self) -> Exception:
        """Wait until the channel is closed; returns why."""
        self.start()
        assert self._reader is not None
        await asyncio.wait([self._reader])
        assert self.error is not None
        return self.error

    def close(self) -> None:
        """Close the channel; calls that wait get CANCELED."""
        self._end(self.error or ZxStatus(Status.CANCELED, "the client is closed"))


def _make_proxy(protocol: type[P], call: Callable[..., Coroutine[Any, Any, Any]]) -> P:
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
                self.channel.write(*declared.encode_request(0, request))
                return None
            self._txid = _next_txid(self._txid)
            message = declared.encode_request(self._txid, request)
            try:
                self.channel.write(*message)
            except ZxStatus as error:
                if error.status != Status.PEER_CLOSED:
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
