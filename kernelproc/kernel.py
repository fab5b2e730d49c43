"""The Kernel object of one container: registries, clock, engine, tables; what Linux keeps in globals."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from polynix.kernelproc.expando import Expando
from polynix.kernelproc.registry import DeviceRegistry, FsRegistry
from polynix.kernelproc.task.pid_table import PidTable

if TYPE_CHECKING:
    from polynix.kernelproc.clock import Clock
    from polynix.kernelproc.engine import Engine
    from polynix.kernelproc.kthreads import KernelThreads
    from polynix.kernelproc.task.thread_group import ThreadGroup
    from polynix.kernelproc.vfs.namespace import Namespace

log = logging.getLogger(__name__)


class UtsNamespace:
    """Host and domain name."""

    __slots__ = ("domainname", "nodename")

    def __init__(self, nodename: bytes = b"polynix", domainname: bytes = b"(none)") -> None:
        self.nodename = nodename
        self.domainname = domainname

    def copy(self) -> UtsNamespace:
        return UtsNamespace(self.nodename, self.domainname)


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
        self.syscall_observers: list[Any] = []  # strace, profile, counters: see syscall_loop
        self.memory: Any = None  # addrspace.region.RegionFactory: makes restricted regions and accounts them
        self.stubs: Any = None  # addrspace.stub_pool.StubPool

