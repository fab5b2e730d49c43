"""The Kernel object of one container: registries, clock, engine, tables; what Linux keeps in globals."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from polynix.ipc.signals import Signals
from polynix.kernelproc.expando import Expando
from polynix.kernelproc.power.hold import Holds
from polynix.kernelproc.power.manager import PowerManager
from polynix.kernelproc.registry import DeviceRegistry, FsRegistry
from polynix.kernelproc.task.pid_table import PidTable
from polynix.kernelproc.uapi.signal import SIGKILL

if TYPE_CHECKING:
    from polynix.ipc.objects import Channel
    from polynix.kernelproc.clock import Clock
    from polynix.kernelproc.engine import Engine
    from polynix.kernelproc.kthreads import KernelThreads
    from polynix.kernelproc.observer import SyscallObserver
    from polynix.kernelproc.shared_region import SharedRegion
    from polynix.kernelproc.syscall_loop import SyscallLoop
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup
    from polynix.kernelproc.vfs.namespace import Namespace

log = logging.getLogger(__name__)

PATIENCE_NS = 60_000_000_000  # for one answer that the loop must have


class UtsNamespace:
    """Host and domain name."""

    __slots__ = ("domainname", "nodename")

    def __init__(self, nodename: bytes = b"polynix", domainname: bytes = b"(none)") -> None:
        self.nodename = nodename
        self.domainname = domainname

    def copy(self) -> UtsNamespace:
        return UtsNamespace(self.nodename, self.domainname)


def _wait_in_place(channel: Channel) -> None:
    """For a channel whose messages another thread brings."""
    channel.wait(Signals.CHANNEL_READABLE | Signals.CHANNEL_PEER_CLOSED, time.monotonic_ns() + PATIENCE_NS)


class Kernel:
    """One container's kernel. It runs no guest code itself; see :mod:`polynix.kernelproc.main` for how it is built."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.engine = engine
        self.clock = clock
        self.monitor = engine.monitor
        self.pids = PidTable()
        self.devices = DeviceRegistry()
        self.filesystems = FsRegistry()
        self.expando = Expando()
        self.features: dict[str, str] = {}
        self.uts = UtsNamespace()
        self.kthreads: KernelThreads = None  # type: ignore[assignment]  # made at boot
        self.namespace: Namespace = None  # type: ignore[assignment]  # made at boot
        self.init: ThreadGroup | None = None  # pid 1
        self.boot_time_ns = clock.boottime_ns()
        self.pids_limit = 0  # 0: none
        self.memory_limit = 0  # bytes; 0: none
        self.syscall_observers: list[SyscallObserver] = []
        self.task_observers: list[SyscallObserver] = []  # those who don't want to hear of each call
        self.memory: Any = None  # addrspace.region.RegionFactory: makes restricted regions and accounts them
        self.stubs: Any = None  # addrspace.stub_pool.StubPool: address spaces ready for use
        self.loop: SyscallLoop = None  # type: ignore[assignment]  # made at boot
        self.holds = Holds(self)
        self.power = PowerManager(self)
        self.cpus = frozenset(os.sched_getaffinity(0))
        self.region: SharedRegion | None = None
        self.wait_for_message: Callable[[Channel], None] = _wait_in_place  # block the loop until the channel may have something to read
        self.on_init_exit: list[Callable[[ThreadGroup], None]] = []

    @property
    def observers(self) -> tuple[SyscallObserver, ...]:
        """Everybody who hears of tasks and signals."""
        return (*self.syscall_observers, *self.task_observers)

    def current_task(self) -> Task:
        """The task whose system call is being served (Linux's ``current``)."""
        routine = self.engine.current
        if routine is not None and routine.owner is not None:
            return routine.owner  # type: ignore[no-any-return]
        assert self.loop.current is not None
        return self.loop.current

    def counters_of(self, task: Task) -> memoryview[int]:
        """Where ``task``'s counters live: its row of the shared region, or private words without one."""
        if self.region is not None:
            return self.region.add_task(task)
        return memoryview(bytearray(128)).cast("Q")

    def init_exited(self, group: ThreadGroup) -> None:
        """pid 1 is gone: everything else dies, and the kernel with it."""
        from polynix.kernelproc.task.exit import begin_group_exit

        for other in list(self.pids.thread_groups.values()):
            if other is not group and not other.exited and not other.is_kernel:
                begin_group_exit(other, SIGKILL)
        self.power.wake_up()  # nobody is left to do that
        for callback in self.on_init_exit:
            callback(group)
