"""``polynix trace --flame``: stacks of a guest whose work is known, and of the kernel that serves it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import POLYNIX

GUEST = r"""
#include <sys/syscall.h>
#include <unistd.h>
__attribute__((noinline)) static int inner(int n) { volatile int s = 0; for (int i = 0; i < n; i++) s += i; return s; }
__attribute__((noinline)) static int more(int n) { return inner(n) + 1; }
__attribute__((noinline)) static int less(int n) { return inner(n) + 1; }
int main(void)
{
    int s = 0;
    for (int i = 0; i < 300; i++) {
        s += more(4000000) + less(400000);
        for (int j = 0; j < 100; j++) syscall(SYS_getppid);
    }
    return s == 3;
}
"""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("flame")
    directory.chmod(0o755)
    (directory / "guest.c").write_text(GUEST)
    program = directory / "guest"
    flags = ["-O1", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"]
    subprocess.run(["cc", *flags, "-o", program, directory / "guest.c"], check=True)
    return program


def sampled(directory: Path, name: str, *command: str) -> Path:
    flame = directory / name
    done = subprocess.run(
        [*POLYNIX, "trace", "-o", str(directory / "t"), "--filter", "exit_group", "--flame", str(flame), "--", *command],
        capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return flame


def test_stacks_by_frame_pointers_have_the_shares_of_the_work(guest: Path, tmp_path: Path) -> None:
    counts: dict[str, int] = {}
    for line in sampled(tmp_path, "folded", str(guest)).read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        counts[stack] = int(count)
    through = {name: sum(count for stack, count in counts.items() if f";main (guest);{name} (guest);inner (guest)" in stack) for name in ("more", "less")}
    assert through["more"] > 3 * through["less"]  # ten times the work
    assert all(stack.startswith(("programs;guest;", "kernel;")) for stack in counts)
    served = [stack for stack in counts if stack.startswith("kernel;guest;getppid;Engine.turn (engine.py:")]
    assert any("SyscallLoop.dispatch (syscall_loop.py:" in stack for stack in served)


def test_speedscope_files_are_well_formed(guest: Path, tmp_path: Path) -> None:
    document = json.loads(sampled(tmp_path, "flame.json", str(guest)).read_text())
    names = [frame["name"] for frame in document["shared"]["frames"]]
    assert len(set(names)) == len(names)
    assert [profile["name"] for profile in document["profiles"]] == ["kernel (Python)", "programs"]
    for profile in document["profiles"]:
        assert len(profile["samples"]) == len(profile["weights"]) > 0
        assert profile["endValue"] == sum(profile["weights"])
        assert all(0 <= index < len(names) for row in profile["samples"] for index in row)
    assert any(re.fullmatch(r"inner \(guest\)", name) for name in names)


def test_kicks_are_not_seen_by_guests(tmp_path: Path) -> None:
    """Blocking calls are not interrupted, and threads, forks and their memory are what they were."""
    program = (
        "import os, threading, time\n"
        "reader, writer = os.pipe()\n"
        "def late():\n"
        "    time.sleep(0.3); os.write(writer, b'x')\n"
        "threading.Thread(target=late).start()\n"
        "assert os.read(reader, 1) == b'x'\n"
        "def spin(n):\n"
        "    return sum(i * i for i in range(n))\n"
        "if os.fork() == 0:\n"
        "    os._exit(spin(1000000) != 333332833333500000)\n"
        "threads = [threading.Thread(target=spin, args=(300000,)) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "assert os.wait()[1] == 0\n"
    )
    assert "programs;python" in sampled(tmp_path, "folded", sys.executable, "-c", program).read_text()
