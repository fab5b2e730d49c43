"""What tests of handles between processes, and of proxies, share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from polynix.runner.async_channel import Sender
    from polynix.runner.proxy import NewProxy
    from realm import Realm


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    """A broker; it leaves nothing in its directory."""
    from realm import Realm

    realm = Realm(tmp_path)
    yield realm
    realm.close()
    assert os.listdir(tmp_path) == []


@pytest.fixture
def proxies() -> Iterator[Sender[NewProxy]]:
    """The way to a proxy thread, which ends when it closes."""
    from polynix.runner.async_channel import unbounded
    from polynix.runner.proxy import run_proxy_thread

    sending, receiving = unbounded()
    thread = run_proxy_thread(receiving)
    yield sending
    sending.close()
    thread.join(20)
    assert not thread.is_alive()
