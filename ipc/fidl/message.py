"""Transactional messages: the 16-byte header, ordinals, results and epitaphs.

Header: txid u32, at-rest flags (2 bytes), dynamic flags, magic number, ordinal u64 (RFC-0138). A txid of 0 marks a one-way message
or an event.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple

from polynix.ipc.fidl.coding import FidlType, closing_if_malformed, decode, encode
from polynix.ipc.fidl.containers import TypeSource, type_of
from polynix.ipc.fidl.errors import DecodeError
from polynix.ipc.fidl.primitives import INT32, EnumType
from polynix.ipc.fidl.records import Member, UnionType, member, struct
from polynix.ipc.fidl.sha256 import sha256
from polynix.ipc.light_dataclass import dataclass

HEADER = Struct("<IBBBBQ")
MAGIC = 1
AT_REST_V2 = 0x02
FLEXIBLE = 0x80
EPITAPH_ORDINAL = 0xFFFF_FFFF_FFFF_FFFF
ORDINAL_CONTROL_BIT = 1 << 63
KERNEL_TXID_BIT = 1 << 31  # txids that zx_channel_call makes


def method_ordinal(selector: str) -> int:
    """The ordinal of ``library/Protocol.Method``, or of what a ``@selector`` says."""
    return int.from_bytes(sha256(selector.encode()).digest()[:8], "little") & ~ORDINAL_CONTROL_BIT


class MessageHeader(NamedTuple):
    """What starts each message."""

    txid: int
    ordinal: int
    flexible: bool = False

    def encode(self) -> bytes:
        return HEADER.pack(self.txid, AT_REST_V2, 0, FLEXIBLE if self.flexible else 0, MAGIC, self.ordinal)

    @classmethod
    def decode(cls, data: bytes) -> MessageHeader:
        """Errors: :class:`DecodeError`."""
        if len(data) < HEADER.size:
            raise DecodeError(f"message of {len(data)} bytes has no header")
        txid, at_rest, at_rest_high, dynamic, magic, ordinal = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise DecodeError(f"magic number {magic}")
        if at_rest != AT_REST_V2 or at_rest_high:
            raise DecodeError(f"at-rest flags {at_rest:#x} {at_rest_high:#x}: not wire format v2")
        if dynamic & ~FLEXIBLE:
            raise DecodeError(f"dynamic flags {dynamic:#x}")
        if ordinal == 0 or (ordinal & ORDINAL_CONTROL_BIT and ordinal != EPITAPH_ORDINAL):
            raise DecodeError(f"ordinal {ordinal:#x}")
        return cls(txid, ordinal, bool(dynamic & FLEXIBLE))


def encode_message(header: MessageHeader, kind: FidlType | None, value: Any = None) -> tuple[bytes, list[Any]]:
    """A whole message; ``kind`` None is no body. Errors: EncodeError."""
    if kind is None:
        return header.encode(), []
    body, handles = encode(kind, value)
    return header.encode() + body, handles


def decode_header(data: bytes, handles: list[Any]) -> MessageHeader:
    """The header of a message that came with ``handles``. Errors: :class:`DecodeError`, and all handles are closed."""
    with closing_if_malformed(handles):
        return MessageHeader.decode(data)


def decode_body(kind: FidlType | None, data: bytes, handles: list[Any]) -> Any:
    """The body of a message whose header was read. Errors: :class:`DecodeError`, and all handles are closed."""
    if kind is not None:
        return decode(kind, bytes(data[HEADER.size :]), handles)
    with closing_if_malformed(handles):
        if len(data) != HEADER.size or handles:
            raise DecodeError("a body where none was expected")
    return None


# -- results ---------------------------------------------------------------------------------------------------------------------


class TransportError(IntEnum):
    """Why a two-way method was not even tried."""

    UNKNOWN_METHOD = -2


@dataclass(frozen=True)
class Result:
    """The reply of a method with an error type or of a flexible two-way method; exactly one is not None."""

    response: Any = None
    error: Any = None
    transport_error: TransportError | None = None


def result_type(response: TypeSource, error: FidlType | None = None) -> UnionType:
    """1 is the response, 2 the error of the protocol (int32, uint32 or an enum), 3 the transport's error."""
    members = [Member("response", 1, type_of(response)), Member("transport_error", 3, EnumType(TransportError, INT32, strict=True))]
    if error is not None:
        members.append(Member("error", 2, error))
    return UnionType("Result", members, Result, strict=True)


# -- epitaphs --------------------------------------------------------------------------------------------------------------------


@struct
@dataclass(frozen=True)
class Epitaph:
    """A server's last message: why it closes the channel, as a Zircon status."""

    status: int = member(INT32)


def encode_epitaph(status: int) -> bytes:
    """The 24 bytes of an epitaph."""
    return encode_message(MessageHeader(0, EPITAPH_ORDINAL), type_of(Epitaph), Epitaph(status))[0]


def decode_epitaph(header: MessageHeader, data: bytes, handles: list[Any]) -> int:
    """The status of an epitaph. Errors: :class:`DecodeError`, and all handles are closed."""
    with closing_if_malformed(handles):
        if header.txid:
            raise DecodeError("epitaph with a txid")
    epitaph: Epitaph = decode_body(type_of(Epitaph), data, handles)
    return epitaph.status
