"""``make soak``: ten containers of fifty processes for a minute, without a finding."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.mark.parametrize("faults", [[], ["--faults", "kill:1"]])
def test_ten_containers_of_fifty_processes_for_a_minute(tmp_path: Path, faults: list[str]) -> None:
    target = tmp_path / "stress.json"
    command = [sys.executable, "-m", "polynix.tools.start", "stress", "-c", "10", "-p", "50", "-d", "60s", "--json", str(target), *faults]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (result.returncode, json.loads(target.read_text())["findings"]) == (0, []), result.stdout + result.stderr
