"""Modules behind feature flags, run for real."""

from __future__ import annotations

import subprocess
import sys


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
