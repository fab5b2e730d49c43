"""What a stress run is to do: plain data that can be sent to another machine, and its parsing."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from polynix.runner.parameters import parse_hook

KINDS = ("pipe", "socket", "fork", "mem", "futex", "fs", "signal", "command")  # in the order of stressor.c
DEFAULT_MIX = "pipe:3,fork:1,mem:1,futex:2,fs:2,signal:1,socket:1"
HOOKS = ("fail", "delay", "shorten")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class PlanError(ValueError):
    """The request makes no sense; the text is one line."""


@dataclass(frozen=True)
class StressPlan:
    """One run: ``containers`` with ``processes`` workers each, ``threads`` in each worker that uses threads. ``first`` numbers the first container, so that
    parts of a run on several machines keep their seeds apart.
    """

    containers: int = 1
    processes: int = 10
    threads: int = 4
    seconds: float = 30.0
    rate: float = 0.0  # operations a second of each worker; 0: as fast as they go
    ramp_seconds: float = 0.0
    mix: str = DEFAULT_MIX
    command: tuple[str, ...] = ()
    kills_per_second: float = 0.0  # of each container
    hooks: tuple[tuple[str, str], ...] = ()  # (action, rule) on system calls, in force while the workers work
    seed: int = 0
    first: int = 0
    container_options: dict[str, Any] = field(default_factory=dict)

    def part(self, first: int, containers: int) -> StressPlan:
        """The same run for some of the containers."""
        return replace(self, first=self.first + first, containers=containers)

    def seed_of(self, index: int) -> int:
        """The seed of container ``index``: another one in each, the same in each run."""
        return (self.seed * 1_000_003 + self.first + index) & 0xFFFFFFFFFFFF


def parse_duration(text: str) -> float:
    """``30s``, ``500ms``, ``2m``, ``1h`` or seconds. Errors: PlanError."""
    match = _DURATION.fullmatch(text)
    if match is None or float(match[1]) <= 0:
        raise PlanError(f"bad duration {text!r}: it is a number with ms, s, m or h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def check_mix(text: str) -> str:
    """``KIND[:WEIGHT],...``, returned as it is. Errors: PlanError."""
    for part in text.split(","):
        name, separator, weight = part.partition(":")
        if name not in KINDS[:-1]:
            raise PlanError(f"no stressor {name!r}: there are {', '.join(KINDS[:-1])}")
        if separator and not (weight.isdigit() and 0 < int(weight) <= 1000):
            raise PlanError(f"bad weight {weight!r} of {name}: it is a number from 1 to 1000")
    return text


def parse_faults(texts: Sequence[str]) -> tuple[float, tuple[tuple[str, str], ...]]:
    """``kill:N`` is SIGKILL of N workers a second in each container; ``fail:RULE``, ``delay:RULE`` and ``shorten:RULE`` are hooks on system calls as ``polynix
    run`` takes them. Returns the kills and the (action, rule) pairs. Errors: PlanError; ParameterError for a bad rule.
    """
    kills, hooks = 0.0, []
    for text in texts:
        name, _, argument = text.partition(":")
        if name in HOOKS:
            parse_hook(name, argument)
            hooks.append((name, argument))
            continue
        try:
            kills = float(argument)
        except ValueError:
            kills = 0.0
        if name != "kill" or not 0 < kills <= 1000:
            raise PlanError(f"bad fault {text!r}: there are kill:PER_SECOND, {', '.join(f'{hook}:RULE' for hook in HOOKS)}")
    return kills, tuple(hooks)


def fresh_seed() -> int:
    """A seed for a run that was given none."""
    return secrets.randbelow(1 << 31)


def command_line(plan: StressPlan) -> Sequence[str]:
    """What repeats the run."""
    words = ["polynix", "stress", f"--containers={plan.containers}", f"--processes={plan.processes}", f"--threads={plan.threads}"]
    words.append(f"--duration={plan.seconds:g}s")
    if plan.rate:
        words.append(f"--rate={plan.rate:g}")
    if plan.ramp_seconds:
        words.append("--ramp")
    if plan.kills_per_second:
        words.append(f"--faults=kill:{plan.kills_per_second:g}")
    words += [f"--faults={action}:{rule}" for action, rule in plan.hooks]
    words.append(f"--seed={plan.seed}")
    return [*words, "--", *plan.command] if plan.command else [*words, f"--mix={plan.mix}"]
