"""The caller's terminal: raw while the container's console is attached to it, restored at the end."""

from __future__ import annotations

import os
import signal
import termios
from typing import Any


class HostTerminal:
    """Standard input when it is a terminal, or /dev/tty; otherwise nothing, on which every method is harmless.

    ``on_demand``: others of a pipeline may use the terminal as well, so it is left alone until a program inside reads it.
    """

    def __init__(self, fd: int, *, on_demand: bool = False) -> None:
        self.fd = fd  # a descriptor of our own, or -1
        self.on_demand = on_demand
        self.attached = False
        self.alone = os.isatty(1) and not on_demand  # nobody else writes to the terminal meanwhile, as far as we know
        self._saved: list[Any] | None = None

    @classmethod
    def of_caller(cls) -> HostTerminal:
        try:
            if os.isatty(0):
                import fcntl

                return cls(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 10))
        except OSError:
            pass
        return cls(-1)

    @classmethod
    def controlling(cls) -> HostTerminal:
        """The caller's controlling terminal, for a caller whose standard input is something else."""
        try:
            return cls(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC), on_demand=True)
        except OSError:
            return cls(-1)

    def window(self) -> tuple[int, int]:
        """Rows and columns; (0, 0) when unknown."""
        if self.fd < 0:
            return (0, 0)
        try:
            size = os.get_terminal_size(self.fd)
        except OSError:
            return (0, 0)
        return (size.lines, size.columns)

    def attach(self) -> bool:
        """Raw mode: the container's own line discipline takes over.

        False in the background, where the terminal is not ours to change.
        """
        if self.fd < 0 or self.attached:
            return self.attached
        try:
            if os.tcgetpgrp(self.fd) != os.getpgrp():
                return False
            self._saved = termios.tcgetattr(self.fd)
            mode = termios.tcgetattr(self.fd)
            mode[0] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
            if self.alone:  # otherwise the next program of a pipeline writes to the terminal, and wants its lines to begin at the left
                mode[1] &= ~termios.OPOST
            mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
            mode[2] = (mode[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
            mode[6][termios.VMIN] = 1
            mode[6][termios.VTIME] = 0
            termios.tcsetattr(self.fd, termios.TCSADRAIN, mode)
        except (OSError, termios.error):
            return False
        self.attached = True
        return True

    def restore(self) -> None:
        """Back to the settings from before :meth:`attach`."""
        if not self.attached or self._saved is None:
            return
        self.attached = False
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            termios.tcsetattr(self.fd, termios.TCSADRAIN, self._saved)
        except (OSError, termios.error):
            pass
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
