"""From number to function: the table of system calls, made at import from decorated functions.

``@syscall`` registers a function under its own name (or the name given). Its signature is the Linux prototype in the types of
:mod:`polynix.kernelproc.syscalls.types`, after the calling :class:`Task`; from it a decoder of six raw registers is compiled, once, at the call's first use.
A plain function can't block and returns an int; an ``async def`` may await wait queues. Errors are raised as ``Errno``, or returned as ``-errno`` on hot paths.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.syscalls import types
from polynix.kernelproc.uapi.unistd import SYSCALLS

MAX_SYSCALLS = 1024

Entry = Callable[..., Any]
Wrapper = Callable[[int, "Entry | None"], Entry]
Function = TypeVar("Function", bound=Callable[..., Any])

entries: list[Entry | None] = [None] * MAX_SYSCALLS  # number -> decoder(task, a0..a5)
_wrapped: dict[int, tuple[Entry | None, list[Wrapper]]] = {}  # number -> its own entry, and what has been put around it
functions: dict[str, Callable[..., Any]] = {}  # name -> implementation
names: dict[int, str] = {number: name for name, number in SYSCALLS.items()}

_DECODE = {
    types.S32: "(a{0} if a{0} < 0x80000000 else ((a{0} & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000)",
    types.U32: "(a{0} if a{0} <= 0xFFFFFFFF else a{0} & 0xFFFFFFFF)",
    types.S64: "a{0} if a{0} < 0x8000000000000000 else a{0} - 0x10000000000000000",
    types.U64: "a{0}",
}


def syscall(name: str | None = None) -> Callable[[Function], Function]:
    """Register the decorated function as the implementation of system call ``name``."""

    def register(function: Function) -> Function:
        call_name = name or function.__name__.rstrip("_")
        number = SYSCALLS[call_name]
        if entries[number] is not None:
            raise ValueError(f"system call {call_name} is registered twice")
        entries[number] = _at_first_use(number, function, call_name)
        functions[call_name] = function
        return function

    return register


def _at_first_use(number: int, function: Callable[..., Any], call_name: str) -> Entry:
    """An entry that replaces itself by the compiled decoder: few programs use more than a quarter of the table, and every start would pay for it all."""

    def entry_at_first_use(*arguments: Any) -> Any:
        decoder = entries[number] = compile_decoder(function, call_name)
        return decoder(*arguments)

    return entry_at_first_use


def wrap(number: int, wrapper: Wrapper) -> None:
    """Have ``wrapper(number, entry)`` answer call ``number`` instead of its entry; of several wrappers the last is the outermost."""
    _, wrappers = _wrapped.setdefault(number, (entries[number], []))
    wrappers.append(wrapper)
    entries[number] = wrapper(number, entries[number])


def unwrap(number: int, wrapper: Wrapper) -> None:
    """Take a wrapper away again; calls in progress end as they began."""
    entry, wrappers = _wrapped[number]
    wrappers.remove(wrapper)
    if not wrappers:
        del _wrapped[number]
    for remaining in wrappers:
        entry = remaining(number, entry)
    entries[number] = entry


def settled(number: int, entry: Entry) -> Entry:
    """``entry`` in the form that it will have after its first use, when it may no longer put itself into the table."""
    name = names.get(number, "")
    return compile_decoder(functions[name], name) if getattr(entry, "__name__", "") == "entry_at_first_use" else entry


def compile_decoder(function: Callable[..., Any], call_name: str) -> Entry:
    """``decoder(task, a0, … a5)``. Errors: TypeError for an annotation that is no system call argument type."""
    parameters = list(inspect.signature(function).parameters)[1:]
    if len(parameters) > 6:
        raise TypeError(f"{call_name} takes more than six arguments")
    hints = typing.get_type_hints(function, include_extras=True, localns=_annotation_names(function))
    arguments = []
    for index, parameter in enumerate(parameters):
        hint = hints[parameter]
        if hint is UserAddress:
            arguments.append(f"UserAddress(a{index})")
            continue
        metadata = getattr(hint, "__metadata__", None)
        if not metadata or metadata[0] not in _DECODE:
            raise TypeError(f"{call_name}({parameter}): {hint!r} is not a system call argument type")
        arguments.append(_DECODE[metadata[0]].format(index))
    source = f"lambda task, a0, a1, a2, a3, a4, a5: function(task, {', '.join(arguments)})"
    entry: Entry = eval(source, {"function": function, "UserAddress": UserAddress})
    return entry


def _annotation_names(function: Callable[..., Any]) -> dict[str, Any]:
    # Task is imported for type checking only in the call modules; its annotation must resolve all the same.
    known = dict(vars(types))
    for annotation in function.__annotations__.values():
        if isinstance(annotation, str) and annotation.isidentifier() and annotation not in function.__globals__ and annotation not in known:
            known[annotation] = object
    return known
