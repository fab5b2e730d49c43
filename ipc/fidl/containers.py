"""Types that hold others by number: arrays, vectors, strings and boxes.

Vectors and strings are a count and a presence word, boxes a presence word; what they hold is out of line. Bytes (``vector<uint8>``,
``array<uint8>``) are Python ``bytes``, other vectors and arrays are lists. ``nullable`` ones may be None, which differs from empty.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from struct import pack_into, unpack_from
from typing import Any

from polynix.ipc.fidl.coding import ABSENT, PRESENCE_HEADER, PRESENT, UINT64, Decoder, Encoder, FidlType
from polynix.ipc.fidl.errors import DecodeError, EncodeError
from polynix.ipc.fidl.primitives import NumberType

MAX_COUNT = 0xFFFF_FFFF

TypeSource = FidlType | type | Callable[[], "FidlType | type"]


def type_of(source: TypeSource) -> FidlType:
    """The layout of a type, of a class declared as one, or of what a function returns (for types that contain themselves)."""
    if isinstance(source, FidlType):
        return source
    declared = getattr(source, "__fidl_type__", None)
    if isinstance(declared, FidlType):
        return declared
    if isinstance(source, type):
        raise TypeError(f"{source.__name__} is not declared as a FIDL type")
    return type_of(source())


def _is_bytes(element: FidlType) -> bool:
    return isinstance(element, NumberType) and element.code == "B"


def _encode_elements(encoder: Encoder, offset: int, element: FidlType, values: Any) -> None:
    count = len(values)
    if isinstance(element, NumberType):
        if isinstance(values, bytes | bytearray | memoryview):
            if not _is_bytes(element):
                raise EncodeError(f"bytes where numbers of type {element.name} were expected")
            encoder.data[offset : offset + count] = values
        else:
            pack_into(f"<{count}{element.code}", encoder.data, offset, *values)
        return
    for value in values:
        element.encode(encoder, offset, value)
        offset += element.size


def _decode_elements(decoder: Decoder, offset: int, element: FidlType, count: int) -> Any:
    if isinstance(element, NumberType):
        if _is_bytes(element):
            return bytes(decoder.data[offset : offset + count])
        return list(unpack_from(f"<{count}{element.code}", decoder.data, offset))
    return [element.decode(decoder, offset + index * element.size) for index in range(count)]


def _describe_elements(element: FidlType, values: Any) -> str:
    if isinstance(values, bytes):
        return repr(values)
    return "[" + ", ".join(element.describe(value) for value in values) + "]"


class ArrayType(FidlType):
    """A fixed number of elements, inline."""

    def __init__(self, element: TypeSource, count: int) -> None:
        if count < 1:
            raise TypeError("an array has at least one element")
        self.element = type_of(element)
        self.count = count
        self.name = f"array<{self.element.name}, {count}>"
        self.size = self.element.size * count
        self.alignment = self.element.alignment

    def encode(self, encoder: Encoder, offset: int, value: Any) -> None:
        if len(value) != self.count:
            raise EncodeError(f"{len(value)} elements in {self.name}")
        _encode_elements(encoder, offset, self.element, value)

    def decode(self, decoder: Decoder, offset: int) -> Any:
        return _decode_elements(decoder, offset, self.element, self.count)

    def describe(self, value: Any) -> str:
        return _describe_elements(self.element, value)


class VectorType(FidlType):
    """Up to ``limit`` elements, out of line."""

    size = 16
    alignment = 8

    def __init__(self, element: TypeSource, limit: int = MAX_COUNT, *, nullable: bool = False) -> None:
        self._source = element
        self.limit = limit
        self.nullable = nullable
        self.name = "vector"

    @cached_property
    def element(self) -> FidlType:
        return type_of(self._source)

    def encode(self, encoder: Encoder, offset: int, value: Any) -> None:
        if value is None:
            if not self.nullable:
                raise EncodeError("a vector is missing")
            return
        count = len(value)
        if count > self.limit:
            raise EncodeError(f"{count} elements in a vector of at most {self.limit}")
        PRESENCE_HEADER.pack_into(encoder.data, offset, count, PRESENT)
        encoder.enter()
        _encode_elements(encoder, encoder.allocate(count * self.element.size), self.element, value)
        encoder.leave()

    def decode(self, decoder: Decoder, offset: int) -> Any:
        count = decode_count(decoder, offset, self.limit, self.nullable)
        if count is None:
            return None
        decoder.enter()
        start = decoder.claim(count * self.element.size)
        value = _decode_elements(decoder, start, self.element, count)
        decoder.leave()
        return value

    def describe(self, value: Any) -> str:
        return "None" if value is None else _describe_elements(self.element, value)


class StringType(FidlType):
    """UTF-8 of at most ``limit`` bytes, out of line."""

    name = "string"
    size = 16
    alignment = 8

    def __init__(self, limit: int = MAX_COUNT, *, nullable: bool = False) -> None:
        self.limit = limit
        self.nullable = nullable

    def encode(self, encoder: Encoder, offset: int, value: Any) -> None:
        if value is None:
            if not self.nullable:
                raise EncodeError("a string is missing")
            return
        try:
            data = value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise EncodeError(f"{value!r} has no UTF-8 form") from error
        if len(data) > self.limit:
            raise EncodeError(f"string of {len(data)} bytes, more than {self.limit}")
        PRESENCE_HEADER.pack_into(encoder.data, offset, len(data), PRESENT)
        encoder.enter()
        start = encoder.allocate(len(data))
        encoder.data[start : start + len(data)] = data
        encoder.leave()

    def decode(self, decoder: Decoder, offset: int) -> str | None:
        count = decode_count(decoder, offset, self.limit, self.nullable)
        if count is None:
            return None
        decoder.enter()
        start = decoder.claim(count)
        decoder.leave()
        try:
            return bytes(decoder.data[start : start + count]).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DecodeError(f"string is not UTF-8: {error.reason}") from error


STRING = StringType()


class BoxType(FidlType):
    """A struct that may be absent, out of line."""

    size = alignment = 8

    def __init__(self, content: TypeSource) -> None:
        self._source = content
        self.name = "box"

    @cached_property
    def content(self) -> FidlType:
        return type_of(self._source)

    def encode(self, encoder: Encoder, offset: int, value: Any) -> None:
        if value is None:
            return
        UINT64.pack_into(encoder.data, offset, PRESENT)
        encoder.enter()
        self.content.encode(encoder, encoder.allocate(self.content.size), value)
        encoder.leave()

    def decode(self, decoder: Decoder, offset: int) -> Any:
        (presence,) = UINT64.unpack_from(decoder.data, offset)
        if presence == ABSENT:
            return None
        check_present(presence)
        decoder.enter()
        value = self.content.decode(decoder, decoder.claim(self.content.size))
        decoder.leave()
        return value

    def describe(self, value: Any) -> str:
        return "None" if value is None else self.content.describe(value)


def check_present(presence: int) -> None:
    if presence != PRESENT:
        raise DecodeError(f"presence word {presence:#x}")


def decode_count(decoder: Decoder, offset: int, limit: int, nullable: bool) -> int | None:
    """The count of a vector or string; None when it is absent, and may be."""
    count, presence = PRESENCE_HEADER.unpack_from(decoder.data, offset)
    if presence == ABSENT:
        if count:
            raise DecodeError(f"absent, with a count of {count}")
        if not nullable:
            raise DecodeError("a required vector or string is absent")
        return None
    check_present(presence)
    if count > limit or count > MAX_COUNT:
        raise DecodeError(f"count {count} is beyond {min(limit, MAX_COUNT)}")
    return int(count)
