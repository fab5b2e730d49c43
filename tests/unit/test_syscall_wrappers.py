"""Wrappers around entries of the table of system calls: hooks and traces, in any order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from polynix.kernelproc.syscalls import table

NUMBER = 1000


@pytest.fixture
def entry() -> Iterator[table.Entry]:
    def own(*_arguments: Any) -> str:
        return "own"

    table.entries[NUMBER] = own
    yield own
    table.entries[NUMBER] = None


def around(name: str, _number: int, inner: table.Entry | None) -> table.Entry:
    return lambda *arguments: f"{name}({inner(*arguments) if inner is not None else ''})"


def test_the_last_wrapper_is_the_outermost_and_any_may_go_first(entry: table.Entry) -> None:
    first, second, third = (partial(around, name) for name in ("first", "second", "third"))
    for wrapper in (first, second, third):
        table.wrap(NUMBER, wrapper)
    assert table.entries[NUMBER]() == "third(second(first(own)))"  # type: ignore[misc]
    table.unwrap(NUMBER, second)
    assert table.entries[NUMBER]() == "third(first(own))"  # type: ignore[misc]
    table.unwrap(NUMBER, first)
    table.unwrap(NUMBER, third)
    assert table.entries[NUMBER] is entry


def test_a_call_that_nobody_implements() -> None:
    wrapper = partial(around, "hook")
    table.wrap(NUMBER, wrapper)
    assert table.entries[NUMBER]() == "hook()"  # type: ignore[misc]
    table.unwrap(NUMBER, wrapper)
    assert table.entries[NUMBER] is None
