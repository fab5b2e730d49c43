"""What tests of containers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import polynix


@pytest.fixture
def container() -> Iterator[polynix.Container]:
    """A fresh container."""
    with polynix.Container() as started:
        yield started
