"""A profile of ten million system calls counts them all, and neither it nor the kernel grows with them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from harness import POLYNIX

CALLS, PROCESSES = 10_000_000, 4
GUEST = """
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
    for (int n = 0; n < PROCESSES; n++)
        if (fork() == 0) {
            for (int i = 0; i < CALLS / PROCESSES; i++) syscall(SYS_getppid);
            _exit(0);
        }
    while (wait(0) > 0) {}
    return 0;
}
"""


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_million_calls(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "guest.c").write_text(GUEST)
    guest, document, report = tmp_path / "guest", tmp_path / "profile.json", tmp_path / "profile.html"
    definitions = [f"-DCALLS={CALLS}", f"-DPROCESSES={PROCESSES}"]
    subprocess.run(["cc", "-O2", "-w", *definitions, "-o", guest, tmp_path / "guest.c"], check=True)
    command = [*POLYNIX, "profile", "--interval", "0.05", "--json", str(document), "--report", str(report), "--", str(guest)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr
    result = json.loads(document.read_text())
    assert result["complete"] and result["isolation"]["violations"] == []
    row = next(row for row in result["calls"] if row["name"] == "getppid")
    assert row["calls"] == CALLS == sum(count for _, count in row["buckets"])
    assert len(result["samples"]) <= 401
    assert document.stat().st_size < 2 << 20
    assert report.stat().st_size < 8 << 20  # most of it plotly
