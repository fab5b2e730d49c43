"""Pseudo-terminals: a terminal whose wire is another file, the master side (Linux's drivers/tty/pty.c; man 7 pty).

Opening /dev/ptmx makes a pair and its node /dev/pts/N. What programs write to the terminal is read from the master, what is
written to the master is the terminal's input. The pair ends with the master: the terminal hangs up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.devices.terminal_modes import TerminalModes
from polynix.kernelproc.devices.tty import Terminal
from polynix.kernelproc.devices.tty_file import TerminalFile, open_terminal, terminal_ioctl
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.registry import makedev, minor
from polynix.kernelproc.uapi.errno import EAGAIN, EINVAL, EIO, ENOSPC, ENXIO, EPERM
from polynix.kernelproc.uapi.fcntl import O_ACCMODE, O_CLOEXEC, O_NOCTTY, O_NONBLOCK
from polynix.kernelproc.uapi.ioctls import (
    FIONREAD,
    TCFLSH,
    TCIFLUSH,
    TCIOFLUSH,
    TCOFLUSH,
    TCSBRK,
    TCSBRKP,
    TIOCGPKT,
    TIOCGPTLCK,
    TIOCGPTN,
    TIOCGPTPEER,
    TIOCOUTQ,
    TIOCPKT,
    TIOCPKT_DOSTOP,
    TIOCPKT_NOSTOP,
    TIOCPKT_START,
    TIOCPKT_STOP,
    TIOCSCTTY,
    TIOCSIG,
    TIOCSPTLCK,
    TIOCSTI,
)
from polynix.kernelproc.uapi.major import UNIX98_PTY_SLAVE_MAJOR
from polynix.kernelproc.uapi.poll import POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDNORM, POLLWRNORM
from polynix.kernelproc.uapi.signal import SIGINT, SIGQUIT, SIGTSTP
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.ops import FileOps, Result
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.fs_node import FsNode

OUTPUT_LIMIT = 65536  # bytes that wait for the master's reader
PTMX_MAJOR, PTMX_MINOR, TTY_MINOR = 5, 2, 0
_OPPOSITES = {
    TIOCPKT_STOP: TIOCPKT_START,
    TIOCPKT_START: TIOCPKT_STOP,
    TIOCPKT_DOSTOP: TIOCPKT_NOSTOP,
    TIOCPKT_NOSTOP: TIOCPKT_DOSTOP,
}


class PtyTable:
    """The pairs of one container, by number; kept in ``kernel.expando``."""

    LIMIT: ClassVar[int] = 4096  # /proc/sys/kernel/pty/max

    def __init__(self) -> None:
        self.terminals: dict[int, Terminal] = {}
        self.nodes: dict[int, FsNode] = {}  # of devpts, made with the pair
        self.owners: dict[int, tuple[int, int]] = {}  # uid and gid of who made it
        self.version = 0

    def allocate(self) -> int:
        """The lowest free number. Errors: ENOSPC."""
        for index in range(self.LIMIT):
            if index not in self.terminals:
                return index
        raise Errno(ENOSPC)

    def add(self, index: int, terminal: Terminal, owner: tuple[int, int]) -> None:
        self.terminals[index] = terminal
        self.owners[index] = owner
        self.version += 1

    def remove(self, index: int) -> None:
        self.terminals.pop(index, None)
        self.nodes.pop(index, None)
        self.owners.pop(index, None)
        self.version += 1


class PtyMaster(FileOps):
    """The open master side, which is also the terminal's driver."""

    seekable: ClassVar[bool] = False
    always_ready: ClassVar[bool] = False
    whole_writes: ClassVar[bool] = True

    def __init__(self, kernel: Kernel, index: int) -> None:
        self.kernel = kernel
        self.index = index
        self.terminal = Terminal(kernel, b"pts/%d" % index, makedev(UNIX98_PTY_SLAVE_MAJOR + (index >> 8), index & 0xFF), TerminalModes())
        self.terminal.driver = _MasterDriver(self)
        self.locked = True
        self.packet_mode = False
        self.packet_status = 0
        self.queue = WaitQueue()
        self._output = bytearray()
        self._opened = False  # the terminal side was open once

    # -- the driver of the terminal -------------------------------------------------------------------------------------------

    def write_wire(self, data: bytes) -> None:
        self._output += data
        self.queue.notify(POLLIN | POLLRDNORM)

    def room(self) -> int:
        return OUTPUT_LIMIT - len(self._output)

    def pending(self) -> int:
        return len(self._output)

    def flush_wire(self) -> None:
        self._output.clear()

    def input_taken(self) -> None:
        self.queue.notify(POLLOUT | POLLWRNORM)

    def status(self, bits: int) -> None:
        if self.packet_mode:
            self.packet_status = self.packet_status & ~_OPPOSITES.get(bits, 0) | bits
            self.queue.notify(POLLPRI | POLLIN | POLLRDNORM)

    def opened(self) -> None:
        """The terminal side is open."""
        self._opened = True

    def closed(self) -> None:
        """The terminal side was closed for the last time."""
        self.queue.notify(POLLHUP | POLLIN | POLLRDNORM)

    @property
    def hung_up(self) -> bool:
        return self._opened and not self.terminal.opens

    # -- the master's file operations -----------------------------------------------------------------------------------------

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        if not out.remaining:
            return 0
        if self.packet_mode and self.packet_status:
            status, self.packet_status = self.packet_status, 0
            return out.write(bytes((status,)))
        if not self._output:
            return -EIO if self.hung_up else -EAGAIN
        header = 0
        if self.packet_mode:
            header = out.write(b"\0")
            if not out.remaining:
                return header
        data = bytes(self._output[: out.remaining])
        done = out.write(data)
        del self._output[:done]
        self.terminal.output_possible()
        return header + done

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        if self.hung_up:
            return -EIO
        total = 0
        while data.remaining:
            room = self.terminal.input_room()
            if not room:
                return total or -EAGAIN
            chunk = data.read(min(room, data.remaining))
            total += len(chunk)
            self.terminal.input(chunk)
        return total

    def query_events(self, file: FileObject) -> int:
        events = 0
        if self._output:
            events |= POLLIN | POLLRDNORM
        if self.packet_mode and self.packet_status:
            events |= POLLPRI | POLLIN | POLLRDNORM
        if self.hung_up:
            events |= POLLHUP
        if self.terminal.input_room():
            events |= POLLOUT | POLLWRNORM
        return events

    def wait_queue(self, file: FileObject) -> WaitQueue | None:
        return self.queue

    def close(self, file: FileObject) -> None:
        terminal = self.terminal
        terminal.other_closed = True
        self._output.clear()
        self.kernel.expando.get(PtyTable).remove(self.index)
        terminal.hang_up()

    def ioctl(self, file: FileObject, task: Task, request: int, argument: int) -> Result:
        address = UserAddress(argument)
        terminal = self.terminal
        if request == TIOCGPTN:
            task.copy_out(address, self.index.to_bytes(4, "little"))
        elif request == TIOCSPTLCK:
            self.locked = any(task.copy_in(address, 4))
        elif request == TIOCGPTLCK:
            task.copy_out(address, int(self.locked).to_bytes(4, "little"))
        elif request == TIOCPKT:
            self.packet_mode = any(task.copy_in(address, 4))
            self.packet_status = 0
        elif request == TIOCGPKT:
            task.copy_out(address, int(self.packet_mode).to_bytes(4, "little"))
        elif request == TIOCSIG:
            if argument not in (SIGINT, SIGQUIT, SIGTSTP):
                return -EINVAL
            terminal.signal(argument)
        elif request == TIOCGPTPEER:
            return self._open_peer(task, argument)
        elif request == FIONREAD:
            task.copy_out(address, len(self._output).to_bytes(4, "little"))
        elif request == TIOCOUTQ:
            task.copy_out(address, bytes(4))
        elif request == TCFLSH:
            if argument not in (TCIFLUSH, TCOFLUSH, TCIOFLUSH):
                return -EINVAL
            if argument != TCOFLUSH:
                self._output.clear()
                terminal.output_possible()
            if argument != TCIFLUSH:
                terminal.flush_input()
        elif request in (TCSBRK, TCSBRKP, TIOCSTI):
            return 0
        elif request == TIOCSCTTY:
            return -EPERM
        else:
            return terminal_ioctl(terminal, self, file, task, request, argument)
        return 0

    def _open_peer(self, task: Task, flags: int) -> int:
        """TIOCGPTPEER: the terminal side, wherever devpts is mounted."""
        from polynix.kernelproc.fs.devpts import peer_place

        place = peer_place(self.kernel, self.index)
        ops = open_slave(self.terminal, task, flags | O_NOCTTY, check_lock=False)
        file = FileObject(ops, place.node, flags & (O_ACCMODE | O_NONBLOCK), place)
        return task.files.install(file, bool(flags & O_CLOEXEC))


def _nothing() -> None:
    """A reader may wait for the master's writer for ever."""


def _no() -> bool:
    return False


class _MasterDriver:
    """The driver's face of a master: FileOps.write and the driver's write are different verbs."""

    drains = False

    def __init__(self, master: PtyMaster) -> None:
        self.write = master.write_wire
        self.room = master.room
        self.pending = master.pending
        self.flush = master.flush_wire
        self.input_taken = master.input_taken
        self.status = master.status
        self.input_wanted = self.input_polled = _nothing
        self.suspend = _no
        self.master = master


class PtyTerminalFile(TerminalFile):
    """The terminal side of a pair: its last close is seen by the master."""

    def __init__(self, terminal: Terminal, master: PtyMaster) -> None:
        super().__init__(terminal)
        self.master = master
        master.opened()

    def close(self, file: FileObject) -> None:
        super().close(file)
        if not self.terminal.opens:
            self.master.closed()


def open_master(kernel: Kernel, task: Task) -> PtyMaster:
    """Open /dev/ptmx: a new pair, locked until TIOCSPTLCK. Errors: ENOSPC."""
    table = kernel.expando.get(PtyTable)
    index = table.allocate()
    master = PtyMaster(kernel, index)
    credentials = task.credentials
    table.add(index, master.terminal, (credentials.fsuid, credentials.fsgid))
    return master


def open_slave(terminal: Terminal, task: Task, flags: int, *, check_lock: bool = True) -> TerminalFile:
    """Open /dev/pts/N. Errors: EIO while it is locked or after its master is gone."""
    driver = terminal.driver
    if not isinstance(driver, _MasterDriver):
        return open_terminal(terminal, task, flags)
    if check_lock and driver.master.locked:
        raise Errno(EIO)

    def make(opened: Terminal) -> TerminalFile:
        return PtyTerminalFile(opened, driver.master)

    return open_terminal(terminal, task, flags, make)


def register(kernel: Kernel) -> None:
    """/dev/ptmx, /dev/tty and the terminals of /dev/pts."""

    def open_ptmx(task: Task, _dev: int, _node: FsNode, _flags: int) -> FileOps:
        return open_master(kernel, task)

    def open_pts(base: int) -> object:
        def open_index(task: Task, dev: int, _node: FsNode, flags: int) -> FileOps:
            terminal = kernel.expando.get(PtyTable).terminals.get(base + minor(dev))
            if terminal is None:
                raise Errno(EIO)
            return open_slave(terminal, task, flags)

        return open_index

    def open_controlling(task: Task, _dev: int, _node: FsNode, flags: int) -> FileOps:
        terminal = task.group.process_group.session.terminal
        if terminal is None:
            raise Errno(ENXIO)
        return open_slave(terminal, task, flags | O_NOCTTY, check_lock=False)

    kernel.devices.register(PTMX_MAJOR, PTMX_MINOR, open_ptmx, name=b"ptmx", mode=0o666)
    kernel.devices.register(PTMX_MAJOR, TTY_MINOR, open_controlling, name=b"tty", mode=0o666)
    for index in range(PtyTable.LIMIT >> 8):
        kernel.devices.register(UNIX98_PTY_SLAVE_MAJOR + index, None, open_pts(index << 8))  # type: ignore[arg-type]
