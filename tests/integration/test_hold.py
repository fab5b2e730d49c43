"""Holding guest threads at their hand-off: nothing of a held process goes on, whatever it was doing; afterwards everything does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.audit import Audit, build
from integration.held import Held, children
from polynix.addrspace import _restricted as restricted
from polynix.addrspace.restricted import STUB_PATH

WHILE = 0.3


@pytest.fixture
def start(audit: Audit) -> Iterator[Any]:
    worlds: list[Held] = []

    def start(argv: list[str], *flags: str) -> Held:
        worlds.append(Held(audit, argv, *flags))
        return worlds[-1]

    yield start
    for world in worlds:
        world.close()


@pytest.mark.parametrize(("threads", "calls"), [(1, 0), (8, 0), (8, 1), (3, 1000)])
def test_nothing_goes_on_while_held(start: Any, threads: int, calls: int) -> None:
    world = start([build("progress"), "/mnt/counters", str(threads), str(calls)])
    world.wait_for_progress(threads)
    for _ in range(5):
        held = world.ask("hold")
        assert held["running"] <= 4  # the pool's stubs at their start at most
        before = world.words[:threads].tolist()
        ticks = world.cpu_ticks()
        time.sleep(WHILE)
        assert world.words[:threads].tolist() == before
        assert world.cpu_ticks() - ticks <= 1  # to answer us
        assert world.ask("tasks")["tasks"] == threads + 1  # it answers meanwhile
        assert world.words[:threads].tolist() == before
        world.ask("release", hold=held["hold"])
        world.wait_for_progress(threads, before)


THREADS = """
import threading
while True:
    threads = [threading.Thread(target=list) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""
STORMS = {
    "forks": "while :; do (:) ; (:) & (:) ; wait; done",
    "execs": "while :; do /bin/true; /bin/true | /bin/true; done",
    "threads": f"exec python3 -c '{THREADS}'",
    "spawns": "exec python3 -c 'import subprocess\nwhile True: subprocess.run([\"/bin/true\"])'",
    "signals": "trap : USR1; while :; do kill -USR1 $BASHPID; done",
}


@pytest.mark.parametrize("storm", STORMS)
def test_a_storm_is_caught(start: Any, storm: str) -> None:
    counting = f"{build('progress')} /mnt/counters 2 1 & "
    world = start(["/bin/bash", "-c", counting + f"for i in 1 2 3; do ( {STORMS[storm]} ) & done; wait"], "--pids", "200")
    world.wait_for_progress(2)
    for round in range(15):
        held = world.ask("hold")
        before = world.words[:2].tolist()
        stopped = children(world.kernel)
        time.sleep(0.03)
        assert world.words[:2].tolist() == before
        ticks = world.cpu_ticks()
        time.sleep(0.1 if round % 5 == 0 else 0)
        assert world.cpu_ticks() - ticks <= 1
        assert children(world.kernel) >= stopped - zombies(stopped)
        world.ask("release", hold=held["hold"])
        world.wait_for_progress(2, before)
    assert world.process.poll() is None


def zombies(pids: set[int]) -> set[int]:
    return {pid for pid in pids if not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()}


def test_what_blocks_stays_blocked_and_then_goes_on(start: Any, audit: Audit) -> None:
    (audit.directory / "out").touch()
    (audit.directory / "out").chmod(0o666)
    sender = "sleep 0.2; echo waiting > /mnt/out; sleep 0.7; echo it > /tmp/f; wait"
    world = start(["/bin/sh", "-c", f"mkfifo /tmp/f; (read line < /tmp/f; echo got $line > /mnt/out) & {sender}"])
    while (audit.directory / "out").read_text() != "waiting\n":
        time.sleep(0.01)
    held = world.ask("hold")
    time.sleep(1)
    assert (audit.directory / "out").read_text() == "waiting\n"
    world.ask("release", hold=held["hold"])
    assert world.process.wait(30) == 0
    assert (audit.directory / "out").read_text() == "got it\n"


def test_some_processes_are_held_with_what_they_fork(start: Any) -> None:
    program = build("progress")
    world = start(["/bin/sh", "-c", f"{program} /mnt/counters 1 1 & exec python3 -c '{FORKER}'"])
    world.wait_for_progress(2)
    held = world.ask("hold", program="python3")
    forker, other = world.words[1], world.words[0]
    world.wait_for_progress(1, [other])
    time.sleep(0.1)
    assert world.words[1] == forker
    again = world.ask("hold")  # the rest, too
    other = world.words[0]
    time.sleep(0.1)
    assert world.words[0] == other
    world.ask("release", hold=held["hold"])
    time.sleep(0.1)
    assert (world.words[0], world.words[1]) == (other, forker)
    world.ask("release", hold=again["hold"])
    world.wait_for_progress(2, [other, forker])


FORKER = """
import mmap, os
m = memoryview(mmap.mmap(os.open("/mnt/counters", os.O_RDWR), 4096)).cast("Q")
while True:
    m[1] += 1
    pid = os.fork()
    if pid == 0:
        m[1] += 1
        os._exit(0)
    os.waitpid(pid, 0)
"""


def test_a_held_process_can_be_killed(start: Any) -> None:
    world = start(["/bin/sh", "-c", f"{build('progress')} /mnt/counters 3 1; echo $? > /mnt/counters"])
    world.wait_for_progress(3)
    held = world.ask("hold")
    assert world.ask("kill", pid=world.ask("tasks")["programs"]["progress"]) == {}
    assert "progress" not in world.ask("tasks")["programs"]
    assert world.process.poll() is None
    world.ask("release", hold=held["hold"])
    assert world.process.wait(30) == 0
    assert (world.directory / "counters").read_bytes()[:4] == b"137\n"


def test_one_that_blocks_the_kick_is_stopped_by_the_host(start: Any) -> None:
    text = Path(STUB_PATH).read_bytes()
    world = start([build("deaf"), "/mnt/counters", hex(restricted.STUB_TEXT + text.index(b"\x0f\x05"))])
    world.wait_for_progress(1)
    held = world.ask("hold")
    assert "T" in host_states(world.kernel)
    before = world.words[0]
    time.sleep(WHILE)
    assert world.words[0] == before
    world.ask("release", hold=held["hold"])
    world.wait_for_progress(1, [before])
    assert "T" not in host_states(world.kernel)


def host_states(kernel: int) -> list[str]:
    return [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] for pid in children(kernel)]


def test_the_command_line_ends_a_held_container(start: Any) -> None:
    world = start(["sleep", "100"])
    world.ask("hold")
    world.process.terminate()
    assert world.process.wait(20) != 0
    assert isinstance(world.process, subprocess.Popen)
