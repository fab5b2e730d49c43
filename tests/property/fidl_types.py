"""Random FIDL types with strategies for their values, and hostile variants of their messages."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from enum import IntEnum, IntFlag
from typing import Any

from hypothesis import strategies as st
from polynix.ipc import fidl
from polynix.ipc.light_dataclass import dataclass

Pair = tuple[Any, st.SearchStrategy[Any]]  # a type, and its values


class Token:
    """A handle that knows how often it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Colour(IntEnum):
    RED = 0
    GREEN = 5
    BLUE = 200


class Mode(IntFlag):
    READ = 1
    WRITE = 2
    HIGH = 128


def _integers(kind: Any, bits: int, signed: bool) -> Pair:
    return kind, st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else st.integers(0, (1 << bits) - 1)


LEAVES: list[Pair] = [
    *(_integers(getattr(fidl, f"{'' if signed else 'U'}INT{bits}"), bits, signed) for bits in (8, 16, 32, 64) for signed in (False, True)),
    (fidl.FLOAT32, st.floats(width=32, allow_nan=False)),
    (fidl.FLOAT64, st.floats(allow_nan=False)),
    (fidl.BOOL, st.booleans()),
    (fidl.EnumType(Colour, fidl.UINT8, strict=True), st.sampled_from(Colour)),
    (fidl.EnumType(Colour, fidl.UINT16), st.integers(0, 65535).map(lambda value: Colour(value) if value in {0, 5, 200} else value)),
    (fidl.BitsType(Mode, fidl.UINT8, strict=True), st.sampled_from([Mode(0), Mode.READ, Mode.READ | Mode.HIGH])),
    (fidl.BitsType(Mode, fidl.UINT64), st.integers(0, (1 << 64) - 1).map(Mode)),
    (fidl.HandleType(Token), st.builds(Token)),
    (fidl.HandleType(nullable=True), st.none() | st.builds(Token)),
    (fidl.STRING, st.text(max_size=20)),
    (fidl.StringType(80, nullable=True), st.none() | st.text(max_size=20)),
    (fidl.VectorType(fidl.UINT8), st.binary(max_size=20)),
    (fidl.ArrayType(fidl.UINT8, 3), st.binary(min_size=3, max_size=3)),
    (fidl.type_of(fidl.Empty), st.just(fidl.Empty())),
]


def _vector(pair: Pair, nullable: bool) -> Pair:
    values = st.lists(pair[1], max_size=4)
    if pair[0] is fidl.UINT8:
        values = values.map(bytes)
    return fidl.VectorType(pair[0], nullable=nullable), (st.none() | values) if nullable else values


def _array(pair: Pair, count: int) -> Pair:
    values = st.lists(pair[1], min_size=count, max_size=count)
    return fidl.ArrayType(pair[0], count), values.map(bytes) if pair[0] is fidl.UINT8 else values


def _class(name: str, pairs: list[Pair], ordinals: list[int], extra: dict[str, Any]) -> Any:
    letters = string.ascii_lowercase
    members = {letter: fidl.member(n, kind) if n else fidl.member(kind) for letter, n, (kind, _) in zip(letters, ordinals, pairs, strict=False)} | extra
    return dataclass(kw_only=True)(type(name, (), {"__annotations__": dict.fromkeys(members, Any), **members}))


def _struct(pairs: list[Pair]) -> Pair:
    declared = fidl.struct(_class("RandomStruct", pairs, [0] * len(pairs), {}))
    return fidl.type_of(declared), st.builds(declared, **dict(zip(string.ascii_lowercase, (values for _, values in pairs), strict=False)))


def _required(pair: Pair) -> bool:
    return not getattr(pair[0], "nullable", False) and not isinstance(pair[0], fidl.BoxType)


def _table(pairs: list[Pair], gaps: list[int]) -> Pair:
    pairs = [pair for pair in pairs if _required(pair)]
    ordinals = [index + 1 + sum(gaps[: index + 1]) for index in range(len(pairs))]
    declared = fidl.table(_class("RandomTable", pairs, ordinals, {}))
    return fidl.type_of(declared), st.builds(
        declared, **{letter: st.none() | values for letter, (_, values) in zip(string.ascii_lowercase, pairs, strict=False)}
    )


def _union(pairs: list[Pair], strict: bool, nullable: bool) -> Pair:
    pairs = [pair for pair in pairs if _required(pair)] or [LEAVES[0]]
    extra = {} if strict else {"unknown": None}
    declared = fidl.union(strict=strict)(_class("RandomUnion", pairs, list(range(1, len(pairs) + 1)), extra))
    kind: Any = fidl.type_of(declared)
    choices = [st.builds(declared, **{letter: values}) for letter, (_, values) in zip(string.ascii_lowercase, pairs, strict=False)]
    if not strict:
        contents = st.binary(min_size=4, max_size=4) | st.integers(1, 3).flatmap(lambda words: st.binary(min_size=8 * words, max_size=8 * words))
        tokens = st.lists(st.builds(Token), max_size=2).map(tuple)
        unknown = st.builds(fidl.UnknownVariant, st.integers(20, (1 << 64) - 1), contents, tokens)
        unknown = unknown.filter(lambda variant: bool(variant.data))
        choices.append(st.builds(declared, unknown=unknown))
    if nullable:
        return kind.optional(), st.one_of(st.none(), *choices)
    return kind, st.one_of(*choices)


def _extend(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    several = st.lists(inner, min_size=1, max_size=4)
    return st.one_of(
        st.builds(_vector, inner, st.booleans()),
        st.builds(_array, inner, st.integers(1, 3)),
        st.builds(_struct, several),
        st.builds(_struct, several).map(lambda pair: (fidl.BoxType(pair[0]), st.none() | pair[1])),
        st.builds(_table, several, st.lists(st.integers(0, 2), min_size=4, max_size=4)),
        st.builds(_union, several, st.booleans(), st.booleans()),
    )


types = st.recursive(st.sampled_from(LEAVES), _extend, max_leaves=8)


@st.composite
def typed_values(draw: Callable[[Any], Any]) -> tuple[Any, Any]:
    """A type and one of its values."""
    kind, values = draw(types)
    return kind, draw(values)


def mutate(generator: random.Random, message: bytes, handles: int) -> tuple[bytes, int]:
    """A message that is a little, or altogether, wrong."""
    data = bytearray(message)
    for _ in range(generator.randint(1, 3)):
        choice = generator.randrange(6)
        if choice == 0 and data:
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        elif choice == 1 and data:
            start = generator.randrange(len(data)) & ~7
            data[start : start + 8] = generator.choice([bytes(8), b"\xff" * 8, generator.randbytes(8), generator.randrange(9).to_bytes(8, "little")])
        elif choice == 2:
            del data[generator.randrange(len(data) + 1) :]
        elif choice == 3:
            data += generator.randbytes(8 * generator.randrange(3))
        elif choice == 4:
            handles = max(0, handles + generator.choice([-1, 1]))
        elif choice == 5 and generator.randrange(8) == 0:
            data = bytearray(generator.randbytes(8 * generator.randrange(20)))
    return bytes(data), handles


def check_hostile(kind: Any, message: bytes, handles: int) -> bool:
    """Decode; whatever the bytes are, only a DecodeError may come, with every handle closed. True if the message was valid."""
    tokens = [Token() for _ in range(handles)]
    try:
        value = fidl.decode(kind, message, tokens)
    except fidl.DecodeError:
        assert all(token.closed for token in tokens)
        return False
    kind.describe(value)
    again, kept = fidl.encode(kind, value)
    assert len(again) <= len(message)
    assert len(kept) + sum(token.closed for token in tokens) == len(tokens)
    return True
