"""Every command of docs/tutorial is run, in order, and prints what the page says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import harness
import pytest
from harness import PATH

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial"
PAGES = sorted(path.name for path in TUTORIAL.glob("*.md") if path.name != "README.md")
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[tuple[str, str]]:
    """(command, output) pairs of a console block."""
    pairs: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            pairs.append((line[2:], ""))
        else:
            command, shown = pairs[-1]
            pairs[-1] = (command, shown + line + "\n")
    return pairs


def matches(output: str, shown: str) -> bool:
    """Whether ``output`` is what is ``shown``, where ``...`` stands for anything."""
    return re.fullmatch(".*".join(re.escape(part) for part in shown.split("...")), output, re.DOTALL) is not None


def environment(home: Path) -> dict[str, str]:
    """A newcomer's shell, with ``polynix`` and its ``python`` in the path; unbuffered, as at a terminal."""
    runtime = home / "runtime"
    runtime.mkdir(mode=0o700)
    path = f"{Path(sys.executable).parent}:{PATH}"
    return harness.environment(home, XDG_RUNTIME_DIR=str(runtime), TMPDIR=str(home), PATH=path, PYTHONUNBUFFERED="1")


@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    variables = environment(tmp_path)
    try:
        assert run_commands(TUTORIAL / page, work, variables)
    finally:
        end_runner(tmp_path / "runtime")


def run_commands(page: Path, work: Path, variables: dict[str, str]) -> int:
    """Write the page's files and run its commands in ``work``; returns how many."""
    ran = 0
    for language, title, text in BLOCK.findall(page.read_text()):
        if title:
            (work / title).write_text(text)
        if language != "console":
            continue
        for command, shown in commands(text):
            done = subprocess.run(
                ["bash", "-c", command], cwd=work, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, timeout=100,
            )  # fmt: skip
            assert matches(done.stdout, shown), f"$ {command}\n{done.stdout}\n--- the page says:\n{shown}"
            ran += 1
    return ran


def end_runner(runtime: Path) -> None:
    """The page's runner, if it started one; and see it clean up."""
    for process in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"XDG_RUNTIME_DIR={runtime}\0".encode() in process.read_bytes():
                os.kill(int(process.parent.name), signal.SIGTERM)
        except OSError:
            continue
    deadline = time.monotonic() + 20
    while list(runtime.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(runtime.iterdir())
