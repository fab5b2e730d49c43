"""What the pytest plugin defines when it is switched on; see :mod:`polynix.tools.pytest_plugin`."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from polynix.kernelproc.hook_rule import HookRule
from polynix.kernelproc.trace_layout import create_ring
from polynix.runner.container import Container
from polynix.runner.errors import ContainerError


@dataclass
class Made:
    """A container that a test has, and the ring that its trace goes into (-1: none)."""

    container: Container
    ring: int


Schedule = HookRule | Sequence[HookRule] | None
CONTAINERS = pytest.StashKey[list[Made]]()
NO_CONTAINERS: list[Made] = []


@pytest.fixture
def container_factory(request: pytest.FixtureRequest) -> Iterator[Callable[..., Container]]:
    """Makes started containers; parameters are those of ``polynix.Container``."""
    made: list[Made] = request.node.stash.setdefault(CONTAINERS, [])
    keep = request.config.getoption("--polynix-calls")
    megabytes = request.config.getoption("--polynix-trace")

    def make(**options: Any) -> Container:
        if keep and not options.get("strace"):
            options = {**options, "strace": "all", "strace_keep": keep}
        ring = create_ring(megabytes) if megabytes else -1
        if ring >= 0:
            options = {**options, "features": [*options.get("features", ()), f"trace:/proc/{os.getpid()}/fd/{ring}"]}
        container = Container(**options)
        made.append(Made(container, ring))
        return container.start()

    yield make
    for each in made:
        each.container.close()
        if each.ring >= 0:
            os.close(each.ring)
    made.clear()


@pytest.fixture
def polynix_schedule(request: pytest.FixtureRequest) -> list[HookRule]:
    """The rules of the schedule that the test runs under."""
    return rules_of(getattr(request, "param", None))


@pytest.fixture
def container(request: pytest.FixtureRequest, container_factory: Callable[..., Container], polynix_schedule: list[HookRule]) -> Container:
    """A started container with the options of the ``polynix`` marker and the rules of the test's schedule."""
    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("polynix"))):
        options.update(marker.kwargs)
    return container_factory(**{**options, "hooks": [*options.get("hooks", ()), *polynix_schedule]})


def rules_of(schedule: Schedule) -> list[HookRule]:
    return [] if schedule is None else [schedule] if isinstance(schedule, HookRule) else list(schedule)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each schedule."""
    schedules = [schedule for marker in metafunc.definition.iter_markers("polynix_faults") for schedule in marker.args]
    if schedules and "polynix_schedule" in metafunc.fixturenames:
        metafunc.parametrize("polynix_schedule", schedules, ids=[describe(schedule) for schedule in schedules], indirect=True)


def describe(schedule: Schedule) -> str:
    """A schedule as part of a test's name: ``fail-write-ENOSPC-after2``."""
    parts = []
    for rule in rules_of(schedule):
        details = [errno.errorcode.get(rule.error, str(rule.error))] if rule.error else []
        details += [str(rule.count)] if rule.count else []
        details += [f"after{rule.after}"] if rule.after else []
        details += [f"seed{rule.seed}"] if rule.seed else []
        parts.append("-".join([rule.action, "+".join(rule.calls), *details]))
    return ",".join(parts) or "no-fault"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what the containers of a failed test were doing."""
    report = yield
    if report.when == "call" and (report.failed or hasattr(report, "wasxfail")):
        containers: list[Made] = item.stash.get(CONTAINERS, NO_CONTAINERS)
        for number, made in enumerate(containers, 1):
            container = made.container
            name = f"polynix container {number}" if number > 1 else "polynix"
            try:
                tree = tree_text(container.process_tree())
                calls = "\n".join(container.last_calls())
            except (ContainerError, ValueError) as error:
                tree, calls = f"({error})", ""
            report.sections.append((f"{name}: processes", tree))
            if calls:
                report.sections.append((f"{name}: last system calls", calls))
            if made.ring >= 0:
                report.sections.append((f"{name}: trace", write_trace(item, number, made.ring)))
    return report


def write_trace(item: pytest.Item, number: int, ring: int) -> str:
    """Write what the ring holds below pytest's temporary directory; says where."""
    from polynix.tools.trace.perfetto_file import write_perfetto
    from polynix.tools.trace.reader import TraceReader

    factory: pytest.TempPathFactory = item.config._tmp_path_factory  # type: ignore[attr-defined]
    path = factory.mktemp("polynix") / f"{number}.pftrace"
    try:
        with open(path, "wb") as file:
            reader = TraceReader(ring)
            write_perfetto(reader, reader.events(), (), file)
    except OSError as error:
        return f"cannot write {path}: {error.strerror}"
    return f"{path} (open it at https://ui.perfetto.dev)"


def tree_text(rows: list[dict[str, Any]]) -> str:
    """The processes, children indented below their parents, with what each thread does."""
    children: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        children.setdefault(row["ppid"], []).append(row)
    lines: list[str] = []

    def show(row: dict[str, Any], depth: int) -> None:
        doing = "zombie" if row["exited"] else ", ".join(thread["doing"] for thread in row["threads"])
        lines.append(f"{'  ' * depth}{row['pid']} {row['comm']} ({doing})")
        for child in children.get(row["pid"], []):
            show(child, depth + 1)

    known = {row["pid"] for row in rows}
    for row in rows:
        if row["ppid"] not in known:
            show(row, 0)
    return "\n".join(lines)
