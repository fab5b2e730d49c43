"""``polynix start`` without click, whose import takes a sixth of the time of a start: for command lines in the plain form, which are most.

What isn't plain, and every error, is click's matter: the same table describes the options to both, and what is understood here it understands the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from polynix.tools.container_options import CONTAINER_OPTIONS, RUNNER
from polynix.tools.exit_status import status_of, tell_error

_BY_FLAG = {flag: option for option in (RUNNER, *CONTAINER_OPTIONS) for flag in option.flags}


class PlainStart(NamedTuple):
    """What a command line asks for."""

    directory: str | None
    name: str
    command: tuple[str, ...]
    options: dict[str, Any]


def parse(arguments: Sequence[str]) -> PlainStart | None:
    """``[OPTION VALUE | --OPTION=VALUE]... CONTAINER PROGRAM [ARG]...``, the words after ``start``; None if they are anything else."""
    values: dict[str, Any] = {option.destination: [] if option.repeatable else option.default for option in (RUNNER, *CONTAINER_OPTIONS)}
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        flag, equals, value = rest.pop(0).partition("=")
        option = _BY_FLAG.get(flag)
        if option is None or option.number or flag == "--strace" or (equals and not flag.startswith("--")) or not (equals or rest):
            return None
        if not equals:
            value = rest.pop(0)
        if option.repeatable:
            values[option.destination].append(value)
        else:
            values[option.destination] = value
    if len(rest) < 2 or rest[1:] == ["--"]:
        return None
    options: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return PlainStart(options.pop("directory"), rest[0], tuple(rest[2:] if rest[1] == "--" else rest[1:]), options)


def run(request: PlainStart) -> int:
    """Do it; returns the exit status."""
    return status_of(lambda: _start(request))


def _start(request: PlainStart) -> int:
    from polynix.runner.errors import ContainerError
    from polynix.runner.parameters import ParameterError
    from polynix.tools import containers

    try:
        return containers.start(request.directory, request.name, request.command, request.options)
    except (ContainerError, ParameterError, OSError) as error:
        return tell_error(containers.error_text(error))
