"""Numbers that a privileged guest sets in /proc/sys (sysctl) and that the rest of the kernel obeys.

What is set and not obeyed is counted by ``track_stub``: nothing is silently accepted. Sources: Documentation/admin-guide/sysctl, man 5 proc.
"""

from __future__ import annotations

from typing import Final

from polynix.ipc.light_dataclass import dataclass
from polynix.kernelproc.track_stub import track_stub


@dataclass(frozen=True)
class Tunable:
    """One file: its first value, its bounds, and which values the kernel follows (None: all)."""

    default: int
    low: int = 0
    high: int = (1 << 63) - 1
    obeyed: frozenset[int] | None = frozenset()


def _obeyed(default: int, low: int = 0, high: int = (1 << 63) - 1) -> Tunable:
    return Tunable(default, low, high, None)


_LONG_MAX: Final = (1 << 63) - 1
_UNLIMITED_SHARED_MEMORY: Final = 18446744073692774399

TUNABLES: Final[dict[str, Tunable]] = {
    "fs.aio-max-nr": _obeyed(65536),
    "fs.file-max": Tunable(_LONG_MAX),
    "fs.mqueue.msg_default": _obeyed(10, 1, 65536),
    "fs.mqueue.msg_max": _obeyed(10, 1, 65536),
    "fs.mqueue.msgsize_default": _obeyed(8192, 128, 16 << 20),
    "fs.mqueue.msgsize_max": _obeyed(8192, 128, 16 << 20),
    "fs.mqueue.queues_max": _obeyed(256, 0, 0x7FFFFFFF),
    "fs.nr_open": Tunable(1048576),
    "fs.pipe-max-size": _obeyed(1048576, 4096, 1 << 31),
    "fs.protected_fifos": _obeyed(0, 0, 2),
    "fs.protected_hardlinks": _obeyed(0, 0, 1),
    "fs.protected_regular": _obeyed(0, 0, 2),
    "fs.protected_symlinks": _obeyed(0, 0, 1),
    "fs.suid_dumpable": Tunable(0, 0, 2),
    "kernel.core_uses_pid": _obeyed(0),  # no core is ever written
    "kernel.msgmax": _obeyed(8192, 0, 0x7FFFFFFF),
    "kernel.msgmnb": _obeyed(16384, 0, 0x7FFFFFFF),
    "kernel.msgmni": _obeyed(32000, 0, 32768),
    "kernel.overflowgid": Tunable(65534),
    "kernel.overflowuid": Tunable(65534),
    "kernel.panic": _obeyed(0),  # nor does it panic
    "kernel.perf_event_paranoid": _obeyed(4),  # there are no events
    "kernel.sched_child_runs_first": Tunable(0),
    "kernel.shmall": _obeyed(_UNLIMITED_SHARED_MEMORY, 0, 1 << 64),
    "kernel.shmmax": _obeyed(_UNLIMITED_SHARED_MEMORY, 0, 1 << 64),
    "kernel.shmmni": _obeyed(4096),
    "kernel.threads-max": _obeyed(127000, 1),
    "kernel.yama.ptrace_scope": Tunable(0, 0, 3),
    "net.core.somaxconn": Tunable(4096),
    "vm.drop_caches": _obeyed(0),  # a hint, and there is nothing to drop
    "vm.nr_hugepages": Tunable(0),
    "vm.overcommit_kbytes": Tunable(0),
    "vm.overcommit_memory": Tunable(1, 0, 2, frozenset((0, 1))),  # the heuristics of 0 refuse only what could never be had
    "vm.overcommit_ratio": Tunable(50),
    "vm.swappiness": _obeyed(60, 0, 200),  # there is no swap
}


class Tunables:
    """The values of one kernel, in its expando."""

    def __init__(self) -> None:
        self._values: dict[str, int] = {}

    def get(self, name: str) -> int:
        """The value of ``name``, as in ``fs.pipe-max-size``."""
        value = self._values.get(name)
        return TUNABLES[name].default if value is None else value

    def set(self, name: str, value: int) -> None:
        """Errors: ValueError outside its bounds."""
        tunable = TUNABLES[name]
        if not tunable.low <= value <= tunable.high:
            raise ValueError(f"{name} can't be {value}")
        if tunable.obeyed is not None and value != tunable.default and value not in tunable.obeyed:
            track_stub(f"sysctl {name}", value)
        self._values[name] = value
