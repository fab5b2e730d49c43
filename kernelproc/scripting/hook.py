"""Hooks in a kernel module file: ``@hook("openat", path="/etc/*")`` on a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from polynix.kernelproc import hook_rule
from polynix.kernelproc.hooks.table import HookTable
from polynix.kernelproc.registry import modules

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel

Function = TypeVar("Function", bound=Callable[..., Any])


def hook(calls: str | Iterable[str], **conditions: Any) -> Callable[[Function], Function]:
    """Have the function called at each such call, as ``Container.hook`` does. Errors: RuleError."""

    def mark(function: Function) -> Function:
        rule = hook_rule.call(calls, function, **conditions)

        def enable(kernel: Kernel, _arguments: str) -> None:
            table = kernel.expando.get(HookTable)
            table.add(kernel, -1 - len(table.hooks), rule)  # the owner's numbers are positive

        modules.module(f"hook {function.__name__}")(enable)
        return function

    return mark
