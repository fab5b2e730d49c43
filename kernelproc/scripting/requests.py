"""The owner's requests to script a running kernel: one control message ``script`` with a method and its JSON parameters, one answer ``scripted``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.hook_rule import HookRule, RuleError, unpack
from polynix.kernelproc.hooks.table import HookTable
from polynix.kernelproc.scripting.install import install

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel

Fields = dict[str, Any]


def answer(kernel: Kernel, message: Fields) -> Fields:
    """Do what ``message`` asks; the fields of the answer: ``result``, or ``error`` as one line."""
    try:
        return {"result": METHODS[message["method"]](kernel, message["parameters"])}
    except RuleError as error:
        return {"error": str(error)}
    except Errno as error:
        return {"error": os.strerror(error.errno)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def add_hook(kernel: Kernel, fields: Fields) -> None:
    """Put a rule in force under the owner's number for it."""
    kernel.expando.get(HookTable).add(kernel, fields["hook"], HookRule.from_fields(fields["rule"]))


def remove_hook(kernel: Kernel, fields: Fields) -> None:
    kernel.expando.get(HookTable).remove(fields["hook"])


def hook_state(kernel: Kernel, fields: Fields) -> Fields:
    """The counts of a hook, and with ``events`` what it noted since the last time."""
    hook = kernel.expando.get(HookTable).hooks[fields["hook"]]
    state: Fields = {"matched": hook.matched, "hits": hook.hits, "errors": hook.errors, "dropped": hook.dropped}
    if fields.get("events"):
        state["events"] = list(hook.events)
        hook.events.clear()
    return state


def install_class(kernel: Kernel, fields: Fields) -> None:
    """Bring in a device or file system class that the owner packed."""
    install(kernel, unpack(fields["thing"]))


def process_tree(kernel: Kernel, fields: Fields) -> list[Fields]:
    """Every process, parents before children: what it is, and what its threads do."""
    rows = []
    for group in kernel.pids.thread_groups.values():
        if group.pid == 2:  # kthreadd
            continue
        threads = [
            {"tid": task.tid, "comm": os.fsdecode(task.comm), "doing": task.routine.name if task.routine is not None else "running"}
            for task in group.tasks.values()
        ]
        parent = group.parent.pid if group.parent is not None else 0
        rows.append({"pid": group.pid, "ppid": parent, "comm": os.fsdecode(group.name), "exited": group.exited, "threads": threads})
    return rows


def last_calls(kernel: Kernel, fields: Fields) -> list[str]:
    """The last lines of strace, with ``strace_keep``."""
    from polynix.kernelproc.strace.last_lines import LastLines

    return kernel.expando.get(LastLines).last()


METHODS = {
    "add_hook": add_hook,
    "remove_hook": remove_hook,
    "hook_state": hook_state,
    "install": install_class,
    "process_tree": process_tree,
    "last_calls": last_calls,
}
