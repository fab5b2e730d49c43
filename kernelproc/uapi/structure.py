"""What the structs of the system-call ABI have in common: each is a tuple of its members, with names."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from struct import Struct

    from _typeshed import ReadableBuffer as Buffer


class Structure(tuple[Any, ...]):
    """A struct in the guest's memory. Not a NamedTuple, which compiles a constructor for each class when that is declared: 86 of them at every start."""

    __slots__ = ()
    FORMAT: ClassVar[Struct]
    SIZE: ClassVar[int]
    OFFSETS: ClassVar[dict[str, int]]

    def __new__(cls, **members: Any) -> Self:
        """Members that are left out are 0. Errors: struct.error for values that do not fit."""
        return cls.unpack(cls.pack(**members))  # type: ignore[attr-defined]

    @classmethod
    def unpack(cls, data: Buffer, offset: int = 0) -> Self:
        return tuple.__new__(cls, cls.FORMAT.unpack_from(data, offset))

    def to_bytes(self) -> bytes:
        return self.FORMAT.pack(*self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in zip(self.OFFSETS, self, strict=True))})"


def member(index: int) -> Any:
    """The member that is item ``index`` of the tuple."""
    return property(itemgetter(index))
