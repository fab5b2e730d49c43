"""What a container is started with: plain data, made by the runner, read by :mod:`polynix.kernelproc.main`; nothing heavy is
imported here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from polynix.ipc.light_dataclass import dataclass


@dataclass(frozen=True)
class Bind:
    """A host file or directory shown in the container: ``--bind SRC:DST[:ro]``."""

    source: str
    target: str
    read_only: bool = False


@dataclass
class ContainerOptions:
    """Options of one container. Paths and names may hold undecodable bytes as surrogate escapes."""

    rootfs: str = "/"
    binds: Sequence[Bind] = ()
    tmpfs: Sequence[str] = ()  # PATH[:OPTIONS] of empty file systems in memory
    hostname: str = ""  # empty: the host's
    features: Sequence[str] = ()  # NAME[:ARGS]
    strace: str | None = None  # filter in strace's notation; None: off
    strace_file: str | None = None  # path on the host; None: standard error
    strace_keep: int = 0  # keep so many last lines in the kernel instead, for the owner to ask for
    log_level: str = "warning"
    memory_limit: int = 0  # bytes; 0: a share of the host's memory
    pids_limit: int = 0  # 0: none
    suspend_after: float = 0.0  # seconds without work; 0: never
    builtin_init: bool = False  # pid 1 is the kernel's own reaper; the container outlives its programs

    def to_json(self) -> str:
        return json.dumps({**vars(self), "binds": [vars(bind) for bind in self.binds]})

    @classmethod
    def from_json(cls, text: str) -> ContainerOptions:
        fields = json.loads(text)
        fields["binds"] = [Bind(**bind) for bind in fields["binds"]]
        return cls(**fields)
