"""``--feature kill:KEY=VALUE[,...]``: kill restricted processes, the kernel process or its ancestors at chosen points, to see who bears it.

Keys: ``seed``; ``rate``, the chance of a kill each time a point is passed; ``victim``, ``stub`` (that of the guest process at the point, its
child's or its successor's; never that of pid 1), ``any`` (any stub, pid 1's too), ``kernel``, ``launcher``, ``runner`` or ``caller``; ``points``, names
joined by ``+`` (all by default); ``skip``, how many passes to let by first; ``limit``, the most kills; ``log``, a host file that gets a line for each. The
points are wrapped around the kernel's own functions when the feature is asked for, so that a kernel without it does not know of them.
"""

from __future__ import annotations

import functools
import os
import random
import select
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from polynix.addrspace.memory_manager import MemoryManager
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.observer import SyscallObserver
from polynix.kernelproc.registry import modules
from polynix.kernelproc.uapi.errno import EINVAL

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

POINTS = ("batch", "call", "exec", "exit", "fork", "page_fault", "signal", "thread", "timer", "wait")
ANCESTORS = ("kernel", "launcher", "runner", "caller")  # each is the child of the next
VICTIMS = ("stub", "any", *ANCESTORS)
DEATH_MS = 50  # half of the victims are seen dead before the kernel goes on
TIMER_NS = 3_000_000


def command_line_of(pid: int) -> bytes:
    """All of them are forks of one command line."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


def parent_of(pid: int) -> int:
    """The host's parent of a process."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[1])


class Killer(SyscallObserver):
    """Decides at each point, by its own random generator, who dies."""

    def __init__(self, kernel: Kernel, settings: dict[str, str]) -> None:
        self.kernel = kernel
        self.random = random.Random(settings.get("seed", "0"))
        self.victim = settings.get("victim", "stub")
        self.rate = float(settings.get("rate", "1"))
        self.points = settings["points"].split("+") if "points" in settings else list(POINTS)
        self.skip = int(settings.get("skip", "0"))
        self.limit = int(settings.get("limit", "1000000"))
        self.log = os.open(settings["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if "log" in settings else -1
        self.kills = 0
        if self.victim not in VICTIMS or not set(self.points) <= set(POINTS):
            raise Errno(EINVAL)
        self.note("kernel", os.getpid())

    def note(self, what: str, pid: int) -> None:
        if self.log >= 0:
            os.write(self.log, f"{what} {pid}\n".encode())

    def reach(self, point: str, *candidates: MemoryManager | None) -> None:
        """A point is passed; ``candidates`` are the address spaces at hand."""
        if self.kills >= self.limit or self.random.random() >= self.rate:
            return
        if self.skip > 0:
            self.skip -= 1
            return
        if self.victim in ANCESTORS:
            self.kills += 1
            pid = os.getpid()
            for _ in range(ANCESTORS.index(self.victim)):
                pid = parent_of(pid)
            if command_line_of(pid) != command_line_of(os.getpid()):
                return  # one of them is gone, and a stranger has taken its children over
            self.note(f"{self.victim}@{point}", pid)
            os.kill(pid, signal.SIGKILL)
            return
        init = self.kernel.init
        protected = init.leader.mm if init is not None and self.victim == "stub" else None
        if init is None:
            return
        spaces = [mm for mm in candidates if mm is not None and not mm.dead and mm is not protected and mm.stub is not None]
        if spaces:
            self.kill(point, self.random.choice(spaces))

    def kill(self, point: str, mm: MemoryManager) -> None:
        self.kills += 1
        self.note(f"stub@{point}", mm.stub.pid)
        mm.stub.kill()
        if self.random.random() < 0.5:
            poller = select.poll()
            poller.register(mm.stub.pidfd, select.POLLIN)
            poller.poll(DEATH_MS)

    def around(self, point: str, owner: Any, name: str, spaces: Callable[..., tuple[MemoryManager | None, ...]]) -> None:
        """Pass ``point`` before and after each call of ``owner.name``."""
        if point not in self.points:
            return
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            candidates = spaces(*arguments)
            self.reach(point, *candidates)
            result = function(*arguments, **keywords)
            self.reach(point, *candidates)
            return result

        setattr(owner, name, wrapped)

    def tick(self) -> None:
        """At any time: some address space, or a spare stub."""
        alive = {id(task.mm): task.mm for task in self.kernel.pids.tasks.values()}
        candidates = [*alive.values(), *self.kernel.stubs.spares]
        if candidates:
            self.reach("timer", self.random.choice(candidates))
        self.kernel.engine.call_later(int(self.random.random() * TIMER_NS), self.tick)

    # An observer of system calls.

    def enter(self, task: Task, number: int, arguments: tuple[int, ...]) -> None:
        self.reach("call", task.mm)

    def leave(self, task: Task, number: int, arguments: tuple[int, ...], result: int | None) -> None:
        self.reach("call", task.mm)


def _of_task(task: Task, *_rest: Any) -> tuple[MemoryManager | None, ...]:
    return (task.mm,)


@modules.module("kill")
def initialise(kernel: Kernel, arguments: str) -> None:
    """Errors: EINVAL for what is no victim or point."""
    from polynix.kernelproc import syscall_loop
    from polynix.kernelproc.syscalls import process
    from polynix.kernelproc.task import exec as task_exec
    from polynix.kernelproc.task import exit as task_exit
    from polynix.kernelproc.task import fork as task_fork

    try:
        killer = Killer(kernel, dict(part.split("=", 1) for part in arguments.split(",") if part))
    except ValueError:
        raise Errno(EINVAL) from None
    loop = kernel.loop
    killer.around("batch", loop, "resume", lambda task: (task.mm,) if task.mm.calls else ())
    killer.around("signal", syscall_loop, "prepare_return", _of_task)
    killer.around("page_fault", loop, "handle_page_fault", _of_task)
    killer.around("fork", MemoryManager, "copy_to", lambda parent, child: (parent, child))
    killer.around("exec", task_exec, "load_elf", lambda task, mm, *_rest: (task.mm, mm))
    killer.around("exec", task_exit, "leave_other_threads", _of_task)
    killer.around("exit", task_exit, "leave_address_space", _of_task)
    killer.around("exit", process, "begin_group_exit", lambda group, _status: (group.leader.mm,))
    killer.around("thread", task_fork, "_start_thread", _of_task)
    killer.around("wait", process, "wait_for_child", _of_task)
    if "call" in killer.points:
        kernel.syscall_observers.append(killer)
    if "timer" in killer.points:
        kernel.engine.call_soon(killer.tick)
