"""FIDL: every type gives its values back, and the decoder bears anything."""

from __future__ import annotations

import random
from typing import Any

from fidl_types import check_hostile, mutate, typed_values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polynix.ipc import fidl

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@quick
@given(typed_values())
def test_round_trip(pair: tuple[Any, Any]) -> None:
    kind, value = pair
    message, handles = fidl.encode(kind, value)
    assert len(message) % 8 == 0
    assert fidl.decode(kind, message, handles) == value
    assert fidl.encode(kind, fidl.decode(kind, message, handles)) == (message, handles)
    kind.describe(value)


@quick
@given(typed_values(), st.integers(0, 1 << 32))
def test_hostile_messages(pair: tuple[Any, Any], seed: int) -> None:
    kind, value = pair
    message, handles = fidl.encode(kind, value)
    generator = random.Random(seed)
    for _ in range(10):
        check_hostile(kind, *mutate(generator, message, len(handles)))


@quick
@given(st.binary(max_size=64))
def test_any_header(message: bytes) -> None:
    try:
        header = fidl.MessageHeader.decode(message)
    except fidl.DecodeError:
        return
    assert header.encode() == message[:16]
