"""The standard streams of a named container's program: input that stays open for whoever attaches, output that is logged.

Without a terminal they are pipes. With one they are a pseudo-terminal of the host, in raw mode, whose slave is the wire of the console inside: the
container's own line discipline does what a terminal does.
"""

from __future__ import annotations

import os

from polynix.ipc.host_file import HostFile
from polynix.runner.container_log import ContainerLog
from polynix.runner.log_records import ERRORS, OUTPUT


class ContainerStreams:
    """One container's. Belongs to one asyncio loop."""

    def __init__(self, log: ContainerLog, *, interactive: bool, terminal: bool) -> None:
        """``interactive`` keeps the input open. Errors: OSError."""
        self.interactive = interactive
        self.terminal = terminal
        self._input = -1  # where an interactive one is written to; it doesn't block
        self._descriptors: list[int] = []  # the program's
        try:
            if terminal:
                self._open_terminal(log)
            else:
                self._open_input()
                self._descriptors += [log.add_stream(OUTPUT), log.add_stream(ERRORS)]
        except OSError:
            self.close()
            raise

    def _open_terminal(self, log: ContainerLog) -> None:
        import tty

        master, slave = os.openpty()
        self._descriptors += [slave] * 3
        tty.setraw(slave)
        if self.interactive:
            self._input = os.dup(master)
        log.follow(master, OUTPUT)

    def _open_input(self) -> None:
        if self.interactive:
            reader, self._input = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._input, False)
        else:
            reader = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._descriptors.append(reader)

    def take_files(self) -> list[HostFile]:
        """Handles to what the program gets as 0, 1 and 2; only they keep it open from now on. Errors: ZxStatus."""
        files = [HostFile.create(fd) for fd in self._descriptors]
        self._close_descriptors()
        return files

    def input(self) -> HostFile | None:
        """A handle to what the program reads from, if it is interactive and not closed; writes to it don't block. Errors: ZxStatus."""
        return None if self._input < 0 else HostFile.create(self._input)

    def _close_descriptors(self) -> None:
        descriptors, self._descriptors = self._descriptors, []
        for fd in set(descriptors):
            os.close(fd)

    def close(self) -> None:
        """The program is gone. What it wrote last can still be read by the log."""
        self._close_descriptors()
        if self._input >= 0:
            os.close(self._input)
            self._input = -1
