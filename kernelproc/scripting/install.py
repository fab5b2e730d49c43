"""Bringing what ``@device`` or ``@filesystem`` marked into a running kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polynix.kernelproc.hook_rule import RuleError

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel


def install(kernel: Kernel, thing: Any) -> None:
    """Errors: RuleError for what was not marked; Errno EEXIST."""
    part = getattr(thing, "polynix_part", None)
    if part is None:
        raise RuleError(f"{thing!r} is neither a @device nor a @filesystem")
    part.install(kernel, thing)
