"""``make soak``: wild arguments to every call, at length."""

from __future__ import annotations

import pytest
from integration.audit import Audit, build

CALLS = 600
ROUNDS = 150

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.mark.parametrize("seed", range(100, 120))
def test_wild_arguments_to_every_call(audit: Audit, seed: int) -> None:
    argv = [build("wild", "-w"), "0", str(CALLS), str(ROUNDS), str(seed), "4"]
    outcome = audit.run(argv, "--memory", "512M", "--pids", "64", timeout=500)
    assert outcome.code == 0, outcome
    assert b"inside the kernel" not in outcome.err, outcome.err.decode()
