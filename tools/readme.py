"""Fill the generated sections of README.md in: the table of the last ``make bench``, and the number of expected failures.

A section stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``. ``--check`` changes nothing and fails when the count of
expected failures is stale.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

from polynix.tools.bench import markdown_table

ROOT = Path(__file__).resolve().parent.parent


def expected_failures(root: Path = ROOT) -> int:
    """How many cases stand in the userspace tests' expectations file."""
    tables = tomllib.loads((root / "tests/userspace/expectations.toml").read_text())
    return sum(len(cases) for cases in tables.values())


def fill(text: str, name: str, content: str) -> str:
    """``text`` with the generated section replaced. Errors: ValueError when README has no such section."""
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.S)
    if not pattern.search(text):
        raise ValueError(f"README.md has no section {name}")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def main(arguments: list[str]) -> int:
    path = ROOT / "README.md"
    old = path.read_text()
    new = fill(old, "expected-failures", f"Expected failures among the userspace tests: **{expected_failures()}**.")
    if "--check" in arguments:
        if new != old:
            print("README.md is stale: run `make readme`", file=sys.stderr)
        return int(new != old)
    result = ROOT / "bench-results/latest.json"
    if result.exists():
        new = fill(new, "bench", markdown_table(json.loads(result.read_text())))
    path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
