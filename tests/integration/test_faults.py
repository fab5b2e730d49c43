"""Anyone may be killed at any moment: restricted processes, the kernel process, the command line. The others go on or end in good order,
and nothing is left behind. ``tests/soak`` does the same at length.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from integration.audit import Audit, build

STORM_SEEDS = 4
KILLS_OF_KERNEL = 24
KILLS_OF_CALLER = 24
KILLS_AT_A_TIME = 32
LOADING = {signal.SIGINT: (1,)}  # Python's own answer before any of our code runs


def storm(audit: Audit, seeds: range, rounds: int = 150, **settings: object) -> int:
    """Kill restricted processes under pid 1, which must see SIGKILL and nothing else; returns the number of kills."""
    before = len(audit.kills())
    argv = [build("storm"), str(rounds)]
    outcomes = audit.run_all([([*argv, str(seed)], audit.kill_feature(seed=seed, rate=0.005, **settings)) for seed in seeds], timeout=120)
    for seed, outcome in zip(seeds, outcomes, strict=True):
        assert outcome.code == 0, (seed, outcome)
        assert b"storm survived" in outcome.out, (seed, outcome)
        assert b"inside the kernel" not in outcome.err, (seed, outcome.err.decode())
    return len(audit.kills()) - before


@pytest.mark.timeout(120)
def test_restricted_processes_die_at_any_point(audit: Audit) -> None:
    assert storm(audit, range(STORM_SEEDS)) >= 200
    assert len({kill.split("@")[1] for kill in audit.kills()}) >= 6


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", ["batch", "exec", "exit", "fork", "thread"])
def test_each_point_at_a_high_rate(audit: Audit, point: str) -> None:
    outcome = audit.run([build("storm"), "60", "1"], *audit.kill_feature(seed=point, rate=0.1, points=point))
    assert outcome.code == 0, outcome
    assert b"inside the kernel" not in outcome.err, outcome.err.decode()
    assert audit.kills()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("victim", ["kernel", "launcher", "runner", "caller"])
def test_kernel_or_what_is_above_it_dies_at_any_point(audit: Audit, victim: str) -> None:
    generator = random.Random(victim)
    argv = [build("storm"), "30", "1"]
    count = KILLS_OF_KERNEL if victim == "kernel" else KILLS_OF_CALLER
    runs = [(argv, audit.kill_feature(victim=victim, skip=int(generator.expovariate(1 / 200)), limit=1)) for _ in range(count)]
    for outcome in audit.run_all(runs):
        if victim == "caller":
            assert outcome.code in (0, -signal.SIGKILL), outcome
        elif outcome.code != 0:
            assert outcome.code == 125, outcome
            who = "runner process" if victim == "runner" else "kernel process"
            assert outcome.err.decode().splitlines() == [f"polynix: the {who} died" + (" (signal 9)" if victim != "runner" else "")]
    assert len(audit.kills()) > count // 2


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_command_line_is_signalled_at_any_moment(audit: Audit, number: signal.Signals) -> None:
    generator = random.Random(int(number))
    audit.all_may_be_dead = number == signal.SIGKILL  # before there was a kernel
    for _ in range(KILLS_AT_A_TIME // 8):
        running = [audit.popen(["sleep", "100"]) for _ in range(2)]
        for process in running:
            time.sleep(generator.random() * 0.4)
            process.send_signal(number)
        for process in running:
            assert process.wait(60) in (-number, 128 + number, *LOADING.get(number, ()))


@pytest.mark.timeout(60)
def test_all_are_killed_and_the_next_start_cleans_up(audit: Audit) -> None:
    process = audit.popen(["sleep", "100"], *audit.kill_feature(rate=0))
    deadline = time.monotonic() + 10
    while not audit.kernel_pids() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    (kernel,) = audit.kernel_pids()
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(kernel, signal.SIGKILL)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    audit.all_may_be_dead = True


@pytest.mark.timeout(60)
def test_a_kernel_keeps_nothing_of_the_dead(audit: Audit) -> None:
    script = f"for round in 1 2 3; do {build('storm')} 60 $round; echo done; read line; done"
    with open(audit.directory / "errors", "wb") as errors:
        process = audit.popen(["sh", "-c", script], *audit.kill_feature(rate=0.005, seed=1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdin is not None and process.stdout is not None
    counts = []
    for _ in range(3):
        while process.stdout.readline() != b"done\n":
            assert process.poll() is None
        (kernel,) = audit.kernel_pids()
        counts.append(settled(partial(count_entries, f"/proc/{kernel}/fd")))
        assert not [pid for pid in children_of(kernel) if is_zombie(pid)]
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert audit.kills()
    assert max(counts) - min(counts) <= 10, counts  # a spare or two may just be in the making; each kill would cost five
    assert process.wait(10) == 0
    assert b"inside the kernel" not in (audit.directory / "errors").read_bytes()


def count_entries(path: str) -> int:
    return len(os.listdir(path))


def settled(measure: Callable[[], int]) -> int:
    """A number once it has stayed the same for half a second: the pool of spares is filled behind the guests' backs."""
    last, since = measure(), time.monotonic()
    end = since + 20
    while time.monotonic() < min(since + 0.5, end):
        time.sleep(0.02)
        now = measure()
        if now != last:
            last, since = now, time.monotonic()
    return last


def children_of(pid: int) -> list[int]:
    return [int(child) for listing in Path(f"/proc/{pid}/task").glob("*/children") for child in listing.read_text().split()]


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return False


@pytest.mark.timeout(60)
def test_others_survive_the_death_of_one_stub(audit: Audit) -> None:
    """A shell's child is killed from outside: the shell sees 137, its other child ends well."""
    script = "tail -f /dev/null & victim=$!; (sleep 2; exit 3) & other=$!; echo ready; wait $victim; echo $?; wait $other; echo $?"
    process = audit.popen(["sh", "-c", script], *audit.kill_feature(rate=0), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (kernel,) = audit.kernel_pids()
    deadline = time.monotonic() + 5
    victims: list[int] = []
    while not victims and time.monotonic() < deadline:
        time.sleep(0.05)
        victims = [pid for pid in children_of(kernel) if b"/tail" in Path(f"/proc/{pid}/maps").read_bytes()]
    assert victims, "no restricted process maps tail"
    os.kill(min(victims), signal.SIGKILL)
    assert process.stdout.read() == b"137\n3\n"
    assert process.wait(10) == 0
