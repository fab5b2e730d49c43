"""A program on a pseudo-terminal of its own whose other side is a pair of the host's descriptors: what SpawnConsole runs."""

from __future__ import annotations

import fcntl
import os
from functools import partial
from typing import TYPE_CHECKING

from polynix.kernelproc.devices.host_file import open_host_descriptor
from polynix.kernelproc.devices.pty import PtyMaster, open_master, open_slave
from polynix.kernelproc.fs.devpts import peer_place
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.task.exec import start_program
from polynix.kernelproc.task.fd_table import FdTable
from polynix.kernelproc.task.kernel_tasks import KTHREADD_PID
from polynix.kernelproc.task.resource_limits import ResourceLimits
from polynix.kernelproc.uapi.fcntl import O_ACCMODE, O_APPEND, O_NOCTTY, O_RDWR
from polynix.kernelproc.uapi.poll import POLLIN, POLLOUT
from polynix.kernelproc.vfs.buffers import BytesInputBuffer, BytesOutputBuffer
from polynix.kernelproc.vfs.file_object import FileObject, blocking_operation
from polynix.kernelproc.vfs.fs_context import FsContext

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polynix.kernelproc.kernel import Kernel

_CHUNK = 8192
_DRAIN_NS = 2_000_000_000  # how long the other side may take to read what the program said last


async def run_on_console(
    kernel: Kernel, descriptors: tuple[int, int], path: bytes, argv: Sequence[bytes], env: Sequence[bytes], window: tuple[int, int, int, int]
) -> int:
    """Run a program as root, a child of init, and copy between its terminal and ``descriptors`` (in, out), which are taken over; returns its wait status.
    Errors: Errno as of execve.
    """
    wire = [_open(kernel, fd).retain() for fd in descriptors]
    task = kernel.pids.tasks[KTHREADD_PID]  # in whose name the kernel opens the pair
    master = open_master(kernel, task)
    routines = []
    try:
        master.locked = False
        master.terminal.set_window(*window)
        place = peer_place(kernel, master.index)
        terminal = FileObject(open_slave(master.terminal, task, O_RDWR | O_NOCTTY), place.node, O_RDWR, place)
        limits = ResourceLimits()
        files = FdTable(limits)
        for fd in range(3):
            files.install_at(fd, terminal, False)
        fs = FsContext(kernel.namespace)
        started = await start_program(kernel, [path, *argv[1:]], env, fs, Credentials.root(), files, limits, parent=kernel.init)
        group = started.group
        master.terminal.set_controlling(group.process_group.session, group.process_group)
        side = FileObject(master, place.node, O_RDWR, place)
        routines = [
            kernel.engine.spawn(_copy(wire[0], side), f"console {group.pid} in"),
            kernel.engine.spawn(_copy(side, wire[1]), f"console {group.pid} out"),
        ]
        while not group.exited:
            await group.exit_wait.wait(POLLIN)
        deadline = kernel.clock.monotonic_ns() + _DRAIN_NS
        while master.pending() and kernel.clock.monotonic_ns() < deadline:
            await master.queue.wait(deadline_ns=min(deadline, kernel.clock.monotonic_ns() + _DRAIN_NS // 200))
        return group.exit_code or 0
    finally:
        for routine in routines:
            kernel.engine.kill(routine)
        _close(master)
        for file in wire:
            file.release()


def _open(kernel: Kernel, fd: int) -> FileObject:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & (O_ACCMODE | O_APPEND)
    return open_host_descriptor(kernel, fd, flags, os.fstat(fd))


def _close(master: PtyMaster) -> None:
    """The other side is gone: the terminal hangs up."""
    master.close(None)  # type: ignore[arg-type]  # its description is nobody's


async def _copy(source: FileObject, target: FileObject) -> None:
    """Move bytes until either side ends."""
    while True:
        chunk = BytesOutputBuffer(_CHUNK)
        offset = source.offset if source.ops.seekable else 0
        got = await blocking_operation(source, POLLIN, partial(source.ops.read, source, offset, chunk), nonblocking=False)
        if got <= 0:
            return
        if source.ops.seekable:
            source.offset = offset + got
        rest = BytesInputBuffer(chunk.data)
        while rest.remaining:
            place = target.offset if target.ops.seekable else 0
            put = await blocking_operation(target, POLLOUT, partial(target.ops.write, target, place, rest), nonblocking=False)
            if put <= 0:
                return
            if target.ops.seekable:
                target.offset = place + put
