"""Types without out-of-line parts: numbers, booleans, enums, bits and handles."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Any

from polynix.ipc.fidl.coding import Decoder, Encoder, FidlType
from polynix.ipc.fidl.errors import DecodeError, EncodeError
from polynix.ipc.signals import Rights

HANDLE_PRESENT = 0xFFFF_FFFF
_HANDLE = Struct("<I")


class NumberType(FidlType):
    """An integer or floating-point number; ``code`` is its letter in the struct module."""

    def __init__(self, name: str, code: str) -> None:
        self.name = name
        self.code = code
        self.layout = Struct("<" + code)
        self.size = self.alignment = self.layout.size

    def encode(self, encoder: Encoder, offset: int, value: Any) -> None:
        self.layout.pack_into(encoder.data, offset, value)

    def decode(self, decoder: Decoder, offset: int) -> Any:
        return self.layout.unpack_from(decoder.data, offset)[0]


INT8 = NumberType("int8", "b")
INT16 = NumberType("int16", "h")
INT32 = NumberType("int32", "i")
INT64 = NumberType("int64", "q")
UINT8 = NumberType("uint8", "B")
UINT16 = NumberType("uint16", "H")
UINT32 = NumberType("uint32", "I")
UINT64 = NumberType("uint64", "Q")
FLOAT32 = NumberType("float32", "f")
FLOAT64 = NumberType("float64", "d")


class BoolType(FidlType):
    """One byte, 0 or 1."""

    name = "bool"
    size = alignment = 1

    def encode(self, encoder: Encoder, offset: int, value: Any) -> None:
        if not isinstance(value, bool):
            raise EncodeError(f"{value!r} is not a bool")
        encoder.data[offset] = value

    def decode(self, decoder: Decoder, offset: int) -> bool:
        byte = decoder.data[offset]
        if byte > 1:
            raise DecodeError(f"bool of {byte}")
        return byte == 1


BOOL = BoolType()


class EnumType(FidlType):
    """One of the members of an ``IntEnum``; a flexible one lets other numbers through, as plain ``int``."""

    def __init__(self, members: type[IntEnum], underlying: NumberType = UINT32, *, strict: bool = False) -> None:
        self.name = members.__name__
        self.members = members
        self.underlying = underlying
        self.strict = strict
        self.size = self.alignment = underlying.size

    def _member(self, value: int) -> int | None:
        try:
            return self.members(value)
        except ValueError:
            return None if self.strict else value

    def encode(self, encoder: Encoder, offset: int, value: Any) -> None:
        if self._member(value) is None:
            raise EncodeError(f"{value!r} is not a member of strict {self.name}")
        self.underlying.encode(encoder, offset, int(value))

    def decode(self, decoder: Decoder, offset: int) -> int:
        number = self.underlying.decode(decoder, offset)
        member = self._member(number)
        if member is None:
            raise DecodeError(f"{number} is not a member of strict {self.name}")
        return member

    def describe(self, value: Any) -> str:
        return value.name if isinstance(value, IntEnum) else f"{self.name}({int(value)})"


class BitsType(FidlType):
    """A set of flags, an ``IntFlag``; a flexible one keeps unknown bits."""

    def __init__(self, members: type[IntFlag], underlying: NumberType = UINT32, *, strict: bool = False) -> None:
        self.name = members.__name__
        self.members = members
        self.underlying = underlying
        self.strict = strict
        self.size = self.alignment = underlying.size
        self.mask = 0
        for member in members.__members__.values():
            self.mask |= int(member)

    def encode(self, encoder: Encoder, offset: int, value: Any) -> None:
        if self.strict and int(value) & ~self.mask:
            raise EncodeError(f"{value!r} has bits that strict {self.name} lacks")
        self.underlying.encode(encoder, offset, int(value))

    def decode(self, decoder: Decoder, offset: int) -> IntFlag:
        number = self.underlying.decode(decoder, offset)
        if self.strict and number & ~self.mask:
            raise DecodeError(f"{number:#x} has bits that strict {self.name} lacks")
        return self.members(number)


class HandleType(FidlType):
    """A handle, of class ``kind`` if one is given; the bytes say only whether there is one.

    ``rights`` are what the receiver needs: a handle without them is an error, and one with more arrives with these alone.
    """

    size = alignment = 4
    is_resource = True

    def __init__(self, kind: type | None = None, *, rights: Rights | None = None, nullable: bool = False) -> None:
        self.name = "handle" if kind is None else kind.__name__
        self.kind = kind
        self.rights = rights
        self.nullable = nullable

    def encode(self, encoder: Encoder, offset: int, value: Any) -> None:
        if value is None:
            if not self.nullable:
                raise EncodeError(f"a {self.name} is missing")
            return
        if self.kind is not None and not isinstance(value, self.kind):
            raise EncodeError(f"{value!r} is not a {self.name}")
        if self.rights is not None and self.rights & ~value.rights:
            raise EncodeError(f"a {self.name} that lacks {self.rights & ~value.rights!r}")
        _HANDLE.pack_into(encoder.data, offset, HANDLE_PRESENT)
        encoder.handles.append(value)

    def decode(self, decoder: Decoder, offset: int) -> Any:
        (word,) = _HANDLE.unpack_from(decoder.data, offset)
        if word == 0:
            if not self.nullable:
                raise DecodeError(f"a {self.name} is missing")
            return None
        if word != HANDLE_PRESENT:
            raise DecodeError(f"handle presence {word:#x}")
        handle = decoder.take_handle()
        if self.kind is not None and not isinstance(handle, self.kind):
            raise DecodeError(f"{type(handle).__name__} where a {self.name} was expected")
        if self.rights is not None and self.rights != handle.rights:
            if self.rights & ~handle.rights:
                raise DecodeError(f"a {self.name} that lacks {self.rights & ~handle.rights!r}")
            return decoder.replace_taken(handle.replace(self.rights))
        return handle
