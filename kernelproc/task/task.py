"""One guest thread: Linux's ``task_struct``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EFAULT, ENAMETOOLONG
from polynix.kernelproc.uapi.limits import PATH_MAX

if TYPE_CHECKING:
    from polynix.addrspace._restricted import Slot
    from polynix.addrspace._usercopy import UserMap
    from polynix.addrspace.memory_manager import MemoryManager
    from polynix.kernelproc.engine import Routine
    from polynix.kernelproc.ipc_sysv.semaphores import UndoList
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.signals.signal_state import SignalState
    from polynix.kernelproc.task.credentials import Credentials
    from polynix.kernelproc.task.fd_table import FdTable
    from polynix.kernelproc.task.thread_group import ThreadGroup
    from polynix.kernelproc.vfs.fs_context import FsContext
    from polynix.kernelproc.wait_queue import WaitQueue


class Task:
    """A guest thread. State it shares by CLONE_* flags are objects (``mm``, ``files``, ``fs``, ``signals.actions``); the rest is its own.

    ``attention`` is set when the way back to guest code must look further than the return value: a pending signal, a stop, an exit, a restart.
    ``slot`` is None while the task has no host thread (a zombie, or the parent of a vfork while the child borrows it).
    """

    __slots__ = (
        "affinity",
        "alternate_stack",
        "attention",
        "borrowed_from",
        "clear_child_tid",
        "comm",
        "counters",
        "credentials",
        "current_syscall",
        "death_signal",
        "exit_code",
        "exit_pending",
        "exited",
        "expando",
        "files",
        "fs",
        "fs_base",
        "group",
        "gs_base",
        "in_syscall",
        "kernel",
        "kicked",
        "lent_slot",
        "mm",
        "nice",
        "no_new_privs",
        "personality",
        "restart",
        "rewound",
        "robust_list",
        "routine",
        "saved_frame",
        "seccomp",
        "semaphore_undo",
        "signals",
        "slot",
        "start_time_ns",
        "stopped",
        "tid",
        "timer_slack_ns",
        "user",
        "uts",
        "vfork_done",
    )  # fmt: skip

    def __init__(
        self,
        kernel: Kernel,
        tid: int,
        group: ThreadGroup,
        *,
        mm: MemoryManager,
        files: FdTable,
        fs: FsContext,
        signals: SignalState,
        credentials: Credentials,
        comm: bytes,
    ) -> None:
        self.kernel = kernel
        self.tid = tid
        self.group = group
        self.mm = mm
        self.user: UserMap = mm.user  # usercopy of the current address space
        self.files = files
        self.fs = fs
        self.signals = signals
        self.credentials = credentials
        self.comm = comm  # at most 15 bytes
        self.slot: Slot | None = None
        self.routine: Routine | None = None  # the system call in progress, when it blocks
        self.in_syscall = False  # between entry and the return value's store
        self.current_syscall: tuple[int, ...] = ()  # number and six raw arguments of the last system call
        self.rewound: tuple[int, int] | None = None  # instruction and stack pointer behind the system call that is to be done again
        self.restart: Any = None  # restart block of nanosleep, poll, futex: an async callable
        self.attention = False
        self.kicked = False  # a kick is on its way
        self.stopped = False  # held by a job control stop
        self.exited = False
        self.exit_code: int = 0  # wait status
        self.exit_pending: int | None = None  # must end on its way back (another thread's exec), with this wait status
        self.borrowed_from: Task | None = None  # vfork child: whose host thread this is
        self.saved_frame: bytes = b""  # that task's registers meanwhile
        self.lent_slot: Slot | None = None  # the borrowed slot, between leaving the address space and giving it back
        self.vfork_done: WaitQueue | None = None  # notified when a vfork child lets its parent go
        self.uts = kernel.uts
        self.nice = 0
        self.affinity: frozenset[int] = kernel.cpus
        self.clear_child_tid: UserAddress | None = None
        self.robust_list: tuple[int, int] = (0, 0)  # head address, length
        self.alternate_stack: tuple[int, int, int] = (0, 2, 0)  # ss_sp, ss_flags (SS_DISABLE), ss_size
        self.fs_base = 0
        self.gs_base = 0
        self.death_signal = 0
        self.no_new_privs = False
        self.seccomp: Any = None
        self.semaphore_undo: UndoList | None = None  # made by the first semop with SEM_UNDO, or to be shared
        self.personality = 0
        self.timer_slack_ns = 50_000
        self.start_time_ns = kernel.clock.boottime_ns()
        self.expando: dict[type, Any] = {}
        self.counters: memoryview[int] = kernel.counters_of(self)  # words of region_layout.TaskWord

    @property
    def pid(self) -> int:
        """The process id (tgid)."""
        return self.group.pid

    def interrupt_pending(self) -> bool:
        """Whether an interruptible wait must end at once: an unblocked signal, a kill, a group stop."""
        return self.attention and self.signals.should_interrupt(self)

    def read_path(self, address: UserAddress) -> bytes:
        """A path name argument. Errors: EFAULT, ENAMETOOLONG (no NUL within PATH_MAX)."""
        path = self.user.read_cstring(address, PATH_MAX)
        if path is None:
            raise Errno(ENAMETOOLONG)
        return path

    def copy_in(self, address: UserAddress, length: int) -> bytes:
        """``length`` bytes of guest memory. Errors: EFAULT."""
        return self.user.copy_in(address, length)

    def copy_out(self, address: UserAddress, data: bytes | bytearray | memoryview) -> None:
        """Store all of ``data`` in guest memory. Errors: EFAULT (what could be stored was)."""
        if self.user.copy_out(address, data) != len(data):
            raise Errno(EFAULT)

    def __repr__(self) -> str:
        return f"<Task {self.tid} of {self.group.pid} {self.comm!r}>"
