"""Scripting a container from Python: hooks on its system calls, devices and file systems of one's own. The part of ``Container`` that does it.

Rules are written as :mod:`polynix.kernelproc.hook_rule` says; what is added before the container starts is in force before its first program.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from polynix.kernelproc import hook_rule
from polynix.kernelproc.hook_rule import HookRule, pack

if TYPE_CHECKING:
    from polynix.runner.container import Container

Calls = str | Iterable[str]


class Hook:
    """A hook of a container. It stays in force until :meth:`remove`, or as long as its ``with`` block."""

    def __init__(self, container: Container, number: int, rule: HookRule) -> None:
        self.container = container
        self.number = number
        self.rule = rule

    def remove(self) -> None:
        """Take it out of force."""
        self.container.remove_hook(self)

    def __enter__(self) -> Hook:
        return self

    def __exit__(self, *_details: object) -> None:
        self.remove()

    @property
    def matched(self) -> int:
        """How many calls its conditions named."""
        return int(self._state()["matched"])

    @property
    def hits(self) -> int:
        """How many calls it acted on."""
        return int(self._state()["hits"])

    @property
    def errors(self) -> list[str]:
        """What its function raised beside OSError."""
        return list(self._state()["errors"])

    def events(self) -> list[dict[str, Any]]:
        """What it noted since the last time: of an observing hook a dict a call (``call``, ``process``, ``pid``, ``tid``, ``path``, ``arguments``, ``result``,
        ``time_ns``, ``duration_ns``), of a function what it gave to ``call.report``. The kernel keeps 10 000; the oldest go first.
        """
        return list(self._state(events=True)["events"])

    def _state(self, events: bool = False) -> dict[str, Any]:
        state: dict[str, Any] = self.container.script("hook_state", hook=self.number, events=events)
        return state


class Scriptable:
    """What makes a container scriptable; its owner keeps hooks, the kernel process carries them out."""

    def __init__(self, hooks: Iterable[HookRule] = ()) -> None:
        self._hook_numbers = 0
        self._unsent: list[tuple[str, dict[str, Any]]] = []  # requests made before the start
        for rule in hooks:
            self.add_hook(rule)

    def take_script(self) -> list[dict[str, Any]]:
        """What was asked for before the start, as messages of :mod:`polynix.kernelproc.scripting.requests`; whoever takes it has to send it."""
        unsent, self._unsent = self._unsent, []
        return [{"method": method, "parameters": fields} for method, fields in unsent]

    # What Container brings.
    def script(self, method: str, **parameters: Any) -> Any:
        raise NotImplementedError

    @property
    def running(self) -> bool:
        """Whether the container runs."""
        raise NotImplementedError

    def script_later(self, method: str, **parameters: Any) -> None:
        """Ask now if the container runs, else at its start."""
        raise NotImplementedError

    def add_hook(self, rule: HookRule) -> Hook:
        """Put a rule in force. Errors: RuleError (a ValueError)."""
        self._hook_numbers += 1
        self.script_later("add_hook", hook=self._hook_numbers, rule=rule.to_fields())
        return Hook(self, self._hook_numbers, rule)  # type: ignore[arg-type]

    def remove_hook(self, hook: Hook) -> None:
        """Take a hook out of force; one that is gone with its container is none."""
        unsent = [(method, fields) for method, fields in self._unsent if method != "add_hook" or fields["hook"] != hook.number]
        if len(unsent) < len(self._unsent):
            self._unsent = unsent
        elif self.running:
            self.script("remove_hook", hook=hook.number)

    def add(self, thing: Any) -> None:
        """Bring in a class or function that ``@device`` or ``@filesystem`` has marked; it is sent to the kernel process as it is now."""
        self.script_later("install", thing=pack(thing))

    def fail(self, calls: Calls, error: int | str, **conditions: Any) -> Hook:
        """Let calls fail: ``container.fail("write", error=ENOSPC, path="/data/*", after=3, times=1)``. Conditions: see HookRule."""
        return self.add_hook(hook_rule.fail(calls, error, **conditions))

    def delay(self, calls: Calls, seconds: float, **conditions: Any) -> Hook:
        """Let calls begin later."""
        return self.add_hook(hook_rule.delay(calls, seconds, **conditions))

    def shorten(self, calls: Calls, count: int, **conditions: Any) -> Hook:
        """Let calls transfer ``count`` bytes at most."""
        return self.add_hook(hook_rule.shorten(calls, count, **conditions))

    def kill_process(self, calls: Calls, signal: int = signal.SIGKILL, **conditions: Any) -> Hook:
        """Send the calling process a signal."""
        return self.add_hook(hook_rule.kill(calls, signal, **conditions))

    def observe(self, calls: Calls, **conditions: Any) -> Hook:
        """Note calls: ``container.observe("openat", path="/etc/*").events()``."""
        return self.add_hook(hook_rule.observe(calls, **conditions))

    def hook(self, calls: Calls, function: Callable[..., Any], **conditions: Any) -> Hook:
        """Call ``function(call)`` in the kernel process at each call, with a SystemCall (see polynix.scripting).

        It may change the arguments and return None (the call goes on), return a number (the call's result, ``-errno`` for errors; it is not carried out), or
        raise an OSError. An ``async def`` can wait, and carry the call out by ``result = await call.proceed()``. The function is sent to the kernel as it is
        now, and is trusted there. It must not block (an ``async def`` may await): the kernel has one thread.
        """
        return self.add_hook(hook_rule.call(calls, function, **conditions))

    # Ready-made.
    def disk_full(self, path: str = "*", **conditions: Any) -> Hook:
        """What takes space below the glob ``path`` fails with ENOSPC."""
        return self.add_hook(hook_rule.disk_full(path, **conditions))

    def slow_disk(self, seconds: float = 0.02, path: str = "/*", **conditions: Any) -> Hook:
        """Transfers from and to the files of ``path`` take longer."""
        return self.add_hook(hook_rule.slow_disk(seconds, path, **conditions))

    def memory_pressure(self, probability: float = 0.1, **conditions: Any) -> Hook:
        """Requests for memory fail now and then."""
        return self.add_hook(hook_rule.memory_pressure(probability, **conditions))

    def kill_at(self, calls: Calls, nth: int, **conditions: Any) -> Hook:
        """Kill the process that makes the ``nth`` such call."""
        return self.add_hook(hook_rule.kill_at(calls, nth, **conditions))

    def last_calls(self) -> list[str]:
        """The last lines of ``Container(strace=FILTER, strace_keep=N)``."""
        lines: list[str] = self.script("last_calls")
        return lines

    def process_tree(self) -> list[dict[str, Any]]:
        """The processes of the container: dicts with ``pid``, ``ppid``, ``comm``, ``exited`` and ``threads`` (``tid``, ``comm``, ``doing``)."""
        rows: list[dict[str, Any]] = self.script("process_tree")
        return rows
