"""Types with named members: structs, tables and unions, and the envelopes of the last two.

Each is declared as a dataclass whose fields carry their wire type::

    @table
    @dataclass(kw_only=True)
    class ManagerSuspendContainerResponse:
        suspend_time: int | None = member(1, INT64)
        resume_reason: str | None = member(2, StringType(1024))

Members of a struct have no ordinal and are required; a table's absent members are None; exactly one member of a union is not None.
A flexible union has a field ``unknown: UnknownVariant | None = None`` for a variant that this side doesn't know.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from struct import Struct
from typing import Any, TypeVar, overload

from polynix.ipc.fidl.coding import PRESENCE_HEADER, PRESENT, UINT64, Decoder, Encoder, FidlType, close_handles
from polynix.ipc.fidl.containers import TypeSource, check_present, type_of
from polynix.ipc.fidl.errors import DecodeError, EncodeError
from polynix.ipc.light_dataclass import Field, dataclass, fields

Class = TypeVar("Class", bound=type)

MAX_ORDINAL = 0xFFFF_FFFF
INLINE_SIZE = 4
_OUT_OF_LINE = Struct("<IHH")  # num_bytes, num_handles, flags
_COUNTS = Struct("<HH")  # num_handles, flags
_FLAG_INLINE = 1
_NO_ENVELOPE = bytes(8)


@dataclass(frozen=True)
class UnknownVariant:
    """What a flexible union held: ``data`` of 4 bytes when it was inline, else a multiple of 8."""

    ordinal: int
    data: bytes
    handles: tuple[Any, ...] = ()


class Member:
    """A named, perhaps numbered, part of a record."""

    def __init__(self, name: str, ordinal: int, source: TypeSource) -> None:
        self.name = name
        self.ordinal = ordinal
        self._source = source

    @cached_property
    def type(self) -> FidlType:
        return type_of(self._source)


class StructType(FidlType):
    """Members one after another, each naturally aligned."""

    def __init__(self, name: str, members: list[Member], factory: Callable[..., Any]) -> None:
        self.name = name
        self.members = members
        self.factory = factory
        self.offsets: list[int] = []
        self.padding: list[tuple[int, int]] = []
        end = 0
        self.alignment = 1
        for item in members:
            alignment = item.type.alignment
            start = -(-end // alignment) * alignment
            if start > end:
                self.padding.append((end, start))
            self.offsets.append(start)
            end = start + item.type.size
            self.alignment = max(self.alignment, alignment)
        self.size = max(1, -(-end // self.alignment) * self.alignment)
        if self.size > end:
            self.padding.append((end, self.size))

    def encode(self, encoder: Encoder, offset: int, value: Any) -> None:
        if isinstance(self.factory, type) and not isinstance(value, self.factory):
            raise EncodeError(f"{value!r} is not a {self.name}")
        for item, start in zip(self.members, self.offsets, strict=True):
            item.type.encode(encoder, offset + start, getattr(value, item.name))

    def decode(self, decoder: Decoder, offset: int) -> Any:
        for start, stop in self.padding:
            decoder.check_zero(offset + start, offset + stop)
        return self.factory(**{item.name: item.type.decode(decoder, offset + start) for item, start in zip(self.members, self.offsets, strict=True)})

    def describe(self, value: Any) -> str:
        return _describe(self.name, self.members, value)


class TableType(FidlType):
    """Members by ordinal, each of which may be absent; unknown ones are skipped and their handles closed."""

    size = 16
    alignment = 8

    def __init__(self, name: str, members: list[Member], factory: Callable[..., Any]) -> None:
        self.name = name
        self.members = members
        self.by_ordinal = _by_ordinal(name, members)
        self.factory = factory

    def encode(self, encoder: Encoder, offset: int, value: Any) -> None:
        if isinstance(self.factory, type) and not isinstance(value, self.factory):
            raise EncodeError(f"{value!r} is not a {self.name}")
        present = [(item, content) for item in self.by_ordinal.values() if (content := getattr(value, item.name)) is not None]
        count = present[-1][0].ordinal if present else 0
        PRESENCE_HEADER.pack_into(encoder.data, offset, count, PRESENT)
        encoder.enter()
        start = encoder.allocate(8 * count)
        for item, content in present:
            encode_envelope(encoder, start + 8 * (item.ordinal - 1), item.type, content)
        encoder.leave()

    def decode(self, decoder: Decoder, offset: int) -> Any:
        count, presence = PRESENCE_HEADER.unpack_from(decoder.data, offset)
        check_present(presence)
        if count > MAX_ORDINAL:
            raise DecodeError(f"table of {count} members")
        decoder.enter()
        start = decoder.claim(8 * count)
        found: dict[str, Any] = {}
        last = None
        for ordinal in range(1, count + 1):
            item = self.by_ordinal.get(ordinal)
            last = decode_envelope(decoder, start + 8 * (ordinal - 1), item.type if item else None)
            if last is None:
                continue
            if item:
                found[item.name] = last
            else:
                close_handles(last[1])
        decoder.leave()
        if count and last is None:
            raise DecodeError("the last member of a table is absent")
        return self.factory(**found)

    def describe(self, value: Any) -> str:
        return _describe(self.name, self.members, value)


class UnionType(FidlType):
    """Exactly one of its members."""

    size = 16
    alignment = 8

    def __init__(self, name: str, members: list[Member], factory: Callable[..., Any], *, strict: bool = False, nullable: bool = False) -> None:
        self.name = name
        self.members = members
        self.by_ordinal = _by_ordinal(name, members)
        self.factory = factory
        self.strict = strict
        self.nullable = nullable

    def optional(self) -> UnionType:
        """The same union, which may also be None."""
        return UnionType(self.name, self.members, self.factory, strict=self.strict, nullable=True)

    def encode(self, encoder: Encoder, offset: int, value: Any) -> None:
        if value is None:
            if not self.nullable:
                raise EncodeError(f"{self.name} is missing")
            return
        if isinstance(self.factory, type) and not isinstance(value, self.factory):
            raise EncodeError(f"{value!r} is not a {self.name}")
        chosen = [(item, content) for item in self.members if (content := getattr(value, item.name)) is not None]
        unknown = None if self.strict else getattr(value, "unknown", None)
        if len(chosen) + (unknown is not None) != 1:
            raise EncodeError(f"{self.name} with {len(chosen)} members set")
        if unknown is not None:
            _encode_unknown(encoder, offset, unknown)
            return
        item, content = chosen[0]
        UINT64.pack_into(encoder.data, offset, item.ordinal)
        encode_envelope(encoder, offset + 8, item.type, content)

    def decode(self, decoder: Decoder, offset: int) -> Any:
        (ordinal,) = UINT64.unpack_from(decoder.data, offset)
        if ordinal == 0:
            decoder.check_zero(offset + 8, offset + 16)
            if not self.nullable:
                raise DecodeError(f"required {self.name} is absent")
            return None
        item = self.by_ordinal.get(ordinal)
        if item is None and self.strict:
            raise DecodeError(f"ordinal {ordinal} is unknown to strict {self.name}")
        content = decode_envelope(decoder, offset + 8, item.type if item else None)
        if content is None:
            raise DecodeError(f"{self.name} with an ordinal and no content")
        if item is None:
            return self.factory(unknown=UnknownVariant(ordinal, content[0], tuple(content[1])))
        return self.factory(**{item.name: content})

    def describe(self, value: Any) -> str:
        if value is None:
            return "None"
        unknown = getattr(value, "unknown", None)
        if unknown is not None:
            return f"{self.name}(unknown {unknown.ordinal}, {len(unknown.data)} bytes, {len(unknown.handles)} handles)"
        return _describe(self.name, self.members, value)


def encode_envelope(encoder: Encoder, offset: int, kind: FidlType, value: Any) -> None:
    """Write content of at most 4 bytes into the envelope itself, other content out of line."""
    first_handle = len(encoder.handles)
    if kind.size <= INLINE_SIZE:
        kind.encode(encoder, offset, value)
        _COUNTS.pack_into(encoder.data, offset + 4, len(encoder.handles) - first_handle, _FLAG_INLINE)
        return
    encoder.enter()
    start = encoder.allocate(kind.size)
    kind.encode(encoder, start, value)
    encoder.leave()
    _OUT_OF_LINE.pack_into(encoder.data, offset, len(encoder.data) - start, len(encoder.handles) - first_handle, 0)


def decode_envelope(decoder: Decoder, offset: int, kind: FidlType | None) -> Any:
    """The content, None if there is none. Content that nobody knows (``kind`` is None) comes as (bytes, handles)."""
    if decoder.data[offset : offset + 8] == _NO_ENVELOPE:
        return None
    num_bytes, num_handles, flags = _OUT_OF_LINE.unpack_from(decoder.data, offset)
    first_handle = decoder.next_handle
    if flags & ~_FLAG_INLINE:
        raise DecodeError(f"envelope flags {flags:#x}")
    if flags:
        if kind is None:
            return bytes(decoder.data[offset : offset + 4]), decoder.skip(0, num_handles)[1]
        if kind.size > INLINE_SIZE:
            raise DecodeError(f"{kind.name} of {kind.size} bytes in an envelope")
        decoder.check_zero(offset + kind.size, offset + INLINE_SIZE)
        value = kind.decode(decoder, offset)
    else:
        if num_bytes == 0 or num_bytes % 8:
            raise DecodeError(f"envelope of {num_bytes} bytes")
        decoder.enter()
        if kind is None:
            content = decoder.skip(num_bytes, num_handles)
            decoder.leave()
            return content
        if kind.size <= INLINE_SIZE:
            raise DecodeError(f"{kind.name} of {kind.size} bytes outside its envelope")
        start = decoder.claim(kind.size)
        value = kind.decode(decoder, start)
        decoder.leave()
        if decoder.next_object - start != num_bytes:
            raise DecodeError(f"envelope says {num_bytes} bytes, its content has {decoder.next_object - start}")
    if decoder.next_handle - first_handle != num_handles:
        raise DecodeError(f"envelope says {num_handles} handles, its content has {decoder.next_handle - first_handle}")
    return value


def _encode_unknown(encoder: Encoder, offset: int, unknown: UnknownVariant) -> None:
    UINT64.pack_into(encoder.data, offset, unknown.ordinal)
    encoder.handles += unknown.handles
    if len(unknown.data) == INLINE_SIZE:
        encoder.data[offset + 8 : offset + 12] = unknown.data
        _COUNTS.pack_into(encoder.data, offset + 12, len(unknown.handles), _FLAG_INLINE)
        return
    if not unknown.data or len(unknown.data) % 8:
        raise EncodeError(f"unknown content of {len(unknown.data)} bytes")
    encoder.enter()
    start = encoder.allocate(len(unknown.data))
    encoder.leave()
    encoder.data[start : start + len(unknown.data)] = unknown.data
    _OUT_OF_LINE.pack_into(encoder.data, offset + 8, len(unknown.data), len(unknown.handles), 0)


def _by_ordinal(name: str, members: list[Member]) -> dict[int, Member]:
    ordinals = {item.ordinal: item for item in sorted(members, key=lambda item: item.ordinal)}
    if len(ordinals) != len(members) or any(not 0 < ordinal <= MAX_ORDINAL for ordinal in ordinals):
        raise TypeError(f"{name}: ordinals must differ, and be at least 1")
    return ordinals


def _describe(name: str, members: list[Member], value: Any) -> str:
    parts = [f"{item.name}={item.type.describe(content)}" for item in members if (content := getattr(value, item.name)) is not None]
    return f"{name}({', '.join(parts)})"


# -- declarations ----------------------------------------------------------------------------------------------------------------


@overload
def member(first: int, kind: TypeSource, /) -> Any: ...
@overload
def member(first: TypeSource, /) -> Any: ...
def member(first: int | TypeSource, kind: TypeSource | None = None, /) -> Any:
    """A dataclass field with its wire type: ``member(ordinal, type)`` in tables and unions, ``member(type)`` in structs."""
    if isinstance(first, int):
        assert kind is not None
        return Field(None, (first, kind))
    return Field(metadata=(0, first))


def _members(declaration: Any) -> list[Member]:
    return [Member(name, *field.metadata) for name, field in fields(declaration).items() if field.metadata is not None]


def struct(declaration: Class) -> Class:
    """Declare a dataclass as a struct."""
    declaration.__fidl_type__ = StructType(declaration.__name__, _members(declaration), declaration)  # type: ignore[attr-defined]
    return declaration


def table(declaration: Class) -> Class:
    """Declare a dataclass as a table."""
    declaration.__fidl_type__ = TableType(declaration.__name__, _members(declaration), declaration)  # type: ignore[attr-defined]
    return declaration


def union(*, strict: bool = False) -> Callable[[Class], Class]:
    """Declare a dataclass as a union."""

    def declare(declaration: Class) -> Class:
        if not strict and "unknown" not in fields(declaration):
            raise TypeError(f"flexible union {declaration.__name__} needs a field 'unknown'")
        kind = UnionType(declaration.__name__, _members(declaration), declaration, strict=strict)
        declaration.__fidl_type__ = kind  # type: ignore[attr-defined]
        return declaration

    return declare


@struct
@dataclass(frozen=True)
class Empty:
    """The struct without members: one zero byte."""
