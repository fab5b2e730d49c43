"""An open terminal: reads, writes, poll and the ioctls of man 4 tty_ioctl."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.capability import CAP_SYS_ADMIN
from polynix.kernelproc.uapi.errno import EAGAIN, EBUSY, EINVAL, EIO, ENOTTY, EPERM, ESRCH
from polynix.kernelproc.uapi.fcntl import O_ACCMODE, O_NOCTTY, O_NONBLOCK, O_WRONLY
from polynix.kernelproc.uapi.ioctls import (
    FIONREAD,
    TCFLSH,
    TCGETA,
    TCGETS,
    TCGETS2,
    TCGETX,
    TCIFLUSH,
    TCIOFF,
    TCIOFLUSH,
    TCION,
    TCOFLUSH,
    TCOOFF,
    TCOON,
    TCSBRK,
    TCSBRKP,
    TCSETA,
    TCSETAF,
    TCSETAW,
    TCSETS,
    TCSETS2,
    TCSETSF,
    TCSETSF2,
    TCSETSW,
    TCSETSW2,
    TCXONC,
    TIOCEXCL,
    TIOCGDEV,
    TIOCGETD,
    TIOCGEXCL,
    TIOCGPGRP,
    TIOCGSID,
    TIOCGSOFTCAR,
    TIOCGWINSZ,
    TIOCNOTTY,
    TIOCNXCL,
    TIOCOUTQ,
    TIOCSCTTY,
    TIOCSETD,
    TIOCSPGRP,
    TIOCSSOFTCAR,
    TIOCSTI,
    TIOCSWINSZ,
    TIOCVHANGUP,
)
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from polynix.kernelproc.uapi.signal import SIGTTIN, SIGTTOU
from polynix.kernelproc.uapi.termios import CLOCAL, TOSTOP, VSTART, VSTOP
from polynix.kernelproc.vfs.ops import FileOps, Result

if TYPE_CHECKING:
    from polynix.kernelproc.devices.tty import Terminal
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.wait_queue import WaitQueue

_HUNG_UP_EVENTS = POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDNORM | POLLWRNORM
_READ_EVENTS = POLLIN | POLLRDNORM | POLLHUP | POLLERR
_TENTH_NS = 100_000_000
_WRITE_CHUNK = 4096

_SET_MODES = {  # request: (size of the argument, wait for the output, flush the input)
    TCSETS: (structs.termios.SIZE, False, False),
    TCSETSW: (structs.termios.SIZE, True, False),
    TCSETSF: (structs.termios.SIZE, True, True),
    TCSETS2: (structs.termios2.SIZE, False, False),
    TCSETSW2: (structs.termios2.SIZE, True, False),
    TCSETSF2: (structs.termios2.SIZE, True, True),
    TCSETA: (structs.termio.SIZE, False, False),
    TCSETAW: (structs.termio.SIZE, True, False),
    TCSETAF: (structs.termio.SIZE, True, True),
}
_CHANGES = frozenset({*_SET_MODES, TIOCSPGRP, TCSBRK, TCSBRKP, TCXONC, TCFLSH, TIOCSETD})  # a background task gets SIGTTOU


class TerminalFile(FileOps):
    """One open description of a terminal (the slave side of a pty, or the console)."""

    seekable: ClassVar[bool] = False
    always_ready: ClassVar[bool] = False
    whole_writes: ClassVar[bool] = True

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.hung_up = False
        terminal.files.add(self)
        terminal.opens += 1

    @property
    def device(self) -> int:
        return self.terminal.device

    # -- reading and writing --------------------------------------------------------------------------------------------------

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        terminal = self.terminal
        if self.hung_up:
            return 0
        terminal.check_change(terminal.kernel.current_task(), SIGTTIN)
        discipline = terminal.discipline
        if not out.remaining:
            return 0
        if discipline.canonical or (discipline.minimum == 1 and not discipline.time):
            if not discipline.available():
                terminal.driver.input_wanted()
                return -EIO if terminal.other_closed else -EAGAIN
            return self._transfer(out)[0]
        return self._read_raw(file, out)

    def _transfer(self, out: OutputBuffer) -> tuple[int, bool]:
        """Move what is available to the reader: (bytes, whether a line ended)."""
        data, ended = self.terminal.discipline.read(out.remaining)
        done = out.write(data) if data else 0
        self.terminal.took_input()
        if done < len(data):
            ended = True
        return done, ended

    def _read_raw(self, file: FileObject, out: OutputBuffer) -> Result:
        """VMIN and VTIME (man 3 termios): what is there already answers most reads, the rest waits in a coroutine."""
        discipline = self.terminal.discipline
        minimum, tenths = discipline.minimum, discipline.time
        total = 0
        if discipline.available():
            total, _ = self._transfer(out)
            if total >= max(1, minimum) or not out.remaining:
                return total
        elif self.terminal.other_closed:
            return -EIO
        elif not minimum and not tenths:
            return 0
        self.terminal.driver.input_wanted()
        if file.flags & O_NONBLOCK:
            return total or -EAGAIN
        return self._read_timed(out, total, minimum, tenths)

    async def _read_timed(self, out: OutputBuffer, total: int, minimum: int, tenths: int) -> int:
        terminal = self.terminal
        clock = terminal.kernel.clock
        between = tenths * _TENTH_NS
        # With VMIN the time runs between bytes, without it for the whole read.
        deadline = clock.monotonic_ns() + between if tenths and (total or not minimum) else None
        while True:
            if not terminal.discipline.available():
                if self.hung_up:
                    return total
                if terminal.other_closed:
                    return total or -EIO
                try:
                    if not await terminal.queue.wait(_READ_EVENTS, deadline):
                        return total
                except Interrupted:
                    if total:
                        return total
                    raise
                continue
            done, ended = self._transfer(out)
            total += done
            if ended or total >= max(1, minimum) or not out.remaining:
                return total
            if tenths:
                deadline = clock.monotonic_ns() + between

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        terminal = self.terminal
        if self.hung_up or terminal.other_closed:
            return -EIO
        if terminal.modes.lflag & TOSTOP:
            terminal.check_change(terminal.kernel.current_task(), SIGTTOU)
        total = 0
        while data.remaining:
            done = terminal.write(data.peek(min(data.remaining, _WRITE_CHUNK)))
            if not done:
                return total or -EAGAIN
            data.skip(done)
            total += done
        return total

    def query_events(self, file: FileObject) -> int:
        terminal = self.terminal
        if self.hung_up:
            return _HUNG_UP_EVENTS
        events = 0
        if terminal.discipline.available(for_poll=True):
            events |= POLLIN | POLLRDNORM
        else:
            terminal.driver.input_polled()
        if terminal.other_closed:
            events |= POLLHUP | POLLIN | POLLRDNORM
        if not terminal.stopped and terminal.driver.room() > 0:
            events |= POLLOUT | POLLWRNORM
        return events

    def wait_queue(self, file: FileObject) -> WaitQueue | None:
        return self.terminal.queue

    def close(self, file: FileObject) -> None:
        self.terminal.files.discard(self)
        self.terminal.opens -= 1

    # -- ioctl ----------------------------------------------------------------------------------------------------------------

    def ioctl(self, file: FileObject, task: Task, request: int, argument: int) -> Result:
        if self.hung_up:
            return -ENOTTY if request == TIOCSPGRP else -EIO
        terminal = self.terminal
        if request in _CHANGES:
            try:
                terminal.check_change(task, SIGTTOU)
            except Errno as error:
                if request == TIOCSPGRP and error.errno == EIO:
                    return -ENOTTY
                raise
        return terminal_ioctl(terminal, self, file, task, request, argument)


def terminal_ioctl(terminal: Terminal, side: FileOps, file: FileObject, task: Task, request: int, argument: int) -> Result:
    """The requests that both sides of a pty answer for the terminal."""
    if request in _SET_MODES:
        return _set_modes(terminal, task, request, UserAddress(argument))
    handler = _HANDLERS.get(request)
    if handler is None:
        if request >> 8 & 0xFF == 0x54:
            track_stub("terminal ioctl", request)
        return -ENOTTY
    result = handler(terminal, side, file, task, argument)
    if isinstance(result, bytes):
        task.copy_out(UserAddress(argument), result)
        return 0
    return result


def _set_modes(terminal: Terminal, task: Task, request: int, address: UserAddress) -> Result:
    size, drain, flush = _SET_MODES[request]
    modes = terminal.modes.copy()
    modes.unpack(task.copy_in(address, size))

    def apply() -> int:
        if flush:
            terminal.flush_input()
        terminal.set_modes(modes)
        return 0

    if drain and terminal.driver.pending() and _drains(terminal):
        return _after_drain(terminal, apply)
    return apply()


def _drains(terminal: Terminal) -> bool:
    """A pty's output waits for nobody: the master may never read it, and Linux does not wait for it either."""
    return getattr(terminal.driver, "drains", False)


async def _after_drain(terminal: Terminal, then: Callable[[], int]) -> int:
    while terminal.driver.pending():
        await terminal.queue.wait(POLLOUT | POLLHUP | POLLERR)
    return then()


Handler = Callable[["Terminal", FileOps, "FileObject", "Task", int], "Result | bytes"]


def _int(value: int) -> bytes:
    return value.to_bytes(4, "little", signed=value < 0)


def _controls(terminal: Terminal, side: FileOps, task: Task) -> bool:
    """Whether the caller may ask about the session: it is its terminal, or the caller holds the master side."""
    return not isinstance(side, TerminalFile) or task.group.process_group.session.terminal is terminal


def _get_process_group(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result | bytes:
    if not _controls(terminal, side, task):
        return -ENOTTY
    return _int(terminal.foreground.pgid if terminal.foreground is not None else 0)


def _get_session(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result | bytes:
    if not _controls(terminal, side, task) or terminal.session is None:
        return -ENOTTY
    return _int(terminal.session.sid)


def _set_process_group(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result:
    session = task.group.process_group.session
    if session.terminal is not terminal or terminal.session is not session:
        return -ENOTTY
    pgid = int.from_bytes(task.copy_in(UserAddress(argument), 4), "little", signed=True)
    if pgid < 0:
        return -EINVAL
    group = task.kernel.pids.process_groups.get(pgid)
    if group is None:
        return -ESRCH
    if group.session is not session:
        return -EPERM
    terminal.foreground = group
    return 0


def _set_controlling(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result:
    terminal.acquire(task, steal=argument == 1, readable=file.flags & O_ACCMODE != O_WRONLY)
    return 0


def _give_up(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result:
    session = task.group.process_group.session
    if session.terminal is not terminal:
        return -ENOTTY
    if session.sid == task.group.pid:
        terminal.release_session()
    # Another process of the session only forgets the terminal for itself; the session is the unit here.
    return 0


def _set_window(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result:
    rows, columns, x, y = structs.winsize.FORMAT.unpack(task.copy_in(UserAddress(argument), structs.winsize.SIZE))
    terminal.set_window(rows, columns, x, y)
    return 0


def _flush(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result:
    if argument not in (TCIFLUSH, TCOFLUSH, TCIOFLUSH):
        return -EINVAL
    if argument != TCOFLUSH:
        terminal.flush_input()
    if argument != TCIFLUSH:
        terminal.flush_output()
    return 0


def _flow(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result:
    if argument == TCOOFF:
        terminal.stop_output()
    elif argument == TCOON:
        terminal.start_output()
    elif argument in (TCIOFF, TCION):
        character = terminal.modes.cc[VSTOP if argument == TCIOFF else VSTART]
        if character:
            terminal.echo(bytes((character,)))
    else:
        return -EINVAL
    return 0


def _break(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result:
    # Draining is what tcdrain(3) uses TCSBRK with 1 for; a break means nothing here.
    if terminal.driver.pending() and _drains(terminal):
        return _after_drain(terminal, lambda: 0)
    return 0


def _simulate_input(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result:
    controlling = task.group.process_group.session.terminal is terminal
    if not controlling and not task.credentials.has_capability(CAP_SYS_ADMIN):
        return -EPERM
    terminal.input(task.copy_in(UserAddress(argument), 1))
    return 0


def _exclusive(on: bool) -> Handler:
    def change(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result:
        terminal.exclusive = on
        return 0

    return change


def _set_discipline(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result:
    number = int.from_bytes(task.copy_in(UserAddress(argument), 4), "little", signed=True)
    if number:
        track_stub("line discipline other than N_TTY", number)
        return -EINVAL
    return 0


def _hang_up(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result:
    if not task.credentials.has_capability(CAP_SYS_ADMIN):
        return -EPERM
    terminal.hang_up()
    return 0


def _set_soft_carrier(terminal: Terminal, side: FileOps, file: FileObject, task: Task, argument: int) -> Result:
    on = any(task.copy_in(UserAddress(argument), 4))
    terminal.modes.cflag = terminal.modes.cflag | CLOCAL if on else terminal.modes.cflag & ~CLOCAL
    return 0


_HANDLERS: dict[int, Handler] = {
    TCGETS: lambda terminal, *_: terminal.modes.pack(),
    TCGETS2: lambda terminal, *_: terminal.modes.pack2(),
    TCGETA: lambda terminal, *_: terminal.modes.pack_old(),
    TCGETX: lambda *_: -EINVAL,
    FIONREAD: lambda terminal, *_: _int(terminal.discipline.unread()),
    TIOCOUTQ: lambda terminal, *_: _int(terminal.driver.pending()),
    TIOCGWINSZ: lambda terminal, *_: structs.winsize.FORMAT.pack(*terminal.window),
    TIOCSWINSZ: _set_window,
    TIOCGPGRP: _get_process_group,
    TIOCSPGRP: _set_process_group,
    TIOCGSID: _get_session,
    TIOCSCTTY: _set_controlling,
    TIOCNOTTY: _give_up,
    TCFLSH: _flush,
    TCXONC: _flow,
    TCSBRK: _break,
    TCSBRKP: _break,
    TIOCSTI: _simulate_input,
    TIOCEXCL: _exclusive(True),
    TIOCNXCL: _exclusive(False),
    TIOCGEXCL: lambda terminal, *_: _int(int(terminal.exclusive)),
    TIOCGETD: lambda *_: _int(0),
    TIOCSETD: _set_discipline,
    TIOCGDEV: lambda terminal, *_: terminal.device.to_bytes(4, "little"),
    TIOCVHANGUP: _hang_up,
    TIOCGSOFTCAR: lambda terminal, *_: _int(int(bool(terminal.modes.cflag & CLOCAL))),
    TIOCSSOFTCAR: _set_soft_carrier,
}


def open_terminal(terminal: Terminal, task: Task, flags: int, make: Callable[[Terminal], TerminalFile] = TerminalFile) -> TerminalFile:
    """Open a terminal device: a session leader without a controlling terminal gets it, unless O_NOCTTY. Errors: EIO, EBUSY."""
    if terminal.other_closed:
        raise Errno(EIO)
    if terminal.exclusive and not task.credentials.has_capability(CAP_SYS_ADMIN):
        raise Errno(EBUSY)
    file = make(terminal)
    session = task.group.process_group.session
    if not flags & O_NOCTTY and session.sid == task.group.pid and session.terminal is None and terminal.session is None:
        readable = flags & O_ACCMODE != O_WRONLY
        if readable:
            terminal.set_controlling(session, task.group.process_group)
    return file
