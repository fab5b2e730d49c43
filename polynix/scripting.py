"""Scripting the kernel: what a kernel module file, a hook or a test imports.

* Rules for hooks, for ``Container(hooks=[…])`` and ``polynix.run(…, hooks=[…])``: ``fail``, ``delay``, ``shorten``, ``kill``, ``observe``, ``call``, and the
  ready-made ``disk_full``, ``slow_disk``, ``memory_pressure``, ``kill_at``; ``each_call`` makes schedules of one. ``Container`` has a method for each.
* ``SystemCall``: what a hook's function gets.
* ``device`` and ``filesystem``: decorators that bring a class of yours into the kernel, by ``Container.add`` or ``polynix run --feature FILE.py``; ``hook``
  does so for a function in such a file.
* ``FileOps``, ``ScriptFileSystem``, ``FileSystemOps``, ``Errno``: what such classes build on.

Functions and classes given to a container run in its kernel process with your rights: they are trusted, guests are not.
"""

from __future__ import annotations

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.hook_rule import (
    HookRule,
    RuleError,
    call,
    delay,
    disk_full,
    each_call,
    fail,
    kill,
    kill_at,
    memory_pressure,
    observe,
    parse_rule,
    shorten,
    slow_disk,
)
from polynix.kernelproc.hooks.call import SystemCall
from polynix.kernelproc.scripting.device import device
from polynix.kernelproc.scripting.filesystem import ScriptFileSystem, filesystem
from polynix.kernelproc.scripting.hook import hook
from polynix.kernelproc.vfs.ops import FileOps, FileSystemOps, FsNodeOps

__all__ = [
    "Errno",
    "FileOps",
    "FileSystemOps",
    "FsNodeOps",
    "HookRule",
    "RuleError",
    "ScriptFileSystem",
    "SystemCall",
    "call",
    "delay",
    "device",
    "disk_full",
    "each_call",
    "fail",
    "filesystem",
    "hook",
    "kill",
    "kill_at",
    "memory_pressure",
    "observe",
    "parse_rule",
    "shorten",
    "slow_disk",
]
