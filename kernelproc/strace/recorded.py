"""Calls that were recorded raw, shown afterwards in strace's notation: the guest's memory is gone, but for the paths that were read, or one small argument.

A trace has hundreds of thousands of calls, and few different arguments. So an argument, if it is no path, is formatted once for each combination of the values
that its formatter looks at, which is found out by watching it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from polynix.kernelproc.hooks.call import shape_of
from polynix.kernelproc.strace import names
from polynix.kernelproc.strace.arguments import Call, path, path_text
from polynix.kernelproc.strace.recorded_memory import recorded_memory
from polynix.kernelproc.strace.signatures import Signature, signature

if TYPE_CHECKING:
    from polynix.kernelproc.strace.arguments import Formatter

Shown = TypeVar("Shown")
Values = tuple[Any, ...]  # of a call: six arguments, the result or None, the bytes that were recorded

MAX_REMEMBERED = 1 << 16  # values of one argument
RESULT, MEMORY = 6, 7  # what a formatter may look at besides the arguments 0 to 5
_RESTARTS = frozenset((512, 513, 514, 516))
_ADDRESSES = frozenset(("mmap", "mremap", "brk"))


class RecordedCalls(Generic[Shown]):
    """Shows recorded calls. ``show(name, value)`` makes of an argument, or of the result (named so), what the caller wants to have; an argument that is left
    out, as the mode of an open that creates nothing, is shown as nothing.
    """

    def __init__(self, show: Callable[[str, str], Shown]) -> None:
        self._show = show
        self._arguments: dict[int, list[_Argument[Shown]]] = {}
        self._results: dict[int, dict[int | None, Shown]] = {}

    def arguments(self, number: int, arguments: Sequence[int], memory: bytes, result: int | None) -> list[Shown]:
        """Each argument of a call of six. ``memory`` is what was recorded: paths, separated by NUL, or what ``recorded_memory`` says; what lay elsewhere is
        shown as its address.
        """
        known = self._arguments.get(number)
        if known is None:
            known = self._begin(number)
        values = (*arguments, result, memory)
        paths = iter(memory.split(b"\0")) if memory else iter(())
        shown: list[Shown] = []
        for argument in known:
            value: Shown | str | None
            if argument.is_path:
                address = arguments[argument.index]
                value = self._show(argument.name, path_text(address, next(paths, None) if address else None))
            else:
                value = argument.known.get(argument.key(values))
                if value is None:
                    value = argument.show(number, values)
            if value:
                shown.append(value)  # type: ignore[arg-type]  # "" is what is left out
        return shown

    def result(self, number: int, result: int | None) -> Shown:
        """The result: a number, ``-1 ENOENT``, ``?`` for a call that did not return."""
        known = self._results.get(number)
        if known is None:
            known = self._results[number] = {}
        shown = known.get(result)
        if shown is None:
            if len(known) >= MAX_REMEMBERED:
                known.clear()
            shown = known[result] = self._show("result", _result_text(signature(number).name in _ADDRESSES, result))
        return shown

    def _begin(self, number: int) -> list[_Argument[Shown]]:
        known = signature(number)
        arguments = self._arguments[number] = [_Argument(known, index, self._show) for index in range(len(known.formatters))]
        return arguments


class _Argument(Generic[Shown]):
    """One argument of one system call, and how its values look; ``known`` by ``key``, the values that its formatter has looked at so far."""

    __slots__ = ("_formatter", "_seen", "_show", "index", "is_path", "key", "known", "name")

    def __init__(self, call: Signature, index: int, show: Callable[[str, str], Shown]) -> None:
        labels = shape_of(call.name).names
        self.name = labels[index] if index < len(labels) else f"argument {index}"
        self.index = index
        self._formatter: Formatter = call.formatters[index]
        self.is_path = self._formatter is path
        self._show = show
        self._seen: set[int] = {index}
        self.key: Callable[[Values], Any] = itemgetter(index)
        self.known: dict[Any, Shown | str] = {}

    def show(self, number: int, values: Values) -> Shown | str:
        """How it looks; an empty text when it is left out."""
        call = _WatchedCall(number, values)
        text = self._formatter(call, self.index)
        if not call.seen <= self._seen:
            self._seen |= call.seen
            self.key = itemgetter(*sorted(self._seen))
            self.known.clear()
        if len(self.known) >= MAX_REMEMBERED:
            self.known.clear()
        shown = self.known[self.key(values)] = self._show(self.name, text) if text else ""
        return shown


class _WatchedCall(Call):
    """A call that notes in ``seen`` what a formatter looks at. Of the guest's memory it has what was recorded."""

    __slots__ = ("_memory", "_values", "seen")

    def __init__(self, number: int, values: Values) -> None:
        self.number = number
        self._values = values
        self._memory = recorded_memory(signature(number).name)
        self.seen: set[int] = set()

    @property
    def arguments(self) -> Any:  # type: ignore[override]
        return self

    def __getitem__(self, index: int) -> int:
        self.seen.add(index)
        value: int = self._values[index]
        return value

    @property
    def result(self) -> int | None:  # type: ignore[override]
        self.seen.add(RESULT)
        value: int | None = self._values[RESULT]
        return value

    def bytes_at(self, address: int, count: int) -> bytes | None:
        if address and not count:
            return b""
        if self._memory is None or not address or address != self[self._memory.argument]:
            return None
        self.seen.add(MEMORY)
        recorded: bytes = self._values[MEMORY]
        return recorded[:count] if count <= len(recorded) else None


def _result_text(is_address: bool, result: int | None) -> str:
    if result is None:
        return "?"
    if -4096 < result < 0:
        name = names.errno_names().get(-result, str(-result))
        return f"? {name}" if -result in _RESTARTS else f"-1 {name}"
    return f"{result:#x}" if is_address else str(result)
