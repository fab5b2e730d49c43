"""Tasks without restricted mode: a real kernel, real usercopy over a memory object, real descriptors, and calls by number.

``call`` enters through the table as the system call loop does: raw registers in, a result or -errno out. Guest memory is one readable and writable
area at ``BASE``.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import polynix.kernelproc.syscalls.all  # noqa: F401
from event_world import Running, new_kernel
from polynix.addrspace._usercopy import Fault, MemoryObject, UserAddress, UserMap
from polynix.addrspace.region import RegionFactory
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.tmpfs import new_tmpfs
from polynix.kernelproc.kernel import Kernel
from polynix.kernelproc.signals.signal_state import ProcessSignals, SignalActions, SignalState
from polynix.kernelproc.syscalls.table import entries
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.task.fd_table import FdTable
from polynix.kernelproc.task.process_group import ProcessGroup, Session
from polynix.kernelproc.task.resource_limits import ResourceLimits
from polynix.kernelproc.task.task import Task
from polynix.kernelproc.task.thread_group import ThreadGroup
from polynix.kernelproc.uapi.errno import EFAULT
from polynix.kernelproc.uapi.mman import PROT_READ, PROT_WRITE
from polynix.kernelproc.uapi.unistd import SYSCALLS
from polynix.kernelproc.vfs.fs_context import FsContext
from polynix.kernelproc.vfs.namespace import Namespace

BASE = 0x10000
SIZE = 1 << 22


class TaskWorld:
    """One process to start with (``task``), and as many threads and processes as a test makes."""

    def __init__(self) -> None:
        self.kernel: Kernel = new_kernel()
        if self.kernel.memory is None:
            self.kernel.memory = RegionFactory(force_memfd=True)
        self.mm = self.new_mm()
        self.namespace = Namespace(new_tmpfs(self.kernel, mode=0o755))
        pgid = self.kernel.pids.allocate()
        self.process_group = ProcessGroup(pgid, Session(pgid))
        self.task = self.process()
        self.room = BASE + 0x1000

    def new_mm(self) -> Any:
        fd = os.memfd_create("guest")
        os.ftruncate(fd, SIZE)
        user = UserMap()
        user.map(BASE, BASE + SIZE, PROT_READ | PROT_WRITE, MemoryObject(fd), 0)
        return SimpleNamespace(user=user, users=1, auxv=bytes(32), resident_bytes=lambda: 4096)

    def process(self, like: Task | None = None, *, mm: Any = None, files: FdTable | None = None) -> Task:
        """A new process, with its own descriptors unless given."""
        rlimits = ResourceLimits()
        group = ThreadGroup(self.kernel, self.kernel.pids.allocate(), self.process_group, ProcessSignals(), rlimits)
        self.process_group.members[group] = None
        self.kernel.pids.thread_groups[group.pid] = group
        if files is None:
            files = like.files.fork(rlimits) if like is not None else FdTable(rlimits)
        return self._enter(group, group.pid, mm or self.mm, files)

    def thread(self, of: Task) -> Task:
        """Another thread of a process."""
        return self._enter(of.group, self.kernel.pids.allocate(), of.mm, of.files.share())

    def _enter(self, group: ThreadGroup, tid: int, mm: Any, files: FdTable) -> Task:
        task = Task(
            self.kernel,
            tid,
            group,
            mm=mm,
            files=files,
            fs=FsContext(self.namespace),
            signals=SignalState(SignalActions(), mask=(1 << 64) - 1),  # so that what a call sends stays pending
            credentials=Credentials.root(),
            comm=b"test",
        )
        if group.leader is None:
            group.leader = task
        group.tasks[tid] = task
        self.kernel.pids.tasks[tid] = task
        return task

    # -- calls ------------------------------------------------------------------------------------------------------------

    def start(self, name: str, *arguments: int, task: Task | None = None) -> Running | int:
        """Enter a call: its result, or the routine that it blocks in."""
        caller = task or self.task
        entry = entries[SYSCALLS[name]]
        assert entry is not None, name
        registers = [value & 0xFFFFFFFFFFFFFFFF for value in arguments]
        try:
            result = entry(caller, *registers, *[0] * (6 - len(registers)))
        except Errno as error:
            return -error.errno
        except Fault:
            return -EFAULT
        if isinstance(result, int):
            return result
        running = Running(self.kernel, result, caller)
        caller.routine = running.routine
        return running

    def finish(self, running: Running | int, timeout: float = 5.0) -> int:
        if isinstance(running, int):
            return running
        try:
            return int(running.result(timeout))
        except Errno as error:
            return -error.errno
        except Fault:
            return -EFAULT

    def call(self, name: str, *arguments: int, task: Task | None = None) -> int:
        """Enter a call and wait for its result."""
        return self.finish(self.start(name, *arguments, task=task))

    # -- guest memory -----------------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> int:
        """Store bytes somewhere in guest memory; returns their address."""
        address = self.room
        self.room += (len(data) + 15) & ~15
        assert self.mm.user.copy_out(UserAddress(address), data) == len(data)
        return address

    def get(self, address: int, length: int) -> bytes:
        return self.mm.user.copy_in(UserAddress(address), length)

    def word(self, address: int) -> int:
        return self.mm.user.load_u32(UserAddress(address))

    def set_word(self, address: int, value: int) -> None:
        self.mm.user.store_u32(UserAddress(address), value)

    def open(self, path: bytes, flags: int, mode: int = 0o644, task: Task | None = None) -> int:
        return self.call("open", self.put(path + b"\0"), flags, mode, task=task)
