"""``pytest --polynix``: the example finds its bug, failures tell what happened, and without the option there is nothing."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

ROOT = Path(__file__).resolve().parents[2]


def run_pytest(kept: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """pytest in a process of its own, as a user has it; ``kept`` is for the directories that it keeps of its last runs."""
    installed = any(point.value == "polynix.tools.pytest_plugin" for point in importlib.metadata.entry_points(group="pytest11"))
    plugin = [] if installed else ["-p", "polynix.tools.pytest_plugin"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *plugin, *map(str, arguments)]
    environment["PYTEST_DEBUG_TEMPROOT"] = str(kept)
    return subprocess.run(command, capture_output=True, text=True, timeout=230, stdin=subprocess.DEVNULL, cwd=ROOT, env=environment)


@pytest.mark.timeout(240)
def test_the_example_finds_the_bug_in_one_program_and_none_in_the_other(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "--polynix", "examples/fault_injection", "-q", "-rf")
    failed = re.findall(r"^FAILED \S+\[(\S+)\]", done.stdout, re.MULTILINE)
    assert "9 failed, 27 passed" in done.stdout, done.stdout[-3000:]
    assert all(name.startswith("keep-") for name in failed)
    assert {"keep-fail-write-ENOSPC", "keep-shorten-write-1000", "keep-fail-read-EINTR"} <= set(failed)
    assert re.search(r"^\[pid +\d+\] write\(3, .* = -1 ENOSPC|^write\(3, .* = -1 ENOSPC", done.stdout, re.MULTILINE)


def test_a_failure_shows_the_last_calls_and_the_processes_of_each_container(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import subprocess\n"
        "def test_two(container, container_factory):\n"
        "    other = container_factory(hostname='other')\n"
        "    other.run(['uname', '-n'], stdout=subprocess.DEVNULL)\n"
        "    container.spawn(['sleep', '1000'])\n"
        "    assert False\n"
        "def test_dead(container):\n"
        "    container.spawn(['sleep', '1000'])\n"
        "    container.close()\n"
        "    assert False\n"
    )
    done = run_pytest(tmp_path, "--polynix", "--polynix-calls=7", tmp_path / "test_it.py")
    assert "2 failed" in done.stdout
    sections = re.split(r"^-+ (polynix.*?) -+$", done.stdout, flags=re.MULTILINE)
    texts: dict[str, str] = {}
    for name, text in zip(sections[1::2], sections[2::2], strict=True):
        texts.setdefault(name, text)
    assert re.search(r"^  \d+ sleep \(", texts["polynix: processes"], re.MULTILINE)
    calls = [line for line in texts["polynix container 2: last system calls"].splitlines() if re.search(r"\) += |^\+\+\+", line)]
    assert any("exit_group(0)" in line for line in calls)
    assert len(calls) <= 7
    assert "does not run" in done.stdout
    trace = re.search(r"^(\S+\.pftrace) ", texts["polynix: trace"], re.MULTILINE)
    assert trace is not None
    decoded = Trace()
    decoded.ParseFromString(Path(trace[1]).read_bytes())
    assert any(packet.track_descriptor.thread.thread_name == "sleep" for packet in decoded.packet)


def test_without_the_option_there_are_no_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(container): pass\n")
    assert "fixture 'container' not found" in run_pytest(tmp_path, tmp_path / "test_it.py").stdout


def test_the_configuration_switches_it_on_and_the_marker_gives_options(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\npolynix = true\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "from polynix.scripting import fail\n"
        "@pytest.mark.polynix(hostname='here')\n"
        "@pytest.mark.polynix_faults(None, [fail('uname', 'EIO'), fail('rmdir', 'EIO')])\n"
        "def test_it(container, polynix_schedule):\n"
        "    done = container.run(['uname', '-n'], capture_output=True, text=True)\n"
        "    assert (done.stdout == 'here\\n') == (not polynix_schedule)\n"
    )
    done = run_pytest(tmp_path, "-v", "--rootdir", tmp_path, "-c", tmp_path / "pytest.ini", tmp_path / "test_it.py")
    assert "2 passed" in done.stdout, done.stdout
    assert "test_it[fail-uname-EIO,fail-rmdir-EIO]" in done.stdout
