"""What all tests share: the marker of long runs, what looks for leftovers, and the count of expected failures at the end."""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from leftovers import SessionTraces
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from integration.audit import Audit

os.environ["POLYNIX_LOCKDEP"] = "1"  # the processes that tests start check the order of their locks, too
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:  # by nohup or a shell's `&`, and what tests start would ignore them as well
        signal.signal(number, handler)
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (HARD, HARD))  # as the kernel process does, whose parts unit tests run here


TRACES = pytest.StashKey[SessionTraces]()
LEFT = pytest.StashKey[list[str]]()
SHOWN = 20  # of what is left


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: long runs, only by `make soak`")
    if not hasattr(config, "workerinput"):  # workers belong to the session that started them
        config.stash[TRACES] = SessionTraces()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Once the workers are gone: nothing may be left."""
    traces = session.config.stash.get(TRACES, None)
    if traces is not None:
        session.config.stash[LEFT] = left = traces.settle()
        traces.remove()
        if left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


class ByGuest(LoadScopeScheduling):  # type: ignore[misc]
    """Spread tests over workers, the cases that share a guest together: a worker runs a program, or a batch of snippets, once for all its cases."""

    def _split_scope(self, nodeid: str) -> str:
        from integration.snippets import HERE, batch_of, load

        case = re.search(r"test_(userspace|snippet)\[([^:]+)::(.+)\]$", nodeid)
        if case is None:
            return nodeid
        if case[1] == "userspace":
            return case[2]
        return f"{case[2]} {batch_of(load(HERE / f'{case[2]}.snippets'), case[3])[0]}"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGuest:
    return ByGuest(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("POLYNIX_SOAK"):
        return
    skip = pytest.mark.skip(reason="a long run: make soak")
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(skip)


@pytest.fixture
def audit() -> Iterator[Audit]:
    """Starts containers; the test fails when something of them is left."""
    from integration.audit import Audit

    audit = Audit()
    try:
        yield audit
        audit.end_started()
        if audit.all_may_be_dead:
            assert audit.run(["true"]).code == 0  # names then go with the next start
        assert audit.settle() == []
    finally:
        audit.close()


@pytest.fixture
def second_look(request: pytest.FixtureRequest) -> Callable[[Callable[[], None], Callable[[], None]], None]:
    """Compare; if that fails, compare once more with that case alone on both sides. These machines are shared, and what depends on time may fail in a
    crowd, on Linux as well; how many cases needed the second look is printed at the end.
    """

    def look(first: Callable[[], None], alone: Callable[[], None]) -> None:
        try:
            first()
        except AssertionError:
            alone()
            request.node.user_properties.append(("second look", request.node.nodeid))

    return look


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left = config.stash.get(LEFT, [])
    for line in [*left[:SHOWN], f"and {len(left) - SHOWN} more"] if len(left) > SHOWN else left:
        terminalreporter.write_line(f"left behind by the tests: {line}", red=True)
    expected = [report for report in terminalreporter.stats.get("xfailed", []) if "userspace" in report.nodeid]
    if expected or terminalreporter.stats.get("passed"):
        again = [value for report in terminalreporter.stats.get("passed", []) for key, value in report.user_properties if key == "second look"]
        for name in sorted(set(again)):
            terminalreporter.write_line(f"passed at the second look: {name}")
        terminalreporter.write_line(f"expected failures (tests/userspace/expectations.toml): {len(expected)}")
