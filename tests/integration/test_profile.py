"""``polynix profile``: each figure is held against a source that owes nothing to it: the guest's own clocks, the host's smaps, loads that are known."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from headless import open_report

import polynix

POLYNIX = [sys.executable, "-m", "polynix.tools.start"]
PYTHON = "/usr/bin/python3"

# Computes, sleeps, waits for its child, makes 1000 calls; and says itself how much of each.
GUEST = """
import json, os, time
said = {"pid": os.getpid()}
private = bytearray(64 << 20)
for place in range(0, len(private), 4096):
    private[place] = 1
before = time.process_time()
while time.process_time() - before < 1.0:
    sum(range(1000))
began = time.monotonic(); time.sleep(0.7); said["slept"] = time.monotonic() - began
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    time.sleep(0.5)
    os.write(writer, b"x")
    time.sleep(0.3)
    os._exit(0)
began = time.monotonic(); os.read(reader, 1); said["read"] = time.monotonic() - began
began = time.monotonic(); os.wait(); said["waited"] = time.monotonic() - began
for _ in range(1000):
    os.getppid()
said["child"] = child
said["cpu"] = time.process_time()
print(json.dumps(said), flush=True)
time.sleep(1.2)
"""


def profile(tmp_path: Path, *arguments: str, timeout: float = 100, **options: Any) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run the command; returns how it ended and its JSON document."""
    target = tmp_path / "profile.json"
    command = [*POLYNIX, "profile", "--json", str(target), *arguments]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, **options)
    assert target.exists(), result.stderr
    return result, json.loads(target.read_text())


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """What the guest said of itself, what the profile says of it, and the report."""
    directory = tmp_path_factory.mktemp("profile")
    result, document = profile(directory, "--report", str(directory / "report.html"), "--", PYTHON, "-c", GUEST)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), document, directory / "report.html"


def row_of(rows: list[dict[str, Any]], pid: int) -> dict[str, Any]:
    (row,) = [row for row in rows if row["pid"] == pid]
    return row


def test_cpu_time_is_what_the_guest_says(profiled: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    said, document, _ = profiled
    assert row_of(document["processes"], said["pid"])["user_ns"] / 1e9 == pytest.approx(said["cpu"], rel=0.05)


def test_blocked_time_is_what_the_guest_says(profiled: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    said, document, _ = profiled
    row = row_of(document["processes"], said["pid"])
    assert row["blocked_ns"] / 1e9 == pytest.approx(said["slept"] + said["read"] + said["waited"] + 1.2, rel=0.05)
    total = sum(row[name] for name in ("user_ns", "kernel_ns", "blocked_ns", "runnable_ns", "handoff_ns"))
    assert total == pytest.approx(row["elapsed_ns"], rel=0.05)


def test_waits_name_the_waker_the_object_and_the_time(profiled: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    said, document, _ = profiled
    (pipe,) = [wait for wait in document["waits"] if wait["pid"] == said["pid"] and wait["object"].startswith("pipe:")]
    assert (pipe["waker"], pipe["count"]) == (said["child"], 1)
    assert pipe["total_ns"] / 1e9 == pytest.approx(said["read"], rel=0.05)
    (child,) = [wait for wait in document["waits"] if wait["pid"] == said["pid"] and wait["object"] == "child"]
    assert child["waker"] == said["child"] and child["total_ns"] / 1e9 == pytest.approx(said["waited"], rel=0.05)


def test_a_shell_waits_for_its_children(tmp_path: Path) -> None:
    """A shell has a handler for SIGCHLD, which interrupts its wait: the child is whom it waited for all the same."""
    _, document = profile(tmp_path, "--", "bash", "-c", "trap : CHLD; sleep 0.4; sleep 0.3; exit 0")
    waits = {wait["waker"]: wait["total_ns"] / 1e9 for wait in document["waits"] if wait["pid"] == 3 and wait["object"] == "child"}
    assert set(waits) == {4, 5} and waits[4] > 0.35 and waits[5] > 0.25


def test_calls_are_counted_with_their_latencies(profiled: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    said, document, _ = profiled
    calls = {row["name"]: row for row in document["calls"]}
    assert calls["getppid"]["calls"] == 1000 and calls["getppid"]["number"] == 110
    assert calls["getppid"]["by_process"] == {str(said["pid"]): 1000}
    assert calls["wait4"]["longest_ns"] / 1e9 == pytest.approx(said["waited"], rel=0.05)
    # The histogram's own maximum agrees to its two digits with the exact one.
    assert calls["wait4"]["latency"]["max_ns"] == pytest.approx(calls["wait4"]["longest_ns"], rel=0.01)
    from hdrh.histogram import HdrHistogram

    decoded = HdrHistogram.decode(calls["getppid"]["latency"]["hdr"])
    assert decoded.get_total_count() == 1000
    assert decoded.get_value_at_percentile(50) == calls["getppid"]["latency"]["p50_ns"] < 5_000_000


def test_the_fork_was_copied_for(profiled: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    said, document, _ = profiled
    assert row_of(document["processes"], said["child"])["copied_bytes"] > 64 << 20


def test_memory_by_kind(profiled: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    said, document, _ = profiled
    memory = document["isolation"]["memory"]
    assert document["isolation"]["violations"] == []
    (row,) = [row for row in memory["processes"] if said["pid"] in row["pids"]]
    assert row["private_bytes"] > 64 << 20 and row["page_table_bytes"] >= (64 << 20) // 4096 * 8


def test_the_report_opens_without_network(profiled: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    opened = open_report(profiled[2])
    assert opened.errors == ""
    assert opened.figures == opened.drawn >= 5
    assert "No isolation violation" in opened.text


def test_private_memory_agrees_with_the_hosts_smaps() -> None:
    from polynix.tools.inspection import ask

    program = "b = bytearray(48 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1\nprint(1, flush=True); input()"
    with polynix.Container() as container:
        process = container.spawn([PYTHON, "-c", program], stdin=polynix.PIPE, stdout=polynix.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"1\n"
        (space,) = ask(container.kernel_pid, "maps", pid=process.pid)
        ours = {(each["start"], each["end"]): each["resident"] for each in space["mappings"] if each["kind"] in ("anonymous", "copied")}
        rss = 0
        with open(f"/proc/{space['host_pid']}/smaps") as file:
            inside = False
            for line in file:
                if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                    start = int(match[1], 16)
                    inside = any(low <= start < high for low, high in ours)
                elif inside and line.startswith("Rss:"):
                    rss += int(line.split()[1]) << 10
        assert sum(ours.values()) == pytest.approx(rss, rel=0.05)
        process.kill()


def test_the_kernels_share_is_what_the_host_accounts() -> None:
    from polynix.kernelproc.host_accounting import process_cpu_ns
    from polynix.tools.inspection import Inspection

    with polynix.Container(features=["profile"]) as container:
        process = container.spawn([PYTHON, "-c", "import os\nwhile True: os.getppid()"])
        with Inspection(container.kernel_pid) as inspection:
            time.sleep(0.5)
            ours, host = inspection.request("profile")["kernel_cpu_ns"], process_cpu_ns(container.kernel_pid)
            time.sleep(1.5)
            ours, host = inspection.request("profile")["kernel_cpu_ns"] - ours, process_cpu_ns(container.kernel_pid) - host
        assert host > 1e8 and ours == pytest.approx(host, rel=0.05)
        process.kill()


def test_wakeups_and_switches_of_a_ping_pong(tmp_path: Path) -> None:
    """A byte to and fro, each after a sleep: each side is woken for each byte, and by its own timers."""
    program = """
import os, time
there, back = os.pipe(), os.pipe()
def pause(): time.sleep(0.002)  # meanwhile the other side blocks; an answer that is there when it is asked for wakes nobody
if os.fork() == 0:
    for _ in range(200): byte = os.read(there[0], 1); pause(); os.write(back[1], byte)
    os._exit(0)
for _ in range(200): pause(); os.write(there[1], b"x"); os.read(back[0], 1)
os.wait()
"""
    _, document = profile(tmp_path, "--", PYTHON, "-c", program)
    parent, child = row_of(document["processes"], 3), row_of(document["processes"], 4)
    for row in (parent, child):
        assert 200 <= row["wakeups"] <= 410 and row["syscalls"] >= 600
    edges = {(wait["pid"], wait["waker"]): wait["count"] for wait in document["waits"] if wait["object"].startswith("pipe:")}
    assert 100 <= edges[4, 3] <= 201 and 100 <= edges[3, 4] <= 201 and set(edges) == {(3, 4), (4, 3)}


def test_a_running_container_and_its_convoy(tmp_path: Path) -> None:
    program = """
import ctypes, threading, time
libc = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(64)
end = time.monotonic() + 30
def work():
    while time.monotonic() < end:
        libc.pthread_mutex_lock(mutex)
        time.sleep(0.005)
        libc.pthread_mutex_unlock(mutex)
for _ in range(4): threading.Thread(target=work).start()
print("futex", hex(ctypes.addressof(mutex)), flush=True)
"""
    with polynix.Container() as container:
        process = container.spawn([PYTHON, "-c", program], stdout=polynix.PIPE)
        assert process.stdout is not None
        address = process.stdout.readline().decode().split()[1]
        result, document = profile(tmp_path, "--container", str(container.kernel_pid), "--seconds", "2")
        assert result.returncode == 0 and document["complete"]
        convoy = next(row for row in document["convoys"] if row["futex"] == address)
        assert convoy["convoy"] and convoy["waiters"] == 4 and convoy["total_ns"] > 2e9  # three of four wait at any time
        with open(f"/proc/{container.kernel_pid}/status") as file:
            assert file.read()
        process.kill()


def test_containers_of_a_runner_are_chosen_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    runner = subprocess.Popen([*POLYNIX, "runner"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        command = [*POLYNIX, "start", "box", "--", "sh", "-c", "while :; do :; done"]
        while subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60).returncode and time.monotonic() < deadline:
            time.sleep(0.2)
        _, document = profile(tmp_path, "--container", "box", "--seconds", "1")
        assert any(row["comm"] == "sh" and row["user_ns"] > 1e8 for row in document["processes"])
        top = subprocess.run([*POLYNIX, "top", "box", "--json"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert [look["kernel"] for look in json.loads(top.stdout)] == [document["kernel_pid"]]
    finally:
        runner.terminate()
        runner.communicate(timeout=30)


def test_a_kernel_that_dies_leaves_what_was_seen(tmp_path: Path) -> None:
    target, page = tmp_path / "profile.json", tmp_path / "report.html"
    command = [*POLYNIX, "profile", "--interval", "0.1", "--json", str(target), "--report", str(page), "--", "sh", "-c", "echo $PPID; while :; do :; done"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(1.0)
        kernel = next(pid for pid in descendants(process.pid) if os.path.exists(f"/dev/shm/polynix-kernel-{pid}"))
        os.kill(kernel, signal.SIGKILL)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 125 and "Traceback" not in error
    document = json.loads(target.read_text())
    assert not document["complete"] and any(row["comm"] == "sh" and row["user_ns"] > 1e8 for row in document["processes"])
    assert "The kernel ended before the profile did" in page.read_text()


def descendants(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rsplit(b")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == pid:
                found += [int(name), *descendants(int(name))]
    return found


def test_a_long_run_is_bounded(tmp_path: Path) -> None:
    """More threads and waits than are kept one by one, with bounds made small by a module of the test's own."""
    module = tmp_path / "small.py"
    module.write_text(
        "from polynix.kernelproc.modules import profile\n"
        "from polynix.kernelproc.registry import modules\n"
        "@modules.module('small')\n"
        "def initialise(kernel, arguments):\n"
        "    profile.MAX_ENDED, profile.MAX_WAITS = 20, 10\n"
    )
    script = "i=0; while [ $i -lt 60 ]; do /bin/true; i=$((i+1)); done"
    result, document = profile(tmp_path, "--feature", str(module), "--", "sh", "-c", script)
    assert result.returncode == 0, result.stderr
    assert document["merged_threads"] >= 39 and len(document["processes"]) <= 25
    assert len(document["waits"]) <= 15
    calls = {row["name"]: row["calls"] for row in document["calls"]}
    assert calls["exit_group"] + calls.get("exit", 0) >= 61  # nobody is forgotten
    rest = row_of(document["processes"], 0)
    assert rest["comm"] == "…" and rest["user_ns"] > 0


CALM = pytest.mark.skipif(
    os.getloadavg()[0] > 2 * len(os.sched_getaffinity(0)), reason="strangers keep this machine so busy that a load of ours is not known any more"
)


def one_cpu() -> None:
    """Before exec: everything on one CPU, so that what computes together has a known price."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


BURNERS = """
import os, time
for n in range({count}):
    if os.fork() == 0:
        {how}
        os._exit(0)
for n in range({count}): os.wait()
"""


@CALM
def test_windows_measure_interference_of_a_known_load(tmp_path: Path) -> None:
    """Four that compute on one CPU keep a quarter of their speed each; more where strangers have most of that CPU anyway."""
    burners = BURNERS.format(count=4, how="end = time.monotonic() + 12\n        while time.monotonic() < end: sum(range(1000))")
    _, document = profile(tmp_path, "--windows", "0.4", "--", PYTHON, "-c", burners, preexec_fn=one_cpu)
    (measured,) = document["isolation"]["interference"]
    assert len(measured["labels"]) == 4  # their parent sleeps, and is not measured
    pairs = [measured["slow_down"][row][column] for row in range(4) for column in range(4) if row != column]
    assert all(pairs) and sum(pairs) / len(pairs) > 1.1
    assert 0 < sum(measured["together"]) / 4 < 0.75 and measured["fairness"] > 0.6


@CALM
def test_whole_runs_measure_interference_of_a_known_load(tmp_path: Path) -> None:
    """One that computes beside eight others on one CPU; the eight hardly notice the one."""
    burn = "import time\nwhile time.process_time() < 0.4: sum(range(1000))"
    crowd = BURNERS.format(count=8, how="[sum(range(1000)) for _ in range(20000)]")
    _, document = profile(tmp_path, "--against", f"{PYTHON} -c '{crowd}'", "--", PYTHON, "-c", burn, preexec_fn=one_cpu)
    (measured,) = document["isolation"]["interference"]
    assert measured["how"] == "whole runs"
    assert measured["slow_down"][0][1] > 1.5 and measured["slow_down"][1][0] < measured["slow_down"][0][1]


def test_killing_one_leaves_the_others_alone(tmp_path: Path) -> None:
    script = """
import os, time
pids = []
for n in range(3):
    pid = os.fork()
    if pid == 0:
        memory = bytearray(b"%d" % n * (4 << 20))
        end = time.monotonic() + 10
        while time.monotonic() < end:
            os.getppid()
        os._exit(0 if set(memory) == {48 + n} else 9)
    pids.append(pid)
print([os.waitpid(pid, 0)[1] for pid in pids])
"""
    result, document = profile(tmp_path, "--kill", "4", "--", PYTHON, "-c", script)
    assert result.stdout == "[9, 0, 0]\n"  # the kernel told its parent: killed by SIGKILL; the others have kept their memory
    assert row_of(document["processes"], 4)["user_ns"] > 0  # the host had forgotten it with its last thread
    fault = document["isolation"]["fault"]
    assert fault["victim"].startswith("4 ") and fault["changed"] == [] and fault["stalled"] == []
    if os.geteuid() == 0:
        assert fault["hashed_bytes"] > 8 << 20 and fault["unreadable"] == []


@pytest.mark.parametrize(
    "arguments",
    [[], ["--container", "1", "--", "true"], ["--container", "4194305"], ["--report", "/no/such/directory/x.html", "--", "true"], ["--", "/no/such/program"],
     ["--json", "/", "--", "true"], ["--seconds", "-1", "--", "true"], ["--memory", "lots", "--", "true"],
     ["--seconds", "nan", "--", "true"], ["--windows", "inf", "--", "true"], ["--against", "", "--", "true"], ["--against", "'", "--", "true"]],
)  # fmt: skip
def test_bad_requests_are_one_line_and_125(arguments: list[str]) -> None:
    result = subprocess.run([*POLYNIX, "profile", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (125, ""), result
    assert result.stderr.startswith("polynix: ") and result.stderr.count("\n") == 1, result.stderr


@pytest.mark.parametrize(("program", "reason"), [("sleep 2", "no process 4711 in the container"), ("true", "the program ended first")])
def test_a_process_to_kill_that_is_not_there(tmp_path: Path, program: str, reason: str) -> None:
    """The profile is written all the same."""
    path = tmp_path / "p.json"
    command = [*POLYNIX, "profile", "--kill", "4711", "--json", str(path), "--", *program.split()]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (125, f"polynix: process 4711 was not killed: {reason}\n")
    assert json.loads(path.read_text())["status"] == 0


def test_a_process_to_kill_that_is_not_in_the_watched_container() -> None:
    with polynix.Container() as container:
        command = [*POLYNIX, "profile", "--kill", "4711", "--container", str(container.kernel_pid)]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (125, "polynix: no process 4711 in the container\n")


def test_a_full_disk_takes_the_file_and_leaves_the_table(tmp_path: Path) -> None:
    command = [*POLYNIX, "profile", "--json", "/dev/full", "--report", str(tmp_path / "r.html"), "--", "true"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert result.returncode == 125
    assert (tmp_path / "r.html").read_text().endswith("</html>")  # it lies elsewhere
    lines = result.stderr.splitlines()
    assert lines[-1] == "polynix: cannot write /dev/full: No space left on device"
    assert lines[0].split()[0] == "PID" and lines[1].split()[-1] == "true"
