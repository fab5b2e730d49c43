"""The console: a terminal whose wire is the caller's own terminal, which the caller keeps in raw mode meanwhile.

It takes number 0 of /dev/pts, so that programs see an ordinary terminal, and is /dev/console.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING

from polynix.kernelproc.devices.pty import PTMX_MAJOR, PtyTable
from polynix.kernelproc.devices.terminal_modes import TerminalModes
from polynix.kernelproc.devices.tty import Terminal
from polynix.kernelproc.devices.tty_file import TerminalFile, open_terminal
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.registry import makedev
from polynix.kernelproc.signals.signal_state import bit
from polynix.kernelproc.uapi.errno import ENODEV
from polynix.kernelproc.uapi.fcntl import O_NOCTTY, O_RDWR
from polynix.kernelproc.uapi.major import UNIX98_PTY_SLAVE_MAJOR
from polynix.kernelproc.uapi.signal import SIG_DFL, SIGTSTP
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup
    from polynix.kernelproc.vfs.fs_node import FsNode
    from polynix.kernelproc.vfs.ops import FileOps

log = logging.getLogger(__name__)

CONSOLE_MINOR = 1
OUTPUT_LIMIT = 65536
_CHUNK = 4096
_DRAIN_NS = 2_000_000_000


class Console:
    """The driver of the container's console, over a non-blocking description of our own of the caller's terminal.

    ``on_demand``: the caller keeps the terminal, which is not its standard input, as it is until somebody looks for input.
    """

    drains = True

    def __init__(self, kernel: Kernel, fd: int, index: int, *, on_demand: bool) -> None:
        self.kernel = kernel
        self.on_demand = on_demand
        self.fd = fd
        self.index = index
        self.terminal = Terminal(kernel, b"pts/%d" % index, makedev(UNIX98_PTY_SLAVE_MAJOR, index), TerminalModes.console())
        self.terminal.driver = self
        self._backlog = bytearray()
        self._watching = 0
        self._attached = False
        self._token: int | None = None
        self._drained = WaitQueue()
        self.on_input_wanted: Callable[[], None] = _nothing  # somebody reads while the caller is in the background
        self.on_suspend: Callable[[], None] = _nothing

    # -- the driver -----------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if not self._backlog:
            data = data[self._send(data) :]
        if data:
            self._backlog += data
            self._watch()

    def room(self) -> int:
        return OUTPUT_LIMIT - len(self._backlog)

    def pending(self) -> int:
        return len(self._backlog)

    def flush(self) -> None:
        self._backlog.clear()
        self._watch()

    def input_taken(self) -> None:
        self._watch()

    def status(self, bits: int) -> None:
        """Nobody reads this terminal in packet mode."""

    def input_wanted(self) -> None:
        if not self._attached and self.fd >= 0:
            self.on_input_wanted()

    def input_polled(self) -> None:
        if self.on_demand:
            self.input_wanted()

    def suspend(self) -> bool:
        """The container's first job has no shell inside that could continue it: the caller's shell can, if the program wants to
        stop.
        """
        foreground = self.terminal.foreground
        if foreground is None or not any(_stops(group) for group in foreground.members):
            return False
        self.on_suspend()
        return True

    # -- the host's terminal --------------------------------------------------------------------------------------------------

    def attach_input(self) -> None:
        """The caller has put its terminal in raw mode: start reading."""
        self._attached = True
        self._watch()

    def detach_input(self) -> None:
        """The caller has its terminal back for some time."""
        self._attached = False
        self._watch()

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            log.debug("the caller's terminal is gone: %s", error)
            self._lost()
            return len(data)

    def _watch(self) -> None:
        """Watch for what is wanted now: input while there is room for it, room for output while some is held up."""
        if self.fd < 0:
            return
        wanted = (select.EPOLLIN if self._attached and self.terminal.input_room() else 0) | (select.EPOLLOUT if self._backlog else 0)
        if wanted == self._watching:
            return
        if self._token is not None:
            self.kernel.engine.unwatch(self.fd, self._token)
            self._token = None
        self._watching = wanted
        if wanted:
            self._token = self.kernel.engine.watch(self.fd, wanted, self._ready)

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT and self._backlog:
            del self._backlog[: self._send(self._backlog)]
            if not self._backlog:
                self._drained.notify()
            self.terminal.output_possible()
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and self._attached:
            try:
                data = os.read(self.fd, min(_CHUNK, max(1, self.terminal.input_room())))
            except BlockingIOError:
                data = b""
            except OSError:
                self._lost()
                return
            if data:
                self.terminal.input(data)
            elif events & (select.EPOLLHUP | select.EPOLLERR):
                self._lost()
                return
        self._watch()

    def _lost(self) -> None:
        """The caller's terminal hung up."""
        if self._token is not None:
            self.kernel.engine.unwatch(self.fd, self._token)
            self._token = None
        self._attached = False
        self._backlog.clear()
        self._drained.notify()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.terminal.hang_up()

    def close(self) -> None:
        """The program that it was made for has ended: the terminal hangs up for those who still have it open, and its number is free again."""
        self._lost()
        system = self.kernel.expando.get(SystemConsole)
        if system.terminal is self.terminal:
            system.terminal = None
        self.kernel.expando.get(PtyTable).remove(self.index)

    async def drain(self) -> None:
        """Wait until what was written has reached the caller's terminal, but not for ever."""
        deadline = self.kernel.clock.monotonic_ns() + _DRAIN_NS
        while self._backlog and await self._drained.wait(deadline_ns=deadline, interruptible=False):
            pass


def _nothing() -> None:
    """Until the controller says what to do."""


def _stops(group: ThreadGroup) -> bool:
    """Whether SIGTSTP would have its default action."""
    state = group.leader.signals
    return not group.exited and state.actions.get(SIGTSTP).handler == SIG_DFL and not state.mask & bit(SIGTSTP)


class SystemConsole:
    """Which terminal /dev/console is; kept in ``kernel.expando``."""

    def __init__(self) -> None:
        self.terminal: Terminal | None = None


def make_console(kernel: Kernel, fd: int, *, on_demand: bool = False) -> Console:
    """A console of the terminal behind ``fd``, which is taken over. ``on_demand``: see :class:`Console`."""
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        os.close(fd)
    except OSError:
        own = fd  # not ours to reopen (su, sudo): the caller's description it is, and it may block for a moment
    table = kernel.expando.get(PtyTable)
    index = table.allocate()
    console = Console(kernel, own, index, on_demand=on_demand)
    table.add(index, console.terminal, (0, 5))
    system = kernel.expando.get(SystemConsole)
    if system.terminal is None:  # later ones are of programs that are started beside
        system.terminal = console.terminal
    return console


def open_console(console: Console) -> FileObject:
    """An open description of it, as of standard input."""
    from polynix.kernelproc.fs.devpts import peer_place

    place = peer_place(console.kernel, console.index)
    return FileObject(TerminalFile(console.terminal), place.node, O_RDWR, place)


def register(kernel: Kernel) -> None:
    """/dev/console: the caller's terminal, where there is one."""

    def open_device(task: Task, _dev: int, _node: FsNode, flags: int) -> FileOps:
        terminal = kernel.expando.get(SystemConsole).terminal
        if terminal is None:
            raise Errno(ENODEV)
        return open_terminal(terminal, task, flags | O_NOCTTY)

    kernel.devices.register(PTMX_MAJOR, CONSOLE_MINOR, open_device, name=b"console", mode=0o600)
