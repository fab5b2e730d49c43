"""Modules behind feature flags, run for real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def polynix(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "polynix.tools.cli", "run", *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def test_inject_fails_every_nth_call_of_one_program() -> None:
    done = polynix("--feature", "inject:write=ENOSPC@2/cat", "--", "/bin/sh", "-c", "for i in 1 2 3; do echo $i | cat; done")
    assert done.stdout == "1\n3\n"  # cat's complaint about the second is the third write
    assert "No space left on device" in done.stderr


def test_inject_answers_without_doing() -> None:
    done = polynix("--feature", "inject:unlinkat=EPERM,unlink=EPERM", "--", "/bin/sh", "-c", "touch /tmp/kept; rm /tmp/kept; ls /tmp/kept")
    assert done.stdout == "/tmp/kept\n"
    assert "Operation not permitted" in done.stderr


def test_syscall_stats_counts() -> None:
    done = polynix("--feature", "syscall_stats:print", "--", "/bin/sh", "-c", "echo hi")
    assert done.stdout == "hi\n"
    assert " write" in done.stderr


def test_unknown_feature() -> None:
    done = polynix("--feature", "nonsense", "--", "/bin/true")
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert "nonsense" in done.stderr


def test_bad_rule() -> None:
    assert polynix("--feature", "inject:write", "--", "/bin/true").returncode == 125


def test_a_python_file_adds_a_device_and_an_observer() -> None:
    done = polynix(
        "--feature", "docs/dice.py", "--", "/bin/sh", "-c", "head -c 600 /dev/dice | tr -d 1-6 | wc -c; head -c 8 /dev/dice | wc -c; ls -l /dev/dice"
    )
    assert done.stdout.split()[:2] == ["0", "8"]
    assert "242, 0" in done.stdout
    assert "starts another program" in done.stderr


def test_a_bad_module_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("this is no Python")
    (tmp_path / "empty.py").write_text("")
    for name in ("broken.py", "empty.py", "missing.py"):
        done = polynix("--feature", str(tmp_path / name), "--", "/bin/true")
        assert done.returncode == 125
        assert done.stderr.count("\n") == 1
        assert name in done.stderr
