"""``make soak``: 200 000 hostile FIDL messages."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from polynix.ipc import fidl
from property.fidl_types import check_hostile, mutate, typed_values

SHAPES = 2000
MESSAGES = 100  # for each shape

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


@settings(max_examples=SHAPES, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(typed_values())
def test_decoder(pair: tuple[Any, Any]) -> None:
    kind, value = pair
    message, handles = fidl.encode(kind, value)
    generator = random.Random(message)
    for _ in range(MESSAGES):
        check_hostile(kind, *mutate(generator, message, len(handles)))
