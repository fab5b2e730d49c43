"""``polynix trace --container``: what a running container does, from now on and no longer than asked."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import POLYNIX
from test_trace import Decoded

import polynix

LOOP = "while :; do cat /etc/hostname > /dev/null; sleep 0.02; done"


@pytest.fixture
def container() -> Iterator[polynix.Container]:
    with polynix.Container() as container:
        container.spawn(["/bin/sh", "-c", LOOP])
        yield container


def attach(container: polynix.Container, *options: str) -> subprocess.Popen[str]:
    command = [*POLYNIX, "trace", "--container", str(container.kernel_pid), *options]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str], status: int = 0) -> str:
    """What it said."""
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    return errors


def test_for_some_seconds(container: polynix.Container, tmp_path: Path) -> None:
    for name in ("first", "second"):  # the first left nothing behind
        said = finished(attach(container, "--seconds", "1", "-o", str(tmp_path / name)))
        trace = Decoded(tmp_path / name)
        assert said == f"polynix: {said.split()[1]} events in {tmp_path / name}\n"
        assert {"sh", "cat", "sleep"} <= set(trace.threads.values())
        assert '"/etc/hostname"' in [each.get("path") for each in trace.named("openat")]
        times = [each["time"] for each in trace.slices]
        assert max(times) - min(times) > 0.5e9


def test_until_interrupted_and_filtered(container: polynix.Container, tmp_path: Path) -> None:
    process = attach(container, "--filter", "openat", "--format", "text", "-o", str(tmp_path / "t"))
    assert process.stderr is not None
    assert process.stderr.readline() == f"polynix: tracing {container.kernel_pid} until Ctrl-C\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    finished(process)
    calls = [line for line in (tmp_path / "t").read_text().splitlines() if ") = " in line]
    assert calls and all(" openat(" in line for line in calls)


def test_a_kernel_that_dies_leaves_its_trace(container: polynix.Container, tmp_path: Path) -> None:
    process = attach(container, "-o", str(tmp_path / "t"))
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(0.5)
    os.kill(container.kernel_pid, signal.SIGKILL)
    finished(process)
    assert len(Decoded(tmp_path / "t").slices) > 10


def test_one_at_a_time_and_a_killed_one_is_gone(container: polynix.Container, tmp_path: Path) -> None:
    process = attach(container, "-o", str(tmp_path / "t"))
    assert process.stderr is not None
    process.stderr.readline()
    assert finished(attach(container, "--seconds", "1", "-o", str(tmp_path / "u")), 125) == "polynix: the container is traced already\n"
    process.kill()
    process.wait()
    (tmp_path / f"t.{process.pid}").unlink()
    finished(attach(container, "--seconds", "0.5", "-o", str(tmp_path / "u")))
    assert [path.name for path in tmp_path.iterdir()] == ["u"]


def test_hooks_come_and_go_while_it_is_traced(container: polynix.Container, tmp_path: Path) -> None:
    def works() -> bool:
        return container.run(["/bin/mkdir", f"/tmp/{time.monotonic_ns()}"], stderr=polynix.PIPE).returncode == 0

    before = container.fail("mkdir", "EIO")
    process = attach(container, "--filter", "mkdir", "-o", str(tmp_path / "t"))
    assert process.stderr is not None
    process.stderr.readline()
    assert not works()
    between = container.fail("mkdir", "ENOSPC")
    before.remove()
    assert not works()
    process.send_signal(signal.SIGINT)
    finished(process)
    assert not works()
    between.remove()
    assert works()
    assert Decoded(tmp_path / "t").named("mkdir")[0]["result"] == "-1 EIO"  # it sees what the earlier hook says


@pytest.mark.parametrize("arguments", [["--container", "x", "--", "true"], ["--seconds", "1", "--", "true"], ["--container", "x", "--flame", "f"], []])
def test_what_does_not_go_together(arguments: list[str]) -> None:
    done = subprocess.run([*POLYNIX, "trace", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
