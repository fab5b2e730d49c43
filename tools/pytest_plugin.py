"""The pytest plugin: ``pytest --polynix`` (or ``polynix = true`` in the configuration) gives tests containers to run programs in, and faults to run them with.

* ``container``: a started container, fresh for each test; ``@pytest.mark.polynix(tmpfs=["/data:size=64K"])`` gives its options.
* ``container_factory(**options)``: as many as a test needs; all end with it.
* ``@pytest.mark.polynix_faults(fail("write", ENOSPC), [rule, rule], None, …)`` runs the test once for each schedule, a rule of :mod:`polynix.scripting`,
  several, or none, which is in force in its ``container``. ``scripting.each_call(rule, 10)`` makes ten schedules of one rule: the first call, the second, …

When a test fails, its report shows for each of its containers the last system calls, the tree of processes, and where its trace lies, a file for Perfetto.
Nothing is imported, and no fixture is defined, unless the plugin is switched on.
"""

from __future__ import annotations

import pytest

LAST_CALLS = 200
TRACE_MEGABYTES = 8


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("polynix", "programs in containers of polynix")
    group.addoption("--polynix", action="store_true", default=False, help="define the fixtures container and container_factory")
    group.addoption(
        "--polynix-calls", type=int, default=LAST_CALLS, metavar="N",
        help=f"show the last N system calls of a failing test's containers; 0 does not trace them (default {LAST_CALLS})",
    )  # fmt: skip
    group.addoption(
        "--polynix-trace", type=int, default=TRACE_MEGABYTES, metavar="MIB",
        help=f"keep so much of each container's trace for a failing test; 0 records none (default {TRACE_MEGABYTES})",
    )  # fmt: skip
    parser.addini("polynix", "define the fixtures container and container_factory", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "polynix(**options): options of the test's container, as of polynix.Container")
    config.addinivalue_line("markers", "polynix_faults(*schedules): run the test under each schedule of polynix.scripting's rules")
    if config.getoption("--polynix") or config.getini("polynix"):
        from polynix.tools import pytest_fixtures

        config.pluginmanager.register(pytest_fixtures, "polynix-fixtures")
