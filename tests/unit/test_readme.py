"""The README's generated sections say what the tree says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_number_of_expected_failures_is_the_files() -> None:
    tables = tomllib.loads((ROOT / "tests/userspace/expectations.toml").read_text())
    printed = re.search(r"Expected failures among the userspace tests: \*\*(\d+)\*\*", (ROOT / "README.md").read_text())
    assert printed is not None
    assert int(printed[1]) == sum(len(cases) for cases in tables.values()), "run `make readme`"


def test_make_targets_that_the_readme_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"make ([a-z-]+)(?=[ `\n])", (ROOT / "README.md").read_text() + (ROOT / ".ci/run").read_text()))
    assert named - targets == set()
    assert {"demo", "test"} <= named
