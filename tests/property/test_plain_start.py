"""What ``plain_start`` understands of a command line, click understands the same way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polynix.tools import cli, containers, plain_start
from polynix.tools.container_options import CONTAINER_OPTIONS

FLAGS = [flag for option in CONTAINER_OPTIONS for flag in option.flags]
VALUES = st.sampled_from(["", "-", "--", "a", "3", "0.5", "x=y", "=", "-w", "--env", "--strace", "-x", "--help", "a b", "é"])
WORDS = st.one_of(
    VALUES,
    st.sampled_from([*FLAGS, "--runner", "-h", "--nonsense", "--work", "-wx", "-w=x", "-i", "--tty"]),
    st.builds("{}={}".format, st.sampled_from([*FLAGS, "--runner", "--nonsense"]), VALUES),
)
LINES = st.lists(WORDS, max_size=7)
PLAIN_LINES = st.builds(
    lambda options, rest: [word for pair in options for word in pair] + rest,
    st.lists(st.tuples(st.sampled_from([*FLAGS, "--runner"]), VALUES), max_size=4),
    st.lists(VALUES, min_size=2, max_size=4),
)


@pytest.fixture(scope="module")
def asked() -> Iterator[list[plain_start.PlainStart]]:
    """What click has had started, instead of that."""
    calls: list[plain_start.PlainStart] = []

    def start(directory: str | None, name: str, command: tuple[str, ...], options: dict[str, Any], **flags: bool) -> int:
        assert not any(flags.values())
        calls.append(plain_start.PlainStart(directory, name, command, options))
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(containers, "start", start)
        yield calls


@given(line=LINES | PLAIN_LINES)
def test_click_agrees(asked: list[plain_start.PlainStart], line: list[str]) -> None:
    understood = plain_start.parse(line)
    if understood is not None:
        asked.clear()
        assert cli.main(["start", *line]) == 0
        assert asked == [understood]


@pytest.mark.parametrize("line", ["web true", "web -- true -x", "--bind=/a:/b --env A=B -e C=D -w /x --fail write:error=EIO web sh -c x", "--runner /r a b"])
def test_usual_lines_are_plain(line: str) -> None:
    assert plain_start.parse(line.split()) is not None


@pytest.mark.parametrize("line", ["", "web", "web --", "--env"])
def test_lines_that_lack_something_are_not(line: str) -> None:
    assert plain_start.parse(line.split()) is None


@pytest.mark.parametrize("line", ["--help web true", "--strace web true", "--pids 3 web true", "-wx web true", "-it web true", "--nonsense web true"])
def test_others_are_not(line: str) -> None:
    assert plain_start.parse(line.split()) is None
