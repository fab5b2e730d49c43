"""Rules for hooks on system calls, as plain data: which calls, of whom, on what, and what is done to them.

Made by a container's owner (``Container.fail`` and its kin, ``polynix run --fail``), carried to the kernel process as JSON, and carried out there by
:mod:`polynix.kernelproc.hooks`. Nothing heavy is imported here.
"""

from __future__ import annotations

import base64
import errno
import fnmatch
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any

from polynix.ipc.light_dataclass import dataclass, fields

ACTIONS = ("fail", "delay", "shorten", "kill", "observe", "call")
LONGEST_SECONDS = 1e9  # of a delay: thirty years, which the kernel's clock can count in nanoseconds
NEVER = frozenset({"exit", "exit_group", "rt_sigreturn"})  # they don't return: only watching them makes sense
WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2")
READS = ("read", "pread64", "readv", "preadv", "preadv2")
GROUPS = {
    "%read": READS,
    "%write": WRITES,
    "%space": (*WRITES, "fallocate", "sendfile", "copy_file_range", "mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat", "link", "linkat"),
    "%disk": (*READS, *WRITES, "fsync", "fdatasync", "sync_file_range", "getdents64", "sendfile", "copy_file_range"),
    "%memory": ("mmap", "mremap", "brk"),
}  # what takes space on a disk, touches a disk, asks for memory


class RuleError(ValueError):
    """A rule is wrong; the text is one line for the user."""


@dataclass
class HookRule:
    """One hook. ``calls`` are names, globs of names (``open*``) or the groups of ``GROUPS``.

    A call matches when its process does (``process``: a glob of its name, or a pid), one of the paths it is about does (``path``: a glob whose ``*`` matches
    slashes too), and ``predicate`` says so, a function that is asked in the kernel process with the SystemCall. Paths are absolute, as the caller sees them,
    symbolic links not followed; a descriptor's path is the one it was opened by. Of the matching calls, counted over the whole container (one that a signal
    interrupts and that restarts counts once), the first ``after`` are let by, of the rest each ``every``-th is taken, with ``probability`` (drawn from
    ``seed``), ``times`` times at most. ``error`` is an errno of action fail, ``seconds`` of delay, ``count`` the most bytes of shorten, ``signal`` of kill;
    ``function`` belongs to action call.
    """

    action: str
    calls: tuple[str, ...]
    process: str | int | None = None
    path: str | None = None
    error: int = 0
    seconds: float = 0.0
    count: int = 0
    signal: int = int(signal.SIGKILL)
    after: int = 0
    every: int = 1
    times: int | None = None
    probability: float = 1.0
    seed: int = 0
    function: Callable[..., Any] | None = None
    predicate: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise RuleError(f"hook action {self.action!r} is none of {', '.join(ACTIONS)}")
        self.numbers()
        if self.action == "fail" and not 0 < self.error < 4096:
            raise RuleError("a failing call needs an error, such as ENOSPC")
        if self.predicate is not None and not callable(self.predicate):
            raise RuleError("a predicate is a function of the call")
        if self.action == "call" and not callable(self.function):
            raise RuleError("a hook needs a function")
        if self.seconds < 0 or self.count < 0 or self.after < 0 or self.every < 1 or (self.times is not None and self.times < 0):
            raise RuleError("counts and times of a hook are not negative, and every is at least 1")
        if not self.seconds <= LONGEST_SECONDS:  # nor nan
            raise RuleError(f"a delay of {self.seconds:g} s is longer than {LONGEST_SECONDS:g} s, or no number")
        if self.action == "shorten" and self.count < 1:
            raise RuleError("a shortened call keeps at least one byte")
        if not 0 <= self.probability <= 1:
            raise RuleError(f"probability {self.probability} is not between 0 and 1")
        if not 0 < self.signal <= 64:
            raise RuleError(f"signal {self.signal} is none of 1 to 64")

    def numbers(self) -> frozenset[int]:
        """The numbers of the calls. Errors: RuleError for a name that no call has, or for one that can't be hooked this way."""
        from polynix.kernelproc.uapi.unistd import SYSCALLS

        found: set[str] = set()
        for call in self.calls:
            names = GROUPS.get(call) or fnmatch.filter(SYSCALLS, call)
            if not names:
                raise RuleError(f"unknown system call {call!r}")
            if call in NEVER and self.action != "observe":
                raise RuleError(f"{call} does not return: it can only be observed")
            found.update(names)
        return frozenset(SYSCALLS[name] for name in found if self.action == "observe" or name not in NEVER)

    def to_fields(self) -> dict[str, Any]:
        """JSON-able fields; the function goes as dill text (see :func:`pack`). Errors: RuleError when it can't be packed."""
        values = dict(vars(self))
        for name in ("function", "predicate"):
            values[name] = None if values[name] is None else pack(values[name])
        return {**values, "calls": list(self.calls)}

    @classmethod
    def from_fields(cls, values: dict[str, Any]) -> HookRule:
        """The other end of :meth:`to_fields`. Errors: RuleError."""
        functions = {name: None if values[name] is None else unpack(values[name]) for name in ("function", "predicate")}
        return cls(**{**values, "calls": tuple(values["calls"]), **functions})


def parse_rule(action: str, text: str) -> HookRule:
    """``CALL[+CALL…][:KEY=VALUE[,KEY=VALUE…]]``: ``write:path=/data/*,error=ENOSPC,after=3``. Errors: RuleError."""
    calls, _, rest = text.partition(":")
    known = fields(HookRule).keys() - {"action", "calls", "function", "predicate"}
    values: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, separator, value = part.partition("=")
        if not separator or key not in known:
            raise RuleError(f"{part!r} of rule {text!r} is no KEY=VALUE of {', '.join(sorted(known))}")
        values[key] = _value(key, value, text)
    return HookRule(action, tuple(calls.split("+")), **values)


def _value(key: str, value: str, text: str) -> Any:
    try:
        if key == "error":
            return error_number(value)
        if key == "signal":
            return int(value) if value.isdigit() else int(signal.Signals["SIG" + value.removeprefix("SIG")])
        if key == "process":
            return int(value) if value.isdigit() else value
        if key == "path":
            return value
        return float(value) if key in ("seconds", "probability") else int(value)
    except (ValueError, KeyError):
        raise RuleError(f"{key} of rule {text!r} is wrong: {value!r}") from None


def error_number(error: int | str) -> int:
    """An errno by number or name. Errors: RuleError."""
    if isinstance(error, int):
        return error
    number = getattr(errno, error, None)
    if not isinstance(number, int):
        raise RuleError(f"unknown error {error!r}")
    return number


def pack(thing: Any) -> str:
    """A function or class of the user's as text. Its code travels by value; what it refers to in modules travels by name, with the caller's ``sys.path``, so
    that the kernel process can import it. Errors: RuleError.
    """
    import dill  # multiprocess brings it

    try:
        data = dill.dumps((list(sys.path), dill.dumps(thing, byref=False, recurse=True)))
    except Exception as error:
        raise RuleError(f"{thing!r} cannot be sent to the kernel: {error}") from error
    return base64.b64encode(data).decode("ascii")


def unpack(text: str) -> Any:
    """The other end of :func:`pack`; runs in the kernel process. Errors: RuleError."""
    import dill

    try:
        path, data = dill.loads(base64.b64decode(text))
        sys.path += [entry for entry in path if entry not in sys.path]
        return dill.loads(data)
    except Exception as error:
        raise RuleError(f"the kernel cannot load a hook's function: {type(error).__name__}: {error}") from error


# -- the ways to say it in Python -------------------------------------------------------------------------------------------------------------


def _calls(calls: str | Iterable[str]) -> tuple[str, ...]:
    return tuple(calls.replace(" ", "").split(",")) if isinstance(calls, str) else tuple(calls)


def fail(calls: str | Iterable[str], error: int | str, **conditions: Any) -> HookRule:
    """The calls fail with ``error`` and are not carried out: ``fail("write", ENOSPC, path="/data/*", after=3, times=1)``."""
    return HookRule("fail", _calls(calls), error=error_number(error), **conditions)


def delay(calls: str | Iterable[str], seconds: float, **conditions: Any) -> HookRule:
    """The calls begin ``seconds`` later, as on a slow disk: uninterruptibly, except by death."""
    return HookRule("delay", _calls(calls), seconds=seconds, **conditions)


def shorten(calls: str | Iterable[str], count: int, **conditions: Any) -> HookRule:
    """The calls transfer ``count`` bytes at most: short reads and writes. Calls without a byte count pass unchanged."""
    return HookRule("shorten", _calls(calls), count=count, **conditions)


def kill(calls: str | Iterable[str], signal: int = signal.SIGKILL, **conditions: Any) -> HookRule:
    """The caller's process gets ``signal`` at the call, which is not carried out (EINTR, should the signal be handled)."""
    return HookRule("kill", _calls(calls), signal=int(signal), **conditions)


def observe(calls: str | Iterable[str], **conditions: Any) -> HookRule:
    """The calls are noted, with their results."""
    return HookRule("observe", _calls(calls), **conditions)


def call(calls: str | Iterable[str], function: Callable[..., Any], **conditions: Any) -> HookRule:
    """``function`` is called, in the kernel process, with a :class:`~polynix.kernelproc.hooks.call.SystemCall`."""
    return HookRule("call", _calls(calls), function=function, **conditions)


# -- ready-made rules --------------------------------------------------------------------------------------------------------------------------


def disk_full(path: str = "*", **conditions: Any) -> HookRule:
    """Whatever takes space below ``path`` (a glob) fails with ENOSPC. A real disk of limited size is ``Container(tmpfs=["/data:size=64K"])``."""
    return fail("%space", errno.ENOSPC, path=path, **conditions)


def slow_disk(seconds: float = 0.02, path: str = "/*", **conditions: Any) -> HookRule:
    """Each transfer from or to the files of ``path`` takes ``seconds`` longer."""
    return delay("%disk", seconds, path=path, **conditions)


def memory_pressure(probability: float = 0.1, **conditions: Any) -> HookRule:
    """Requests for memory (mmap, mremap, brk) fail now and then with ENOMEM."""
    return fail("%memory", errno.ENOMEM, probability=probability, **conditions)


def each_call(rule: HookRule, count: int) -> list[HookRule]:
    """Schedules that try a rule at each of the first ``count`` calls that it names, one call a schedule."""
    return [HookRule(**{**vars(rule), "after": rule.after + nth, "times": 1}) for nth in range(count)]


def kill_at(calls: str | Iterable[str], nth: int, **conditions: Any) -> HookRule:
    """The process that makes the ``nth`` such call (from 1) is killed there."""
    return kill(calls, after=nth - 1, times=1, **conditions)
