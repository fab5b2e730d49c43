"""``polynix run`` and ``start`` without click, whose import takes a tenth of the time of a start: for command lines in the plain form, which are most.

What isn't plain, and every error of usage, is click's matter: the same table describes the options to both, and what is understood here it understands the
same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from polynix.tools.container_options import CONTAINER_OPTIONS, RUNNER, ContainerOption
from polynix.tools.exit_status import status_of, tell_error


def parse(arguments: Sequence[str], table: Sequence[ContainerOption]) -> tuple[dict[str, Any], tuple[str, ...]] | None:
    """``[OPTION VALUE | --OPTION=VALUE]... [--] WORD...``: the parameters by name, and the words; None if it is anything else."""
    options = {flag: option for option in table for flag in option.flags}
    given: dict[str, list[str]] = {option.destination: [] for option in table}
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        flag, equals, value = rest.pop(0).partition("=")
        if flag == "--" and not equals:
            break
        option = options.get(flag)
        if option is None or option.number or flag == "--strace" or (equals and not flag.startswith("--")) or not (equals or rest):
            return None
        given[option.destination].append(value if equals else rest.pop(0))
    values: dict[str, Any] = {}
    for option in table:
        several = given[option.destination]
        values[option.destination] = tuple(several) if option.repeatable else several[-1] if several else option.default
    return values, tuple(rest)


def run(arguments: Sequence[str]) -> int | None:
    """``polynix run``, of which ``arguments`` are the words that follow; returns the exit status, or None where click is needed."""
    understood = parse(arguments, CONTAINER_OPTIONS)
    if understood is None or not understood[1]:
        return None
    options, command = understood

    def carry_out() -> int:
        from polynix.runner.parameters import ParameterError
        from polynix.tools.run import run_program

        try:
            return run_program(command=command, **options)
        except ParameterError as error:
            return tell_error(str(error))

    return status_of(carry_out)


def start(arguments: Sequence[str]) -> int | None:
    """``polynix start``, as :func:`run`."""
    understood = parse(arguments, (RUNNER, *CONTAINER_OPTIONS))
    if understood is None:
        return None
    options, words = understood
    command = words[2:] if words[1:2] == ("--",) else words[1:]
    if not command:
        return None
    name, directory = words[0], options.pop("directory")

    def carry_out() -> int:
        from polynix.runner.errors import ContainerError
        from polynix.runner.parameters import ParameterError
        from polynix.tools import containers

        try:
            return containers.start(directory, name, command, options)
        except (ContainerError, ParameterError, OSError) as error:
            return tell_error(containers.error_text(error))

    return status_of(carry_out)


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {"run": run, "start": start}
