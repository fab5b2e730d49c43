"""Open a report in headless Chromium, without network, and say what became of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")


@dataclass
class Opened:
    """A page after its scripts have run."""

    figures: int  # that it wants to draw
    drawn: int  # plots that are really there
    errors: str  # script errors and blocked requests
    text: str


def open_report(path: Path) -> Opened:
    """Skips the test when there is no Chromium."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium: apt-get install chromium-headless-shell")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=30000",
            f"--user-data-dir={profile}", "--dump-dom", path.as_uri(),
        ]  # fmt: skip
        dom = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100).stdout
    errors = re.search(r'<html[^>]*data-errors="([^"]*)"', dom)
    drawn = re.search(r'<html[^>]*data-drawn="(\d+)"', dom)
    assert errors is not None, dom[:500]
    figures = re.findall(r'<div class="figure[^"]*" id="figure-\d+"', dom)
    plots = re.findall(r'id="figure-\d+".*?class="main-svg"', dom, re.DOTALL)
    assert drawn is None or int(drawn[1]) == len(figures)
    return Opened(len(figures), len(plots) if drawn is not None else 0, errors[1], dom)
