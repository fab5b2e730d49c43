"""``--feature inject:RULE[,RULE…]``: make system calls fail on purpose, to see how programs bear it.

A rule is ``CALL=ERRNO[@EVERY][/COMM]``: every EVERYth call (each one by default) of the programs whose name is COMM (all by default) fails with ERRNO
and is not
carried out. ``inject:write=ENOSPC@3/cat`` fails every third write of cat.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.observer import SyscallObserver
from polynix.kernelproc.registry import modules
from polynix.kernelproc.uapi import errno as errno_names
from polynix.kernelproc.uapi.errno import EINVAL
from polynix.kernelproc.uapi.unistd import SYSCALLS

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

RULE = re.compile(r"(?P<call>\w+)=(?P<errno>E\w+)(?:@(?P<every>\d+))?(?:/(?P<comm>.+))?")
NEVER = {"exit", "exit_group", "rt_sigreturn"}


class Rule:
    """One call that fails."""

    def __init__(self, text: str) -> None:
        match = RULE.fullmatch(text)
        if match is None or match["call"] not in SYSCALLS or match["call"] in NEVER or not hasattr(errno_names, match["errno"]):
            raise Errno(EINVAL)
        self.number = SYSCALLS[match["call"]]
        self.result = -int(getattr(errno_names, match["errno"]))
        self.every = int(match["every"] or 1)
        if self.every == 0:
            raise Errno(EINVAL)
        self.comm = match["comm"].encode() if match["comm"] else None
        self.calls = 0

    def applies(self, task: Task) -> bool:
        """Whether this call of ``task`` is one to fail."""
        if self.comm is not None and task.comm != self.comm:
            return False
        self.calls += 1
        return self.calls % self.every == 0


class Injector(SyscallObserver):
    """An observer that answers calls in the kernel's place."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rules: dict[int, list[Rule]] = {}
        for rule in rules:
            self.rules.setdefault(rule.number, []).append(rule)

    def enter(self, task: Task, number: int, arguments: tuple[int, ...]) -> int | None:
        for rule in self.rules.get(number, ()):
            if rule.applies(task):
                return rule.result
        return None

    def leave(self, task: Task, number: int, arguments: tuple[int, ...], result: int | None) -> None:
        pass


@modules.module("inject")
def initialise(kernel: Kernel, arguments: str) -> None:
    """Errors: EINVAL for a malformed rule."""
    kernel.syscall_observers.append(Injector([Rule(text) for text in arguments.split(",")]))
