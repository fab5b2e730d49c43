"""Protocols as typed Python classes: the declaration that clients, servers and dumps share.

::

    @protocol("fuchsia.starnix.runner.Manager", openness=Openness.OPEN)
    class Manager(FidlProtocol):
        @two_way(error=EnumType(SuspendError))
        async def suspend_container(self, request: ManagerSuspendContainerRequest) -> ManagerSuspendContainerResponse:
            raise NotImplementedError

        @one_way()
        async def proxy_wake_channel(self, request: ManagerProxyWakeChannelRequest) -> None:
            raise NotImplementedError

A method takes nothing or one payload, a struct, table or union; it returns nothing or one. A server is a subclass that overrides
methods (``polynix.ipc.server``); a client is an object of the same type whose methods send messages (``polynix.ipc.client``). The
error of a two-way method is raised as :class:`MethodError`, on both sides. Events are sent by servers; their methods are what a
client does when one comes.
"""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from polynix.ipc.fidl.coding import FidlType
from polynix.ipc.fidl.containers import type_of
from polynix.ipc.fidl.message import MessageHeader, Result, TransportError, decode_body, encode_message, method_ordinal, result_type
from polynix.ipc.fidl.records import Empty
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.status import Status, ZxStatus

Function = TypeVar("Function", bound=Callable[..., Awaitable[Any]])
Class = TypeVar("Class", bound="type[FidlProtocol]")


class Openness(Enum):
    """Which unknown methods a peer may call."""

    CLOSED = "closed"
    AJAR = "ajar"  # flexible one-way methods and events
    OPEN = "open"  # all flexible ones


class MethodKind(Enum):
    TWO_WAY = "two-way"
    ONE_WAY = "one-way"
    EVENT = "event"


class MethodError(Exception):
    """A two-way method ended with the error that its declaration allows."""

    def __init__(self, error: int) -> None:
        self.error = error
        super().__init__(getattr(error, "name", str(error)))


class UnknownMethodError(ZxStatus):
    """The server doesn't know the method."""

    def __init__(self, name: str) -> None:
        super().__init__(Status.NOT_SUPPORTED, f"the server does not know {name}")


@dataclass(frozen=True)
class Method:
    """One method of a protocol, ready for the wire."""

    protocol: str
    name: str
    attribute: str
    kind: MethodKind
    flexible: bool
    ordinal: int
    request: FidlType | None
    """The body of the request, or of the event."""
    reply: FidlType | None
    """The body of the reply, the result union where there is one."""
    response: FidlType | None
    error: FidlType | None

    @property
    def has_result(self) -> bool:
        """Whether the reply is a result union."""
        return self.kind is MethodKind.TWO_WAY and (self.flexible or self.error is not None)

    def encode_request(self, txid: int, payload: Any) -> tuple[bytes, list[Any]]:
        """Errors: EncodeError."""
        return encode_message(MessageHeader(txid, self.ordinal, self.flexible), self.request, payload)

    def encode_response(self, txid: int, payload: Any) -> tuple[bytes, list[Any]]:
        """The reply of a method that went well. Errors: EncodeError."""
        if self.has_result:
            payload = Result(response=Empty() if self.response is None else payload)
        return encode_message(MessageHeader(txid, self.ordinal, self.flexible), self.reply, payload)

    def encode_error(self, txid: int, error: int) -> tuple[bytes, list[Any]]:
        """Errors: EncodeError, also if the method has no error type."""
        return encode_message(MessageHeader(txid, self.ordinal, self.flexible), self.reply, Result(error=error))

    def decode_reply(self, data: bytes, handles: list[Any]) -> Any:
        """What the method returns. Errors: DecodeError; MethodError, UnknownMethodError as the reply says."""
        body = decode_body(self.reply, data, handles)
        if not self.has_result:
            return body
        if body.error is not None:
            raise MethodError(body.error)
        if body.transport_error is not None:
            raise UnknownMethodError(f"{self.protocol}.{self.name}")
        return None if self.response is None else body.response


class ProtocolInfo:
    """What ``@protocol`` found. Its methods are made ready when one of them is first asked for: most processes speak few of the protocols that they know.
    Errors, then: TypeError for a declaration that makes no sense.
    """

    def __init__(self, name: str, openness: Openness, functions: dict[str, Any]) -> None:
        self.name = name
        self.openness = openness
        self._functions = functions

    @cached_property
    def by_attribute(self) -> dict[str, Method]:
        return {attribute: _method(self.name, attribute, function, self.openness) for attribute, function in self._functions.items()}

    @cached_property
    def by_ordinal(self) -> dict[int, Method]:
        methods = {method.ordinal: method for method in self.by_attribute.values()}
        if len(methods) != len(self.by_attribute):
            raise TypeError(f"{self.name}: two methods with one ordinal")
        return methods


class FidlProtocol:
    """The base of all protocols."""

    __fidl_protocol__: ClassVar[ProtocolInfo]

    def on_unknown_method(self, ordinal: int, two_way: bool) -> None:
        """A peer called a flexible method that this side doesn't know; a two-way one is answered without our help."""


_RESULT_OF_UNKNOWN = result_type(Empty)


def encode_unknown_method(header: MessageHeader) -> bytes:
    """The reply to an unknown flexible two-way method."""
    reply = Result(transport_error=TransportError.UNKNOWN_METHOD)
    return encode_message(MessageHeader(header.txid, header.ordinal, True), _RESULT_OF_UNKNOWN, reply)[0]


def allows_unknown(openness: Openness, header: MessageHeader) -> bool:
    """Whether a message with an unknown ordinal leaves the channel open."""
    if not header.flexible or openness is Openness.CLOSED:
        return False
    return header.txid == 0 or openness is Openness.OPEN


# -- declarations ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Declaration:
    kind: MethodKind
    strict: bool
    name: str | None
    selector: str | None
    error: FidlType | None = None


def _declare(declaration: _Declaration) -> Callable[[Function], Function]:
    def mark(function: Function) -> Function:
        function.__fidl_declaration__ = declaration  # type: ignore[attr-defined]
        return function

    return mark


def two_way(*, error: FidlType | None = None, strict: bool = False, name: str | None = None, selector: str | None = None) -> Callable[[Function], Function]:
    """A method with a reply. ``name`` is its FIDL name where it isn't the Python name in camel case; ``selector`` replaces
    ``library/Protocol.Method`` in the ordinal.
    """
    return _declare(_Declaration(MethodKind.TWO_WAY, strict, name, selector, error))


def one_way(*, strict: bool = False, name: str | None = None, selector: str | None = None) -> Callable[[Function], Function]:
    """A method without a reply."""
    return _declare(_Declaration(MethodKind.ONE_WAY, strict, name, selector))


def event(*, strict: bool = False, name: str | None = None, selector: str | None = None) -> Callable[[Function], Function]:
    """A message from server to client."""
    return _declare(_Declaration(MethodKind.EVENT, strict, name, selector))


def protocol(name: str, *, openness: Openness = Openness.OPEN) -> Callable[[Class], Class]:
    """Declare a class as the protocol ``library.Name``."""

    def declare(cls: Class) -> Class:
        functions = {
            attribute: function for attribute, function in vars(cls).items() if isinstance(getattr(function, "__fidl_declaration__", None), _Declaration)
        }
        cls.__fidl_protocol__ = ProtocolInfo(name, openness, functions)
        return cls

    return declare


def _method(protocol_name: str, attribute: str, function: Any, openness: Openness) -> Method:
    declaration: _Declaration = function.__fidl_declaration__
    hints = typing.get_type_hints(function)
    response_class = hints.pop("return", None)
    if len(hints) > 1:
        raise TypeError(f"{protocol_name}.{attribute} takes more than one payload")
    request = type_of(next(iter(hints.values()))) if hints else None
    response = None if response_class in (None, type(None)) else type_of(response_class)
    flexible = not declaration.strict
    two_way = declaration.kind is MethodKind.TWO_WAY
    if response is not None and not two_way:
        raise TypeError(f"{protocol_name}.{attribute}: only a two-way method returns something")
    if flexible and (openness is Openness.CLOSED or (openness is Openness.AJAR and two_way)):
        raise TypeError(f"{protocol_name}.{attribute} is flexible, in a protocol that is {openness.value}")
    reply = result_type(response or Empty, declaration.error) if two_way and (flexible or declaration.error) else response
    name = declaration.name or "".join(part.capitalize() for part in attribute.split("_"))
    library, _, short_name = protocol_name.rpartition(".")
    return Method(
        protocol=short_name,
        name=name,
        attribute=attribute,
        kind=declaration.kind,
        flexible=flexible,
        ordinal=method_ordinal(declaration.selector or f"{library}/{short_name}.{name}"),
        request=request,
        reply=reply,
        response=response,
        error=declaration.error,
    )


def method_of(cls: type[FidlProtocol], function: Any) -> Method:
    """The method that ``function``, an attribute of a protocol class, declares."""
    return cls.__fidl_protocol__.by_attribute[function.__name__]
