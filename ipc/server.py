"""The server's end of a protocol: reads requests, calls the implementation, writes replies.

:class:`RequestDecoder` and :class:`ServerEnd` know the rules and no loop; ``async_server`` runs them in asyncio. Whatever a client sends can at most close
its own channel. Requests start in the order in which they came; a two-way method that waits doesn't hold up the next one, so replies may come in another
order.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, NamedTuple, TypeVar, overload

from polynix.ipc.bindings import FidlProtocol, Method, MethodError, MethodKind, allows_unknown, encode_unknown_method, method_of
from polynix.ipc.channel import Channel
from polynix.ipc.fidl.coding import close_handles, closing_if_malformed
from polynix.ipc.fidl.errors import DecodeError, FidlError
from polynix.ipc.fidl.message import EPITAPH_ORDINAL, MessageHeader, decode_body, encode_epitaph
from polynix.ipc.status import Status, ZxStatus

P = TypeVar("P", bound=FidlProtocol)
Payload = TypeVar("Payload")

log = logging.getLogger(__name__)

MAX_REQUESTS = 256  # that wait for their replies; more stay in the channel


class Request(NamedTuple):
    """A decoded request; ``method`` is None when nobody knows it, but it is allowed to come."""

    header: MessageHeader
    method: Method | None
    payload: Any = None


class RequestDecoder:
    """What a server makes of a message."""

    def __init__(self, protocol: type[FidlProtocol]) -> None:
        self.info = protocol.__fidl_protocol__

    def decode(self, data: bytes, handles: list[Any]) -> Request:
        """Errors: DecodeError, and the channel must be closed; the handles are."""
        with closing_if_malformed(handles):
            header = MessageHeader.decode(data)
            method = self._method(header)
        if method is None:
            close_handles(handles)
            return Request(header, None)
        return Request(header, method, decode_body(method.request, data, handles))

    def _method(self, header: MessageHeader) -> Method | None:
        method = self.info.by_ordinal.get(header.ordinal)
        if method is None:
            if header.ordinal == EPITAPH_ORDINAL or not allows_unknown(self.info.openness, header):
                raise DecodeError(f"unknown method {header.ordinal:#x} of {self.info.name}")
            return None
        if method.kind is MethodKind.EVENT:
            raise DecodeError(f"event {method.name} from a client")
        if (header.txid == 0) != (method.kind is MethodKind.ONE_WAY):
            raise DecodeError(f"{method.kind.value} method {method.name} with txid {header.txid}")
        return method


class ServerEnd(Generic[P]):
    """A served channel, without a loop: what :class:`Server` and the kernel's own loop have in common. The channel is its own from now on."""

    def __init__(self, protocol: type[P], implementation: P, channel: Channel) -> None:
        self.protocol = protocol
        self.implementation = implementation
        self.channel = channel
        self._decoder = RequestDecoder(protocol)

    async def answer_unknown(self, header: MessageHeader) -> None:
        """A flexible method that nobody knows was called. Errors: ZxStatus."""
        self.implementation.on_unknown_method(header.ordinal, header.txid != 0)
        if header.txid:
            await self.write(encode_unknown_method(header), [])

    async def write(self, data: bytes, handles: list[Any]) -> None:
        """Send a reply, and wait while the client is behind; the handles are gone then. Errors: ZxStatus."""
        raise NotImplementedError

    async def call(self, method: Method, payload: Any) -> Any:
        """Have the implementation do a method."""
        function = getattr(self.implementation, method.attribute)
        return await (function() if method.request is None else function(payload))

    async def notify(self, method: Method, payload: Any) -> None:
        """Do a one-way method; that the implementation lacks it is the client's risk."""
        with contextlib.suppress(NotImplementedError):
            await self.call(method, payload)

    async def reply(self, method: Method, request: Request) -> None:
        """Do a two-way method, and write its reply; what goes wrong on this side closes the channel."""
        txid = request.header.txid
        try:
            try:
                reply = method.encode_response(txid, await self.call(method, request.payload))
            except MethodError as error:
                reply = method.encode_error(txid, error.error)
            except NotImplementedError:
                if not method.flexible:
                    raise
                reply = encode_unknown_method(request.header), []
            if self.channel.is_valid:
                await self.write(*reply)
            else:
                close_handles(reply[1])
        except ZxStatus as error:
            if error.status != Status.PEER_CLOSED:
                log.warning("%s.%s: %s", method.protocol, method.name, error)
                self.close(error.status)
        except Exception:
            log.exception("%s.%s failed", method.protocol, method.name)
            self.close(Status.INTERNAL)

    def close_after(self, error: Exception) -> None:
        """Close because reading or a request failed with ``error``, which the log tells unless it is the ordinary end."""
        if isinstance(error, FidlError):
            log.warning("%s: closing a channel: %s", self.protocol.__name__, error)
            self.close(Status.INVALID_ARGS)
        elif isinstance(error, ZxStatus):
            if error.status not in (Status.PEER_CLOSED, Status.CANCELED, Status.BAD_HANDLE):
                log.warning("%s: %s", self.protocol.__name__, error)
            self.close()
        else:
            log.error("%s: a request failed", self.protocol.__name__, exc_info=error)
            self.close(Status.INTERNAL)

    @overload
    def send_event(self, event: Callable[[P, Payload], Awaitable[None]], payload: Payload) -> None: ...
    @overload
    def send_event(self, event: Callable[[P], Awaitable[None]]) -> None: ...
    def send_event(self, event: Any, payload: Any = None) -> None:
        """Send an event, such as ``Manager.on_something``. Errors: EncodeError, ZxStatus, SHOULD_WAIT among them."""
        self.channel.write(*method_of(self.protocol, event).encode_request(0, payload))

    def close(self, epitaph: int | None = None) -> None:
        """Close the channel; ``epitaph``, a status, tells the client why."""
        if not self.channel.is_valid:
            return
        if epitaph is not None:
            with contextlib.suppress(ZxStatus):
                self.channel.write(encode_epitaph(epitaph))
        self.channel.close()
