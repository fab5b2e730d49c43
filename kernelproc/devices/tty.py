"""Terminals: a line discipline between a driver and open files, and the session it controls (Linux's ``struct tty_struct``).

A driver is what the terminal's wire leads to: the master side of a pty, or the caller's terminal for the console. Input comes by
:meth:`Terminal.input`, output goes by ``driver.write``. Job control follows man 4 tty_ioctl: background readers get SIGTTIN,
background writers SIGTTOU when TOSTOP is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from polynix.kernelproc.devices.line_discipline import LineDiscipline
from polynix.kernelproc.devices.terminal_modes import TerminalModes
from polynix.kernelproc.errno import ERESTARTSYS, Errno
from polynix.kernelproc.signals.send import send_to_group, send_to_process_group
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.signals.signal_state import bit
from polynix.kernelproc.uapi.capability import CAP_SYS_ADMIN
from polynix.kernelproc.uapi.errno import EIO, EPERM
from polynix.kernelproc.uapi.ioctls import TIOCPKT_DOSTOP, TIOCPKT_FLUSHREAD, TIOCPKT_FLUSHWRITE, TIOCPKT_IOCTL, TIOCPKT_NOSTOP, TIOCPKT_START, TIOCPKT_STOP
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from polynix.kernelproc.uapi.signal import SIG_IGN, SIGCONT, SIGHUP, SIGTSTP, SIGTTIN, SIGWINCH
from polynix.kernelproc.uapi.termios import EXTPROC, IXON, VSTART, VSTOP
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.devices.tty_file import TerminalFile
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.process_group import ProcessGroup, Session
    from polynix.kernelproc.task.task import Task

PENDING_LIMIT = 65536  # input bytes that wait for the line discipline, beyond its own buffer
_READABLE = POLLIN | POLLRDNORM
_WRITABLE = POLLOUT | POLLWRNORM


class TerminalDriver(Protocol):
    """Where a terminal's output goes."""

    def write(self, data: bytes) -> None:
        """Take ``data``; the terminal asked :meth:`room` before, and goes beyond it only for echo."""

    def room(self) -> int:
        """How many bytes :meth:`write` takes without holding them up."""

    def pending(self) -> int:
        """TIOCOUTQ: bytes that the other side has not taken yet."""

    def flush(self) -> None:
        """Drop them."""

    def input_taken(self) -> None:
        """There is room for input again."""

    def input_wanted(self) -> None:
        """A reader found nothing."""

    def input_polled(self) -> None:
        """Somebody asked whether there is input, and there was none."""

    def suspend(self) -> bool:
        """The SUSP character came for a foreground group that nobody can continue; True if the driver knows what to do about it."""

    def status(self, bits: int) -> None:
        """Something that a pty master in packet mode wants to know: TIOCPKT_* bits."""


class Terminal:
    """One terminal. ``session`` is the session it controls and ``foreground`` that session's foreground process group."""

    def __init__(self, kernel: Kernel, name: bytes, device: int, modes: TerminalModes) -> None:
        self.kernel = kernel
        self.name = name  # below /dev
        self.device = device  # dev_t, as /proc/PID/stat shows it
        self.modes = modes
        self.discipline = LineDiscipline(self, modes)
        self.driver: TerminalDriver = None  # type: ignore[assignment]  # set by the driver
        self.window = (0, 0, 0, 0)  # rows, columns, x and y pixels
        self.session: Session | None = None
        self.foreground: ProcessGroup | None = None
        self.files: set[TerminalFile] = set()  # those that are not hung up
        self.opens: int = 0  # all
        self.queue = WaitQueue()
        self.stopped = False
        self.exclusive = False
        self.other_closed = False  # the master side is gone
        self._pending = bytearray()

    # -- the wire -------------------------------------------------------------------------------------------------------------

    def input(self, data: bytes) -> None:
        """Bytes came in from the wire; the driver asked :meth:`input_room` before."""
        self._pending += data
        self._feed()

    def input_room(self) -> int:
        """How many bytes may come in."""
        return max(0, PENDING_LIMIT - len(self._pending))

    def _feed(self) -> None:
        """Give the line discipline what it has room for, and wake readers."""
        while self._pending:
            data = bytes(self._pending)
            self._pending.clear()  # a signal character may flush the input meanwhile
            taken = self.discipline.receive(data)
            self._pending[:0] = data[taken:]
            if not taken or taken == len(data):
                break
        if self.discipline.available():
            self.queue.notify(_READABLE)

    def took_input(self) -> None:
        """A reader made room."""
        if self._pending:
            self._feed()
        self.driver.input_taken()

    def write(self, data: bytes) -> int:
        """Output of a program; returns how many bytes were taken, 0 when there is no room or output is stopped."""
        if self.stopped:
            return 0
        room = self.driver.room()
        if room <= 0:
            return 0
        taken = data[:room]
        self.driver.write(self.discipline.process_output(taken))
        return len(taken)

    def output_possible(self) -> None:
        """The driver has room again."""
        self.queue.notify(_WRITABLE)

    # -- what the line discipline asks (LineHost) -----------------------------------------------------------------------------

    def echo(self, data: bytes) -> None:
        self.driver.write(data)

    def signal(self, number: int) -> None:
        foreground = self.foreground
        if foreground is None:
            return
        if number == SIGTSTP and foreground.is_orphaned() and self.driver.suspend():
            return
        send_to_process_group(foreground, SigInfo(number))

    def stop_output(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.driver.status(TIOCPKT_STOP)

    def start_output(self) -> None:
        if self.stopped:
            self.stopped = False
            self.driver.status(TIOCPKT_START)
            self.queue.notify(_WRITABLE)

    def flush_output(self) -> None:
        self.driver.flush()
        self.driver.status(TIOCPKT_FLUSHWRITE)

    def flush_input(self) -> None:
        """TCIFLUSH."""
        self.discipline.flush_input()
        self._pending.clear()
        self.driver.status(TIOCPKT_FLUSHREAD)
        self.driver.input_taken()

    # -- modes and size -------------------------------------------------------------------------------------------------------

    def set_modes(self, modes: TerminalModes) -> None:
        """TCSETS."""
        old = self.modes.copy()
        for name in TerminalModes.__slots__:
            setattr(self.modes, name, getattr(modes, name))
        self.discipline.modes_changed(old.lflag)
        if self.stopped and old.iflag & IXON and not modes.iflag & IXON:
            self.start_output()
        self._report_flow_control(old)
        if (old.lflag ^ modes.lflag) & EXTPROC or modes.lflag & EXTPROC:
            self.driver.status(TIOCPKT_IOCTL)
        if self.discipline.available():
            self.queue.notify(_READABLE)

    def _report_flow_control(self, old: TerminalModes) -> None:
        def stoppable(modes: TerminalModes) -> bool:
            return bool(modes.iflag & IXON) and modes.cc[VSTOP] == 0x13 and modes.cc[VSTART] == 0x11

        if stoppable(old) != stoppable(self.modes):
            self.driver.status(TIOCPKT_DOSTOP if stoppable(self.modes) else TIOCPKT_NOSTOP)

    def set_window(self, rows: int, columns: int, x_pixels: int = 0, y_pixels: int = 0) -> None:
        """TIOCSWINSZ: SIGWINCH for the foreground when it changes."""
        window = (rows, columns, x_pixels, y_pixels)
        if window != self.window:
            self.window = window
            self.signal(SIGWINCH)

    # -- the session ----------------------------------------------------------------------------------------------------------

    def set_controlling(self, session: Session, foreground: ProcessGroup) -> None:
        """Make this the controlling terminal of ``session``."""
        if self.session is not None:
            self.session.terminal = None
        self.session = session
        self.foreground = foreground
        session.terminal = self

    def acquire(self, task: Task, *, steal: bool, readable: bool) -> None:
        """TIOCSCTTY. Errors: EPERM."""
        group = task.group
        session = group.process_group.session
        is_leader = session.sid == group.pid
        if is_leader and self.session is session:
            return
        if not is_leader or session.terminal is not None:
            raise Errno(EPERM)
        admin = task.credentials.has_capability(CAP_SYS_ADMIN)
        if self.session is not None and not (steal and admin):
            raise Errno(EPERM)
        if not readable and not admin:
            raise Errno(EPERM)
        self.set_controlling(session, group.process_group)

    def release_session(self, *, on_exit: bool = False) -> None:
        """The session loses its terminal: its leader gave it up (TIOCNOTTY) or exited (Linux's disassociate_ctty)."""
        session, foreground = self.session, self.foreground
        self.session = self.foreground = None
        if session is not None:
            session.terminal = None
        if foreground is not None:
            send_to_process_group(foreground, SigInfo(SIGHUP))
            if not on_exit:
                send_to_process_group(foreground, SigInfo(SIGCONT))

    def session_leader_exited(self, session: Session) -> None:
        """The leader of the session it controls is gone.

        Unlike a serial line, a pty does not hang up for the others that have it open.
        """
        if session is self.session:
            self.release_session(on_exit=True)

    def check_change(self, task: Task, number: int) -> None:
        """Job control: may ``task`` read (SIGTTIN) or change or write (SIGTTOU)? Errors: ERESTARTSYS with the signal sent, EIO."""
        group = task.group.process_group
        if self.session is None or group.session is not self.session or self.foreground is None or self.foreground is group:
            return
        state = task.signals
        if state.mask & bit(number) or state.actions.get(number).handler == SIG_IGN:
            if number == SIGTTIN:
                raise Errno(EIO)
            return
        if group.is_orphaned():
            raise Errno(EIO)
        send_to_process_group(group, SigInfo(number))
        raise Errno(ERESTARTSYS)

    def hang_up(self) -> None:
        """vhangup(2), or the line went dead: open files see the end of file, the session gets SIGHUP."""
        for file in list(self.files):
            file.hung_up = True
        self.files.clear()
        session, foreground = self.session, self.foreground
        if session is not None:
            self.session = self.foreground = None
            session.terminal = None
            leader = self.kernel.pids.thread_groups.get(session.sid)
            if leader is not None:
                send_to_group(leader, SigInfo(SIGHUP))
                send_to_group(leader, SigInfo(SIGCONT))
            if foreground is not None:
                send_to_process_group(foreground, SigInfo(SIGHUP))
        self.discipline.flush_input()
        self._pending.clear()
        self.stopped = False
        self.queue.notify(_READABLE | _WRITABLE | POLLHUP | POLLERR)

    def __repr__(self) -> str:
        return f"<Terminal {self.name.decode()}>"
