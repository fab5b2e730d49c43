"""The two walkers of the wire format: where the next out-of-line object and the next handle are.

A message is its primary object and then the out-of-line objects in depth-first order, each at a multiple of 8 bytes and padded
with zeros. Handles travel beside the bytes, in the order in which the walk meets them. Types (:class:`FidlType`) know their own
layout and call the walker for everything outside it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from struct import Struct
from struct import error as StructError
from typing import Any, ClassVar

from polynix.ipc.fidl.errors import DecodeError, EncodeError

MAX_DEPTH = 32  # out-of-line indirections
ABSENT = 0
PRESENT = 0xFFFF_FFFF_FFFF_FFFF

UINT64 = Struct("<Q")
PRESENCE_HEADER = Struct("<QQ")  # vectors, strings, tables: count (or highest ordinal) and presence


def align_8(size: int) -> int:
    """``size`` rounded up to the alignment of out-of-line objects."""
    return (size + 7) & ~7


class FidlType(ABC):
    """The layout of one type. ``size`` and ``alignment`` are those of its inline part, in bytes."""

    name: str
    size: int
    alignment: int
    is_resource: ClassVar[bool] = False

    @abstractmethod
    def encode(self, encoder: Encoder, offset: int, value: Any) -> None:
        """Write ``value`` at ``offset``, where ``size`` zero bytes are."""

    @abstractmethod
    def decode(self, decoder: Decoder, offset: int) -> Any:
        """Read the value at ``offset``; ``size`` bytes from there on exist."""

    def describe(self, value: Any) -> str:
        """``value`` for logs."""
        return repr(value)

    def __repr__(self) -> str:
        return self.name


class Encoder:
    """Collects bytes and handles."""

    __slots__ = ("_depth", "data", "handles")

    def __init__(self) -> None:
        self.data = bytearray()
        self.handles: list[Any] = []
        self._depth = 0

    def allocate(self, size: int) -> int:
        """Zeroed room for an object; returns its offset."""
        offset = len(self.data)
        self.data += bytes(align_8(size))
        return offset

    def enter(self) -> None:
        """One more out-of-line indirection."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise EncodeError(f"more than {MAX_DEPTH} indirections")

    def leave(self) -> None:
        self._depth -= 1


class Decoder:
    """Walks the bytes of one object and everything below it, and hands out the handles."""

    __slots__ = ("_depth", "data", "end", "handles", "next_handle", "next_object")

    def __init__(self, data: bytes, handles: Sequence[Any]) -> None:
        self.data = data
        self.end = len(data)
        self.handles = list(handles)
        self.next_object = 0
        self.next_handle = 0
        self._depth = 0

    def claim(self, size: int) -> int:
        """The next object, of ``size`` bytes: its offset, its padding checked."""
        offset = self.next_object
        stop = offset + size
        self.next_object = align_8(stop)
        if self.next_object > self.end:
            raise DecodeError(f"message ends {self.next_object - self.end} bytes early")
        self.check_zero(stop, self.next_object)
        return offset

    def check_zero(self, start: int, stop: int) -> None:
        """Padding must be zero."""
        if start < stop and any(self.data[start:stop]):
            raise DecodeError(f"padding at {start} is not zero")

    def take_handle(self) -> Any:
        if self.next_handle >= len(self.handles):
            raise DecodeError("more handles in the bytes than came with them")
        self.next_handle += 1
        return self.handles[self.next_handle - 1]

    def replace_taken(self, handle: Any) -> Any:
        """The handle taken last arrives as ``handle``."""
        self.handles[self.next_handle - 1] = handle
        return handle

    def skip(self, num_bytes: int, num_handles: int) -> tuple[bytes, list[Any]]:
        """Pass over unknown content; returns its bytes and handles."""
        if num_bytes > self.end - self.next_object:
            raise DecodeError("unknown content is longer than the message")
        if num_handles > len(self.handles) - self.next_handle:
            raise DecodeError("unknown content has more handles than the message")
        start, first = self.next_object, self.next_handle
        self.next_object += num_bytes
        self.next_handle += num_handles
        return self.data[start : self.next_object], list(self.handles[first : self.next_handle])

    def enter(self) -> None:
        """One more out-of-line indirection."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise DecodeError(f"more than {MAX_DEPTH} indirections")

    def leave(self) -> None:
        self._depth -= 1


def close_handles(handles: Sequence[Any]) -> None:
    """Close what nobody will own."""
    for handle in handles:
        close = getattr(handle, "close", None)
        if close is not None:
            close()


@contextmanager
def closing_if_malformed(handles: Sequence[Any]) -> Iterator[None]:
    """Who hears of a :class:`DecodeError` has no handles left to care for."""
    try:
        yield
    except DecodeError:
        close_handles(handles)
        raise


def encode(kind: FidlType, value: Any) -> tuple[bytes, list[Any]]:
    """The bytes and handles of ``value``. Errors: :class:`EncodeError`; the handles stay the caller's then."""
    encoder = Encoder()
    try:
        kind.encode(encoder, encoder.allocate(kind.size), value)
    except (StructError, TypeError, AttributeError, OverflowError) as error:
        raise EncodeError(f"{value!r} is not a {kind.name}: {error}") from error
    return bytes(encoder.data), encoder.handles


def decode(kind: FidlType, data: bytes, handles: Sequence[Any] = ()) -> Any:
    """The value in ``data``, of which every byte and every handle must be used. Errors: :class:`DecodeError`; all handles are
    closed then.
    """
    decoder = Decoder(data, handles)
    with closing_if_malformed(decoder.handles):
        value = kind.decode(decoder, decoder.claim(kind.size))
        if decoder.next_object != decoder.end:
            raise DecodeError(f"{decoder.end - decoder.next_object} bytes left over")
        if decoder.next_handle != len(handles):
            raise DecodeError(f"{len(handles) - decoder.next_handle} handles left over")
    return value
