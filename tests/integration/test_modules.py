"""Modules behind feature flags, run for real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def polynix(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "polynix.tools.start", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def test_syscall_stats_counts() -> None:
    done = polynix("--feature", "syscall_stats:print", "--", "/bin/sh", "-c", "echo hi")
    assert done.stdout == "hi\n"
    assert " write" in done.stderr


def test_unknown_feature() -> None:
    done = polynix("--feature", "nonsense", "--", "/bin/true")
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert "nonsense" in done.stderr


def test_a_python_file_adds_a_device_and_an_observer() -> None:
    done = polynix(
        "--feature", "docs/dice.py", "--", "/bin/sh", "-c", "head -c 600 /dev/dice | tr -d 1-6 | wc -c; head -c 8 /dev/dice | wc -c; ls -l /dev/dice"
    )
    assert done.stdout.split()[:2] == ["0", "8"]
    assert "240, 0" in done.stdout
    assert "starts /usr/bin/head" in done.stderr


def test_a_bad_module_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("this is no Python")
    (tmp_path / "empty.py").write_text("")
    for name in ("broken.py", "empty.py", "missing.py"):
        done = polynix("--feature", str(tmp_path / name), "--", "/bin/true")
        assert done.returncode == 125
        assert done.stderr.count("\n") == 1
        assert name in done.stderr
