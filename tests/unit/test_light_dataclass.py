"""The declarations of ``polynix.ipc.light_dataclass`` beside the library's: what one does, the other does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from polynix.ipc import light_dataclass

Declare = Callable[..., Any]


@pytest.fixture(params=[dataclasses.dataclass, light_dataclass.dataclass], ids=["library", "light"])
def dataclass(request: pytest.FixtureRequest) -> Declare:
    made: Declare = request.param
    return made


def declare(dataclass: Declare, **parameters: bool) -> Any:
    @dataclass(**parameters)
    class Point:
        x: int
        y: int = 7

    return Point


def test_parameters(dataclass: Declare) -> None:
    make = declare(dataclass)
    assert [(point.x, point.y) for point in (make(1), make(1, 2), make(1, y=2), make(y=2, x=1))] == [(1, 7), (1, 2), (1, 2), (1, 2)]


@pytest.mark.parametrize(("positional", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((), {"z": 1}), ((1,), {"z": 1}), ((), {"y": 1, "z": 2})])
def test_wrong_parameters(dataclass: Declare, positional: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        declare(dataclass)(*positional, **named)


def test_by_name_alone(dataclass: Declare) -> None:
    make = declare(dataclass, kw_only=True)
    assert make(x=1).x == 1
    with pytest.raises(TypeError):
        make(1)


def test_check_of_what_was_made(dataclass: Declare) -> None:
    @dataclass
    class Positive:
        number: int

        def __post_init__(self) -> None:
            if self.number < 1:
                raise ValueError

    assert Positive(1).number == 1
    with pytest.raises(ValueError):
        Positive(0)


def test_equality_and_hash(dataclass: Declare) -> None:
    changing, frozen = declare(dataclass), declare(dataclass, frozen=True)
    for make in (changing, frozen):
        assert make(1, 2) == make(1, 2) != make(2, 2)
        assert make(1, 2) != (1, 2)
    assert changing(1, 2) != frozen(1, 2)
    assert len({frozen(1, 2), frozen(1, 2), frozen(1, 3)}) == 2
    with pytest.raises(TypeError):
        hash(changing(1))


def test_frozen(dataclass: Declare) -> None:
    changing, frozen = declare(dataclass)(1), declare(dataclass, frozen=True)(1)
    changing.x = 5
    assert changing.x == 5
    with pytest.raises(AttributeError):
        frozen.x = 5
    with pytest.raises(AttributeError):
        del frozen.x
    assert frozen.x == 1


def test_text_and_patterns(dataclass: Declare) -> None:
    point = declare(dataclass)(1)
    assert repr(point) == "declare.<locals>.Point(x=1, y=7)"
    match point:
        case object(x=1, y=7):
            pass
        case _:
            raise AssertionError
    assert type(point).__match_args__ == ("x", "y")


def test_fields() -> None:
    @light_dataclass.dataclass
    class Named:
        plain: int
        described: Any = light_dataclass.Field(3, "what it is")
        required: Any = light_dataclass.Field(metadata="what else")

    found = light_dataclass.fields(Named)
    assert {name: field.metadata for name, field in found.items()} == {"plain": None, "described": "what it is", "required": "what else"}
    assert Named(1, required=2) == Named(plain=1, described=3, required=2)
    with pytest.raises(TypeError):
        Named(1)
