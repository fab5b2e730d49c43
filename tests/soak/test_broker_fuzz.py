"""``make soak``: 20 000 lives of peers that send a broker random records."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from unit.raw_peer import send_random_records
from unit.realm import Realm

LIVES = 20_000

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def test_random_records(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    logging.getLogger("polynix.runner.broker").setLevel(logging.ERROR)
    realm = Realm(tmp_path)
    for seed in range(LIVES):
        send_random_records(realm, seed)
    realm.close()
    assert caplog.records == []
