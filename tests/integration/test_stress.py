"""``polynix stress``: it finds what is wrong and nothing else, comes back to the baseline, repeats by seed, merges over a cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pexpect
import pytest
from headless import open_report
from polynix.tools.stress.board import BUCKETS, SLOT, Board, bucket_ns, percentile
from polynix.tools.stress.plan import KINDS
from polynix.tools.stress.program import stressor

POLYNIX = [sys.executable, "-m", "polynix.tools.start"]
ALL = ",".join(KINDS[:-1])


@pytest.fixture(scope="module", autouse=True)
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The stress guest, in a cache of the tests' own."""
    cache = tmp_path_factory.mktemp("cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(cache)
    yield stressor()
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


def stress(tmp_path: Path, *arguments: str, timeout: float = 110) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    target = tmp_path / "stress.json"
    command = [*POLYNIX, "stress", "--json", str(target), *arguments]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
    assert target.exists(), result.stderr
    return result, json.loads(target.read_text())


def run_native(program: Path, directory: Path, mix: str, workers: int, seconds: float, kills: float = 0, command: tuple[str, ...] = ()) -> Any:
    """The same guest on the host's Linux; returns its slots."""
    board = Board(str(directory / f"board-{time.monotonic_ns()}"), workers)
    board.begin(time.monotonic_ns())
    process = subprocess.Popen([program, board.path, mix, str(workers), "3", "0", "0", "1", str(kills), *command], stdout=subprocess.PIPE)
    try:
        time.sleep(seconds)
        board.stop()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    return board.slots


def test_linux_passes(program: Path, tmp_path: Path) -> None:
    """What the stressors demand, Linux keeps: a finding under polynix is polynix's."""
    slots = run_native(program, tmp_path, ALL, 14, 4.0, kills=3)
    assert [bytes(text) for text in slots["finding"] if text] == []
    assert (slots["state"] == 2).all() and (slots["operations"] > 0).all()
    assert int(slots["histogram"].sum()) == int(slots["operations"].sum())


def test_killed_workers_leave_no_files(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tmp_path / "files"
    files.mkdir()
    monkeypatch.setenv("TMPDIR", str(files))
    slots = run_native(program, tmp_path, "fs", 4, 2.0, kills=100)
    assert slots["kills"].sum() >= 20
    assert list(files.iterdir()) == []


def test_a_seed_repeats_what_workers_do(program: Path, tmp_path: Path) -> None:
    first, again = (run_native(program, tmp_path, "mem,fs", 4, 0.3) for _ in range(2))
    assert first["seed"].tolist() == again["seed"].tolist() and len(set(first["seed"].tolist())) == 4


def test_the_live_view_on_a_terminal(tmp_path: Path) -> None:
    arguments = ["stress", "--processes", "4", "--duration", "1h", "--json", str(tmp_path / "stress.json")]
    terminal = pexpect.spawn(POLYNIX[0], [*POLYNIX[1:], *arguments], dimensions=(30, 200), timeout=60, encoding="utf-8")
    try:
        for _ in range(2):
            words = ["of", "3600", "s", "4", "workers", "N", "operations/s", "p50", "N", "p99", "N", "p99.9", "N", "µs", "errors", "0", "findings", "0"]
            terminal.expect(r"\s+".join(r"[\d,]+" if word == "N" else word for word in words))
        terminal.sendintr()
        terminal.expect("passed")
        terminal.expect(pexpect.EOF)
    finally:
        terminal.close(force=True)
    assert terminal.exitstatus == 0 and json.loads((tmp_path / "stress.json").read_text())["interrupted"]


def test_every_stressor_passes_and_the_container_is_as_before(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result, document = stress(tmp_path, "--containers", "2", "--processes", "14", "--duration", "4s", "--mix", ALL, "--seed", "3", "--report", str(page))
    assert (result.returncode, document["findings"]) == (0, []), result.stdout
    assert result.stdout.splitlines()[-1] == "passed"
    assert set(document["kinds"]) == set(KINDS[:-1])
    for kind in document["kinds"].values():
        assert kind["workers"] == 4 and kind["operations"] == sum(kind["histogram"]) > 0
        assert kind["p50_ns"] <= kind["p99_ns"] <= kind["p99_9_ns"] and kind["longest_ns"] > 0
    for baseline in document["baselines"]:
        assert baseline["before"]["processes"] == baseline["after"]["processes"] == 0
    samples = document["machines"][0]["samples"]
    assert samples and samples[-1]["operations"] <= document["operations"]
    opened = open_report(page)
    assert opened.errors == "" and opened.figures == opened.drawn >= 4


def test_killed_workers_disturb_nobody(tmp_path: Path) -> None:
    _, document = stress(tmp_path, "--processes", "8", "--duration", "4s", "--mix", "pipe,mem,fork,signal", "--faults", "kill:4")
    assert document["findings"] == []
    assert sum(kind["kills"] for kind in document["kinds"].values()) >= 5
    assert sum(kind["restarts"] for kind in document["kinds"].values()) >= 4


def test_injected_faults_are_borne_and_counted(tmp_path: Path) -> None:
    """Full disks, short transfers and slow writes are what programs must expect: errors where they say so, and no finding."""
    faults = ["fail:openat:error=ENOSPC,path=/tmp/*,every=5", "shorten:read+write:count=100,every=3", "delay:write:seconds=0.01,every=50"]
    _, document = stress(tmp_path, "--processes", "6", "--duration", "4s", "--mix", "pipe,socket,fs", *(f"--faults={fault}" for fault in faults))
    assert document["findings"] == []
    assert document["kinds"]["fs"]["errors"] > 0 and document["kinds"]["pipe"]["errors"] == 0
    assert all(kind["operations"] > 0 for kind in document["kinds"].values())


def test_a_lie_of_the_kernel_is_found(tmp_path: Path) -> None:
    """A kernel that changes one byte in a thousand writes to pipes, made so by a module: the finding names the worker, and the status is 1."""
    module = tmp_path / "liar.py"
    module.write_text(
        "from polynix.kernelproc.registry import modules\n"
        "from polynix.kernelproc.vfs import pipe\n"
        "count = 0\n"
        "honest = pipe.Pipe.read\n"
        "def read(self, out):\n"
        "    global count\n"
        "    count += 1\n"
        "    if count % 50 == 0 and self.buffers and len(self.buffers[0].data) > 64:\n"
        "        data = bytearray(self.buffers[0].data); data[40] ^= 1; self.buffers[0].data = data\n"
        "    return honest(self, out)\n"
        "@modules.module('liar')\n"
        "def initialise(kernel, arguments):\n"
        "    pipe.Pipe.read = read\n"
    )
    result, document = stress(tmp_path, "--processes", "3", "--duration", "3s", "--mix", "pipe", "--feature", str(module))
    assert result.returncode == 1
    texts = [finding["text"] for finding in document["findings"] if finding["kind"] == "pipe"]
    assert texts and all(re.search(r"came back changed|broke off", text) for text in texts)
    assert all(finding["seed"] for finding in document["findings"] if finding["worker"] is not None)
    assert f"--seed {document['plan']['seed']}" in result.stdout


def test_a_leak_is_found(tmp_path: Path) -> None:
    """A command that leaves a process behind: the container is not at its baseline afterwards."""
    leak = "(exec setsid sleep 1000 > /dev/null 2>&1) & exit 0"
    result, document = stress(tmp_path, "--processes", "1", "--duration", "1s", "--rate", "1", "--", "sh", "-c", leak)
    assert result.returncode == 1
    assert any(finding["kind"] == "baseline" and finding["text"].startswith("processes: 0 before") for finding in document["findings"])


@pytest.mark.parametrize(
    ("leak", "text"),
    [
        ("echo x > /dev/shm/left-$$", "shared memory files: "),
        ("/usr/bin/python3 -c 'import ctypes; ctypes.CDLL(None).shmget(0, 4096, 0o1600)'", "shared memory segments: 0 before, "),
    ],
)
def test_left_shared_memory_is_found(tmp_path: Path, leak: str, text: str) -> None:
    result, document = stress(tmp_path, "--processes", "1", "--duration", "1s", "--rate", "1", "--", "sh", "-c", leak)
    assert result.returncode == 1
    assert [finding["text"].startswith(text) for finding in document["findings"]] == [True], document["findings"]


def test_commands_are_judged_by_their_exit_status(tmp_path: Path) -> None:
    result, document = stress(tmp_path, "--processes", "2", "--duration", "1s", "--", "true")
    assert result.returncode == 0 and document["kinds"]["command"]["operations"] > 2
    result, document = stress(tmp_path, "--processes", "2", "--duration", "1s", "--", "sh", "-c", "exit 7")
    assert result.returncode == 1 and "sh ended with exit status 7" in document["findings"][0]["text"]


def test_a_rate_is_kept(tmp_path: Path) -> None:
    _, document = stress(tmp_path, "--processes", "4", "--duration", "4s", "--mix", "signal", "--rate", "5")
    assert 40 <= document["operations"] <= 100  # 4 workers, 5 a second, 4 s and the start: 80, less on a busy machine


def test_latencies_agree_with_the_guests_own_clock(tmp_path: Path) -> None:
    """Commands that sleep for 300 ms: the histogram says so, to its eighth of an octave and the price of a start."""
    _, document = stress(tmp_path, "--processes", "1", "--duration", "3s", "--", "sleep", "0.3")
    assert 300e6 <= document["kinds"]["command"]["p50_ns"] < 600e6
    assert document["kinds"]["command"]["mean_ns"] == pytest.approx(300e6, rel=0.5)


def test_an_interrupt_ends_the_run_in_order(tmp_path: Path) -> None:
    target = tmp_path / "stress.json"
    command = [*POLYNIX, "stress", "--processes", "6", "--duration", "1h", "--json", str(target)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not children_named("stressor") and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    document = json.loads(target.read_text())
    assert document["interrupted"] and document["findings"] == [] and process.returncode == 0, (output, error)
    assert document["operations"] > 0 and "Traceback" not in error


def children_named(comm: str) -> bool:
    """Whether the tool's containers run a guest of this name by now."""
    result = subprocess.run([*POLYNIX, "tree", "--json"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return any(row["comm"] == comm for row in json.loads(result.stdout or "[]"))


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    stress(tmp_path, "--processes", "2", "--duration", "500ms")
    assert os.listdir(directory) == []


@pytest.mark.timeout(200)
def test_a_cluster_of_several_workers_gives_one_result(tmp_path: Path) -> None:
    distributed, dask = pytest.importorskip("distributed"), pytest.importorskip("dask")
    options = dict(processes=True, dashboard_address=None, worker_dashboard_address=None)
    with dask.config.set(temporary_directory=tmp_path), distributed.LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster:
        page = tmp_path / "report.html"
        arguments = ["--containers", "3", "--processes", "7", "--duration", "3s", "--mix", ALL, "--cluster", cluster.scheduler_address]
        result, document = stress(tmp_path, *arguments, "--report", str(page), timeout=150)
    assert (result.returncode, document["findings"]) == (0, []), result.stdout
    assert sorted(machine["containers"] for machine in document["machines"]) == [1, 2]
    assert sorted(baseline["container"] for baseline in document["baselines"]) == [0, 1, 2]
    assert sum(kind["workers"] for kind in document["kinds"].values()) == 21
    assert document["operations"] == sum(sum(kind["histogram"]) for kind in document["kinds"].values())
    opened = open_report(page)
    assert opened.errors == "" and opened.figures == opened.drawn >= 7


@pytest.mark.parametrize(
    "arguments",
    [["--duration", "soon"], ["--duration", "0s"], ["--mix", "juggling"], ["--mix", "pipe:0"], ["--faults", "flood"], ["--faults", "kill:-1"],
     ["--faults", "fail:write"],
     ["--processes", "0"], ["--report", "/no/such/directory/x.html"], ["--cluster", "tcp://127.0.0.1:9"], ["--mix", "pipe", "--", "true"],
     ["--rootfs", "/no/such"], ["--rate", "nan"]],
)  # fmt: skip
def test_bad_requests_are_one_line_and_125(arguments: list[str]) -> None:
    result = subprocess.run([*POLYNIX, "stress", "--quiet", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (125, ""), result
    assert result.stderr.startswith("polynix: ") and result.stderr.count("\n") == 1, result.stderr


@pytest.mark.parametrize("kind", ["--json", "--report"])
def test_a_full_disk_takes_the_file_and_leaves_the_findings(kind: str) -> None:
    command = [*POLYNIX, "stress", "-p", "1", "-d", "300ms", kind, "/dev/full", "--", "false"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert result.returncode == 125
    assert result.stderr.endswith("\npolynix: cannot write /dev/full: No space left on device\n")
    assert "finding: container 0 worker 0 command: false ended with exit status 1" in result.stdout


def test_no_compiler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    result = subprocess.run([*POLYNIX, "stress", "--quiet"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert result.returncode == 125 and "C compiler" in result.stderr and result.stderr.count("\n") == 1


def test_the_board_has_one_layout(program: Path, tmp_path: Path) -> None:
    source = tmp_path / "layout.c"
    header = Path(sys.modules[Board.__module__].__file__ or "").parent / "board.h"
    source.write_text(
        f'#include "{header}"\n#include <stdio.h>\n#include <stddef.h>\nint main(void) {{ printf("%zu %zu %zu %zu %d\\n", sizeof(struct slot), '
        "offsetof(struct slot, histogram), offsetof(struct slot, finding), sizeof(struct board_header), BUCKETS); }\n"
    )
    binary = tmp_path / "layout"
    subprocess.run([shutil.which("gcc") or "cc", "-o", binary, source], check=True)
    words = list(map(int, subprocess.run([binary], capture_output=True, check=True).stdout.split()))
    assert SLOT.fields is not None
    assert words == [SLOT.itemsize, SLOT.fields["histogram"][1], SLOT.fields["finding"][1], 256, BUCKETS]


def bucket_of(nanoseconds: int) -> int:
    """The bucket of a latency, as the guests compute it."""
    if nanoseconds < 8:
        return nanoseconds
    octave = nanoseconds.bit_length() - 4
    return min(((octave + 1) << 3) + ((nanoseconds >> octave) & 7), BUCKETS - 1)


def test_buckets_are_eighths_of_an_octave() -> None:
    for value in [0, 1, 7, 8, 9, 15, 16, 17, 1000, 123_456, 10**9, 10**12]:
        index = bucket_of(value)
        assert bucket_ns(index) <= value < bucket_ns(index + 1)
        assert bucket_ns(index + 1) - bucket_ns(index) <= max(value // 8, 1) + 1
    histogram = numpy.zeros(BUCKETS, int)
    histogram[bucket_of(1000)] = 99
    histogram[bucket_of(1_000_000)] = 1
    assert percentile(histogram, 0.5) < 1200 and percentile(histogram, 0.999) > 900_000
