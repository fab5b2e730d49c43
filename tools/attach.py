"""``polynix attach``: the caller's streams become those of a program that was started detached."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading

from polynix.runner.client import Attachment, Runner
from polynix.runner.errors import ContainerError
from polynix.tools.containers import write_record
from polynix.tools.host_terminal import HostTerminal
from polynix.tools.run import GROUP_SIGNALS, PROCESS_SIGNALS

DETACH_KEYS = b"\x10\x11"  # Ctrl-P Ctrl-Q, docker's
_CHUNK = 4096


def attach(runner: Runner, name: str) -> int:
    """Returns the program's exit status, or 0 when the keys have detached us. Errors: ContainerError."""
    attachment = runner.attach_streams(name)
    if attachment.terminal and attachment.input is not None and not os.isatty(0):
        raise ContainerError("standard input is no terminal, and the container's is one")
    return AttachedProgram(runner, name, attachment).run()


class AttachedProgram:
    """One attachment, from its beginning to its end: threads with sessions of their own show the output and wait for the end."""

    def __init__(self, runner: Runner, name: str, attachment: Attachment) -> None:
        self.runner = runner
        self.name = name
        self.attachment = attachment
        self.terminal = HostTerminal.of_caller() if attachment.terminal else HostTerminal(-1)
        self._keys = DetachKeys()
        self._status: int | None = None
        self._unread = False  # nobody reads what we show
        self._backlog = b""  # input that the program has no room for yet

    def run(self) -> int:
        """Returns the exit status."""
        try:
            signals = self._catch_signals()
            if self.attachment.input is not None:
                self.terminal.attach()
            self._redraw()
            ended, showing = os.pipe2(os.O_CLOEXEC)
            waiter = threading.Thread(target=self._wait, daemon=True)
            waiter.start()
            threading.Thread(target=self._show, args=(showing,), daemon=True).start()
            status = self._carry(signals, ended)
        finally:
            self.terminal.restore()
        if status is not None:
            return status
        if self._unread:
            return 128 + signal.SIGPIPE
        waiter.join()
        if self._status is None:
            raise ContainerError("the runner does not answer")
        return self._status

    def _wait(self) -> None:
        """Asked from the beginning, as the container may be removed when it ends."""
        with contextlib.suppress(ContainerError), Runner(self.runner.directory) as runner:
            self._status = runner.wait(self.name)

    def _show(self, done: int) -> None:
        """Show what the program writes, to its end or ours; then ``done`` is closed."""
        try:
            with Runner(self.runner.directory) as runner:
                for record in runner.logs(self.name, follow=True, offset=self.attachment.offset):
                    write_record(record, False)
        except ContainerError:
            pass  # it was removed
        except OSError:
            self._unread = True
        finally:
            os.close(done)

    def _carry(self, signals: int, ended: int) -> int | None:
        """Carry input and signals until the program has ended; another end of ours returns its status."""
        source = 0 if self.attachment.input is not None else None
        while True:
            poller = select.poll()
            for fd in (signals, ended):
                poller.register(fd, select.POLLIN)
            if self._backlog and self.attachment.input is not None:
                poller.register(self.attachment.input, select.POLLOUT)
            elif source is not None:
                poller.register(source, select.POLLIN)
            ready = dict(poller.poll())
            if ended in ready:
                return None
            if signals in ready:
                for number in os.read(signals, 64):
                    status = self._signal(signal.Signals(number))
                    if status is not None:
                        return status
            if source in ready:
                data = os.read(0, _CHUNK)
                if not data:
                    source = None  # others may attach: the program's input stays open
                self._backlog = self._keys.take(data) if self.terminal.attached else data
                if self._keys.pressed:
                    return 0
            self._send()

    def _send(self) -> None:
        if self._backlog and self.attachment.input is not None:
            try:
                self._backlog = self._backlog[os.write(self.attachment.input, self._backlog) :]
            except BlockingIOError:
                pass
            except OSError:
                self._backlog = b""  # the program has closed its input

    # -- signals -----------------------------------------------------------------------------------------------------------------

    def _catch_signals(self) -> int:
        """The descriptor that signals' numbers are read from."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (*GROUP_SIGNALS, *PROCESS_SIGNALS, signal.SIGWINCH):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's choice stays
                signal.signal(number, lambda _number, _frame: None)
        return reader

    def _signal(self, number: signal.Signals) -> int | None:
        """Returns the exit status if the signal ends us."""
        if number == signal.SIGWINCH:
            self._set_window(self.terminal.window())
        elif self.terminal.attached:  # keys have become the program's signals already: this one is for us
            return 128 + number
        else:
            with contextlib.suppress(ContainerError):  # it has ended
                self.runner.kill(self.name, number)
        return None

    def _redraw(self) -> None:
        """A program that draws on its terminal does so again when the size changes, even if it is the same as that of who was attached before."""
        rows, columns = self.terminal.window()
        if rows:
            self._set_window((rows + 1, columns))
            self._set_window((rows, columns))

    def _set_window(self, window: tuple[int, int]) -> None:
        if self.attachment.terminal and window != (0, 0):
            with contextlib.suppress(ContainerError):  # it has ended
                self.runner.set_window_size(self.name, *window)


class DetachKeys:
    """Finds the keys that detach in what is typed."""

    def __init__(self) -> None:
        self.pressed = False
        self._begun = False

    def take(self, data: bytes) -> bytes:
        """What of ``data`` is for the program; a first key is kept back until the next one is known."""
        text = (DETACH_KEYS[:1] if self._begun else b"") + data
        before, keys, _ = text.partition(DETACH_KEYS)
        self.pressed = bool(keys)
        self._begun = not keys and text.endswith(DETACH_KEYS[:1])
        return before[:-1] if self._begun else before
