"""What ``plain_line`` understands of a command line, click understands the same way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polynix.tools import cli, containers, plain_line, run
from polynix.tools.container_options import CONTAINER_OPTIONS

FLAGS = [flag for option in CONTAINER_OPTIONS for flag in option.flags]
VALUES = st.sampled_from(["", "-", "--", "--=x", "a", "3", "0.5", "x=y", "=", "-w", "--env", "--strace", "-x", "--help", "a b", "é"])
WORDS = st.one_of(
    VALUES,
    st.sampled_from([*FLAGS, "--runner", "-h", "--nonsense", "--work", "-wx", "-w=x", "-i", "--tty"]),
    st.builds("{}={}".format, st.sampled_from([*FLAGS, "--runner", "--nonsense"]), VALUES),
)
LINES = st.lists(WORDS, max_size=7)
PLAIN_LINES = st.builds(
    lambda options, rest: [word for pair in options for word in pair] + rest,
    st.lists(st.tuples(st.sampled_from([*FLAGS, "--runner"]), VALUES), max_size=4),
    st.lists(VALUES, min_size=1, max_size=4),
)


Call = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def calls() -> Iterator[list[Call]]:
    """What is asked for, instead of doing it."""
    made: list[Call] = []

    def start(directory: str | None, name: str, command: tuple[str, ...], options: dict[str, Any], *, interactive: bool = False, terminal: bool = False) -> int:
        made.append(("start", {"directory": directory, "name": name, "command": command, "flags": (interactive, terminal), **options}))
        return 7

    def run_program(**options: Any) -> int:
        made.append(("run", options))
        return 7

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(containers, "start", start)
        patch.setattr(run, "run_program", run_program)
        yield made


@given(command=st.sampled_from(["run", "start"]), line=LINES | PLAIN_LINES)
def test_click_agrees(calls: list[Call], command: str, line: list[str]) -> None:
    calls.clear()
    if plain_line.COMMANDS[command](line) is not None:
        assert cli.main([command, *line]) == 7
        plain, clicks = calls
        assert plain == clicks


@pytest.mark.parametrize("line", ["web true", "-- web true -x", "--bind=/a:/b --env A=B -e C=D --fail write:error=EIO web sh -c x", "-u 1 web -- -a -b"])
def test_usual_lines_are_plain(calls: list[Call], line: str) -> None:
    assert (plain_line.run(line.split()), plain_line.start(line.split())) == (7, 7)


@pytest.mark.parametrize("line", ["", "--", "--env", "--help a b", "--strace a b", "--pids 3 a b", "-wx a b", "-it a b", "--nonsense a b", "--=x a b"])
def test_others_are_not(line: str) -> None:
    assert (plain_line.run(line.split()), plain_line.start(line.split())) == (None, None)


@pytest.mark.parametrize("line", ["web", "web --", "-- web", "--env A=B web"])
def test_a_container_needs_a_program(line: str) -> None:
    assert plain_line.start(line.split()) is None
