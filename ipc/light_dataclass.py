"""``dataclass``, for the classes that every start declares: a hundred of them, in each of its processes.

The library's writes the text of each method and compiles it, a quarter to half a millisecond for a class; here methods go through the names of the fields
instead: a declaration takes microseconds, an instance one more than the library's. Only what is needed is here: parameters by position and name, defaults,
``frozen`` and ``kw_only``, ``__post_init__``, equality within a class, a hash where it is frozen, ``repr``, ``match``. No fields are inherited. Type checkers
see the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

REQUIRED: Any = object()
"""The default of a field that has none."""


class Field:
    """What a declaration says about one field, where that is more than a default; ``metadata`` is for others."""

    __slots__ = ("default", "metadata")

    def __init__(self, default: Any = REQUIRED, metadata: Any = None) -> None:
        self.default = default
        self.metadata = metadata


def fields(cls: type) -> Mapping[str, Field]:
    """The fields of a class, by name, in their order."""
    declared: Mapping[str, Field] = cls.__light_fields__  # type: ignore[attr-defined]
    return declared


def _freeze(self: object, name: str, _value: object = None) -> NoReturn:
    raise AttributeError(f"{type(self).__name__}.{name} cannot change")


def _make_dataclass(cls: type, *, frozen: bool, kw_only: bool) -> type:
    declared: dict[str, Field] = {}
    for name in cls.__annotations__:
        given = vars(cls).get(name, REQUIRED)
        declared[name] = given if isinstance(given, Field) else Field(given)
        if given is not REQUIRED:
            delattr(cls, name)
    names = tuple(declared)
    positions = () if kw_only else names
    defaults = {name: field.default for name, field in declared.items() if field.default is not REQUIRED}
    known, count = frozenset(names), len(names)
    check: Callable[[object], None] | None = vars(cls).get("__post_init__")

    def initialise(self: object, /, *positional: Any, **named: Any) -> None:
        values = vars(self)
        values.update(defaults)
        if positional:
            values.update(zip(positions, positional, strict=False))
        if named:
            values.update(named)
        wrong = len(values) != count or not named.keys() <= known
        if wrong or (positional and (len(positional) > len(positions) or not named.keys().isdisjoint(names[: len(positional)]))):
            raise TypeError(f"{cls.__name__} takes {', '.join(names)}, not {positional} and {named}")
        if check is not None:
            check(self)

    def contents(self: object) -> tuple[Any, ...]:
        values = vars(self)
        return tuple([values[name] for name in names])

    def is_equal(self: object, other: object) -> Any:
        return contents(self) == contents(other) if type(other) is type(self) else NotImplemented

    def represent(self: object) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in zip(names, contents(self), strict=True))})"

    def hash_of(self: object) -> int:
        return hash(contents(self))

    made: Any = cls
    made.__light_fields__ = declared
    made.__match_args__ = positions  # type: ignore[misc]
    made.__init__, made.__eq__, made.__repr__ = initialise, is_equal, represent
    made.__hash__ = hash_of if frozen else None
    if frozen:
        made.__setattr__ = made.__delattr__ = _freeze
    return cls


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, *, frozen=False, kw_only=False):
        """A class whose annotations are its fields. Errors of its instances: TypeError."""
        if cls is None:
            return lambda declaration: _make_dataclass(declaration, frozen=frozen, kw_only=kw_only)
        return _make_dataclass(cls, frozen=frozen, kw_only=kw_only)
