"""What /proc says of all open files together: /proc/locks and /proc/net/unix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from polynix.kernelproc.net.socket_file import SocketOps
from polynix.kernelproc.net.unix_socket import ESTABLISHED, LISTENING, UnixSocket
from polynix.kernelproc.registry import major, minor
from polynix.kernelproc.uapi.fcntl import F_WRLCK
from polynix.kernelproc.vfs.locks import OFD_PID, OFFSET_MAX, FileLocks, RecordLock

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_node import FsNode

_ACCEPTS = 0x10000  # __SO_ACCEPTCON
_SS_UNCONNECTED, _SS_CONNECTED = 1, 3


def open_files(kernel: Kernel) -> Iterator[FileObject]:
    """Every description that some descriptor refers to, once."""
    tables = {id(task.files): task.files for task in kernel.pids.tasks.values() if not task.exited}
    files = {file.id: file for table in tables.values() for file in table.files.values()}
    yield from files.values()


def file_locks(task: Task) -> bytes:
    """/proc/locks (man 5 proc_locks): the locks that are held, each followed by those that wait for it."""
    lines: list[str] = []
    number = 0
    for node in {file.node: None for file in open_files(task.kernel)}:
        locks: FileLocks | None = node.expando.get(FileLocks) if node.expando is not None else None
        if locks is None:
            continue
        waiting = list(locks.waiting)
        for held in locks.held():
            number += 1
            lines.append(f"{number}: {_describe(held, node)}")
            for waiter in [each for each in waiting if each.excludes(held)]:
                waiting.remove(waiter)
                lines.append(f"{number}: -> {_describe(waiter, node)}")
    return "".join(lines).encode()


def _describe(lock: RecordLock, node: FsNode) -> str:
    form = "FLOCK " if lock.flock else "OFDLCK" if lock.pid == OFD_PID else "POSIX "
    kind = "WRITE" if lock.kind == F_WRLCK else "READ"
    device = node.fs.dev
    end = "EOF" if lock.end == OFFSET_MAX else str(lock.end)
    return f"{form} ADVISORY  {kind} {lock.pid} {major(device):02x}:{minor(device):02x}:{node.ino} {lock.start} {end}\n"


def unix_sockets(task: Task) -> bytes:
    """/proc/net/unix."""
    lines = [b"Num       RefCount Protocol Flags    Type St Inode Path\n"]
    for file in open_files(task.kernel):
        socket = file.ops.socket if isinstance(file.ops, SocketOps) else None
        if not isinstance(socket, UnixSocket):
            continue
        flags = _ACCEPTS if socket.state == LISTENING else 0
        state = _SS_CONNECTED if socket.state == ESTABLISHED else _SS_UNCONNECTED
        references = 3 if socket.peer is not None else 2
        address = socket.address
        path = b" " + (address.replace(b"\0", b"@") if address[:1] == b"\0" else address.rstrip(b"\0")) if address else b""
        lines.append(b"%016x: %08X %08X %08X %04X %02X %5d%s\n" % (0, references, 0, flags, socket.type, state, file.node.ino, path))
    return b"".join(lines)
