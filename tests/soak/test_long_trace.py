"""A trace of ten million system calls ends with a bounded, readable file."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from harness import POLYNIX

GUEST = """
#include <sys/syscall.h>
#include <unistd.h>
int main(void) { for (int i = 0; i < 10000000; i++) syscall(SYS_getppid); chdir("/usr/share"); return 0; }
"""
SLOTS = (64 << 20) // 128  # of the default buffer


@pytest.mark.soak
def test_ten_million_calls(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "guest.c").write_text(GUEST)
    guest = tmp_path / "guest"
    subprocess.run(["cc", "-O2", "-w", "-o", guest, tmp_path / "guest.c"], check=True)
    trace = tmp_path / "trace.txt"
    command = [*POLYNIX, "trace", "--format", "text", "-o", str(trace), "--", str(guest)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    message = re.search(r"(\d+) events, (\d+) older ones dropped", done.stderr)
    assert message is not None, done.stderr
    assert int(message[1]) == SLOTS
    assert 10_000_000 < int(message[1]) + int(message[2]) < 10_001_000
    lines = trace.read_text().splitlines()
    assert SLOTS - 10 < len(lines) <= SLOTS
    assert any('chdir("/usr/share") = 0' in line for line in lines[-5:])
