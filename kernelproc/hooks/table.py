"""The hooks of a kernel, and how they come into the table of system calls."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Any

from polynix.addrspace._usercopy import Fault
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.hooks.call import SystemCall
from polynix.kernelproc.hooks.hook import Hook, Outcome, settled
from polynix.kernelproc.syscalls import table
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.errno import EFAULT, ENOSYS

if TYPE_CHECKING:
    from polynix.kernelproc.hook_rule import HookRule
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task


MAX_DECISIONS = 64  # remembered of a task, whose handlers have stacks of their own


class HookTable:
    """All hooks in force, in ``kernel.expando``; a call passes its hooks in the order in which they were added."""

    def __init__(self) -> None:
        self.hooks: dict[int, Hook] = {}  # by the owner's number
        self._by_call: dict[int, list[Hook]] = {}
        self._wrappers: dict[int, table.Wrapper] = {}

    def add(self, kernel: Kernel, number: int, rule: HookRule) -> Hook:
        """Put ``rule`` in force as hook ``number``."""
        hook = self.hooks[number] = Hook(kernel, rule)
        for call in rule.numbers():
            hooks = self._by_call.setdefault(call, [])
            if not hooks:
                wrapper = self._wrappers[call] = partial(_hooked, hooks)
                table.wrap(call, wrapper)
            hooks.append(hook)
        return hook

    def remove(self, number: int) -> None:
        """Take a hook away, if it is there; calls in progress end as they began."""
        hook = self.hooks.pop(number, None)
        if hook is None:
            return
        for call in hook.rule.numbers():
            hooks = self._by_call[call]
            hooks.remove(hook)
            if not hooks:
                del self._by_call[call]
                table.unwrap(call, self._wrappers.pop(call))


def _hooked(hooks: list[Hook], number: int, entry: table.Entry | None) -> table.Entry:
    """The entry of a hooked call."""
    original = None if entry is None else table.settled(number, entry)

    def carry_out(call: SystemCall) -> Outcome:
        """The call itself: an int for every usual end, so that hooks see results and not exceptions."""
        if original is None:
            track_stub(f"system call {call.name}")
            return -ENOSYS
        try:
            result = original(call.task, *call.arguments)
        except Errno as error:
            return -error.errno
        except Fault:
            return -EFAULT
        return _results_of(result) if isinstance(result, Awaitable) else result

    def pass_on(call: SystemCall, taken: list[Hook], index: int) -> Outcome:
        if index == len(taken):
            return carry_out(call)
        return taken[index].act(call, lambda: pass_on(call, taken, index + 1))

    def hooked(task: Task, *registers: int) -> Any:
        call = SystemCall(task, number, list(registers))
        taken = _decide(call, hooks)
        if taken:
            return pass_on(call, taken, 0)
        if original is None:
            return carry_out(call)
        return original(task, *registers)

    return hooked


def _decide(call: SystemCall, hooks: list[Hook]) -> list[Hook]:
    """Which of the hooks act on a call. One that was interrupted and is done again is the same call: what was decided then holds, but for a delay, which has
    been.
    """
    task = call.task
    assert task.slot is not None
    decisions: _Decisions = task.expando.setdefault(_Decisions, _Decisions())
    place = task.slot.ip, task.slot.sp
    if task.rewound == place:
        task.rewound = None
        taken = [hook for hook in decisions.at(place, call.number) if hook in hooks and hook.rule.action != "delay"]
    else:
        taken = [hook for hook in hooks if hook.takes(call)]
    decisions.note(place, call.number, taken)
    return taken


class _Decisions:
    """Which hooks acted on a task's calls, by where it made them: a signal handler that interrupts a call makes others meanwhile. In ``task.expando``."""

    def __init__(self) -> None:
        self._by_place: dict[tuple[int, int], tuple[int, list[Hook]]] = {}

    def at(self, place: tuple[int, int], number: int) -> list[Hook]:
        known, hooks = self._by_place.get(place, (number, []))
        return hooks if known == number else []

    def note(self, place: tuple[int, int], number: int, hooks: list[Hook]) -> None:
        stack_pointer = place[1]
        for other in [other for other in self._by_place if other[1] <= stack_pointer]:
            del self._by_place[other]  # of functions that have returned
        if len(self._by_place) >= MAX_DECISIONS:
            self._by_place.clear()
        if hooks:
            self._by_place[place] = number, hooks


async def _results_of(result: Awaitable[Any]) -> Any:
    try:
        return await settled(result)
    except Errno as error:
        return -error.errno
    except Fault:
        return -EFAULT
