"""What all tests share: the marker of long runs, and the count of expected failures at the end."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: long runs, only by `make soak`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("POLYNIX_SOAK"):
        return
    skip = pytest.mark.skip(reason="a long run: make soak")
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    expected = [report for report in terminalreporter.stats.get("xfailed", []) if "userspace" in report.nodeid]
    if expected or terminalreporter.stats.get("passed"):
        terminalreporter.write_line(f"expected failures (tests/userspace/expectations.toml): {len(expected)}")
