"""``make soak``: 5000 seeded kills, then the audit."""

from __future__ import annotations

import itertools
import random
import signal
import time

import pytest
from integration.audit import Audit, build
from integration.test_faults import storm

KILLS = 5000
KILLS_OF_KERNEL = 400

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7000)]


def test_thousands_of_restricted_processes_die(audit: Audit) -> None:
    killed = 0
    for first in itertools.count(1000, 8):
        killed += storm(audit, range(first, first + 8))
        assert audit.settle() == []
        if killed >= KILLS:
            return


@pytest.mark.parametrize("victim", ["kernel", "caller"])
def test_hundreds_of_kernels_and_callers_die(audit: Audit, victim: str) -> None:
    generator = random.Random(f"soak {victim}")
    argv = [build("storm"), "30", "1"]
    for _ in range(KILLS_OF_KERNEL // 16):
        runs = [(argv, audit.kill_feature(victim=victim, skip=int(generator.expovariate(1 / 300)), limit=1)) for _ in range(16)]
        for outcome in audit.run_all(runs):
            assert outcome.code in ((0, -signal.SIGKILL) if victim == "caller" else (0, 125)), outcome
        assert audit.settle() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_command_line_is_signalled_at_any_moment(audit: Audit, number: signal.Signals) -> None:
    generator = random.Random(f"soak {number}")
    for _ in range(50):
        running = [audit.popen(["sleep", "100"]) for _ in range(4)]
        for process in running:
            time.sleep(generator.random() * 0.2)
            process.send_signal(number)
        for process in running:
            process.wait(60)
        if number != signal.SIGKILL:
            assert audit.settle() == []
    audit.all_may_be_dead = number == signal.SIGKILL
