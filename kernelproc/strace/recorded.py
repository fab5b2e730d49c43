"""Calls that were recorded raw, shown afterwards in strace's notation: the guest's memory is gone, but for the paths that were read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import Fault
from polynix.kernelproc.hooks.call import shape_of
from polynix.kernelproc.strace import names
from polynix.kernelproc.strace.arguments import Call
from polynix.kernelproc.strace.signatures import signature

if TYPE_CHECKING:
    from polynix.addrspace._usercopy import UserAddress

_RESTARTS = frozenset((512, 513, 514, 516))
_ADDRESSES = frozenset(("mmap", "mremap", "brk"))


class _Recorded:
    """Stands for the guest."""

    def __init__(self, paths: tuple[bytes, ...]) -> None:
        self._paths = list(paths)
        self.user = self

    def read_cstring(self, _address: UserAddress, _limit: int) -> bytes | None:
        return self._paths.pop(0) if self._paths else None

    def copy_in(self, _address: UserAddress, _count: int) -> bytes:
        raise Fault


def decode_arguments(number: int, arguments: tuple[int, ...], paths: tuple[bytes, ...], result: int | None) -> list[tuple[str, str]]:
    """(name, value) of each argument; what lay in memory, paths excepted, is shown as its address."""
    known = signature(number)
    call = Call(_Recorded(paths), number, arguments)  # type: ignore[arg-type]
    call.result = result
    labels = shape_of(known.name).names
    shown = []
    for index, formatter in enumerate(known.formatters):
        value = formatter(call, index)
        if value:
            shown.append((labels[index] if index < len(labels) else f"argument {index}", value))
    return shown


def decode_result(number: int, result: int | None) -> str:
    """The result: a number, ``-1 ENOENT``, ``?`` for a call that did not return."""
    if result is None:
        return "?"
    if -4096 < result < 0:
        name = names.errno_names().get(-result, str(-result))
        return f"? {name}" if -result in _RESTARTS else f"-1 {name}"
    return f"{result:#x}" if signature(number).name in _ADDRESSES else str(result)
