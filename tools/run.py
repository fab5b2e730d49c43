"""``polynix run``: one program in a fresh container, with the caller's streams, signals and terminal."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from polynix.runner import parameters
from polynix.runner.container import Container
from polynix.runner.errors import ContainerError
from polynix.runner.process import Process
from polynix.tools.exit_status import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, tell_error
from polynix.tools.host_terminal import HostTerminal

ENOENT = 2

# Signals that go to the program; those that a terminal sends to a whole process group go to the program's group.
GROUP_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
PROCESS_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
OWN_SIGNALS = (signal.SIGTSTP, signal.SIGWINCH, signal.SIGCONT)
FATAL_SIGNALS = (*GROUP_SIGNALS, signal.SIGTERM)
IMPATIENCE = 3  # so many SIGINT or SIGTERM while the kernel does not answer end the container


def container_of(
    *,
    environment: tuple[str, ...],
    environment_files: tuple[str, ...],
    memory: str,
    pids: int | None,
    suspend_after: float | None,
    **options: Any,
) -> Container:
    """The container that the command line's options shape; it is not started. Errors: ParameterError."""
    variables = dict(os.environ)
    for path in environment_files:
        variables.update(parameters.read_environment_file(path))
    variables.update(parameters.parse_environment(text) for text in environment)
    return Container(
        env=variables,
        memory=parameters.parse_size(memory) if memory else 0,
        pids=pids or 0,
        suspend_after=suspend_after or 0.0,
        init=False,
        _in_process=True,
        **options,
    )


def scripted_container_of(
    *, failing: tuple[str, ...], delayed: tuple[str, ...], shortened: tuple[str, ...], killed: tuple[str, ...], **options: Any
) -> Container:
    """:func:`container_of`, with the rules of the command line in force from the start. Errors: ParameterError."""
    given = (("fail", failing), ("delay", delayed), ("shorten", shortened), ("kill", killed))
    return container_of(hooks=[parameters.parse_hook(action, text) for action, texts in given for text in texts], **options)


def run_program(*, command: tuple[str, ...], **options: Any) -> int:
    """Returns the exit status for the shell. Errors: ParameterError."""
    terminal = HostTerminal.of_caller()
    return Foreground(scripted_container_of(**options), command, terminal if terminal.fd >= 0 else HostTerminal.controlling()).run()


def describe_start_failure(error: OSError, command: tuple[str, ...]) -> int:
    """Say why a program could not be started; returns the exit status."""
    number = error.errno or 0
    if error.filename is not None and os.fsencode(error.filename) != os.fsencode(command[0]):
        return tell_error(f"{error.filename}: {os.strerror(number)}")
    tell_error(f"{command[0]}: {os.strerror(number) if number else error}")
    return EXIT_NOT_FOUND if number == ENOENT else EXIT_NOT_EXECUTABLE


class Foreground:
    """The life of one ``polynix run`` or ``polynix exec``: a program in the caller's foreground."""

    def __init__(self, container: Container, command: tuple[str, ...], terminal: HostTerminal, stdin: int | None = None) -> None:
        self.container = container
        self.command = command
        self.terminal = terminal
        self.stdin = stdin
        self.process: Process | None = None
        self._stop_signal = signal.SIGTSTP
        self._asked = False  # for the terminal's input
        self._reads_terminal = not terminal.on_demand
        self._starting = True
        self._early = 0  # fatal signals that came before the program had started

    def run(self) -> int:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*GROUP_SIGNALS, *PROCESS_SIGNALS, *OWN_SIGNALS))
        try:
            try:  # from here on there is something to clean up: no signal may end us unheard
                self.container.start()
                self._catch_signals()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return self._run_program()
        except _EndedBySignal as ended:
            return 128 + ended.number
        except ContainerError as error:
            self.terminal.restore()
            return tell_error(str(error))
        except OSError as error:
            self.terminal.restore()
            return describe_start_failure(error, self.command)
        finally:
            self._starting = False
            self.terminal.restore()
            self.container.close()

    def _run_program(self) -> int:
        attached = self._take_terminal()
        self.container.on_event = {"suspend": self._suspend, "input_wanted": self._input_wanted}
        window = self.terminal.window()
        process = self.process = Process(
            self.container,
            self.command,
            stdin=self.stdin,
            terminal=self.terminal.fd >= 0 and not self.terminal.on_demand,
            controlling_terminal=self.terminal.fd if self.terminal.on_demand else -1,
            attached=attached,
            window=window,
        )
        self._starting = False
        self._release_streams()
        while process.returncode is None:
            if self._wakeup in self.container.pump(None, (self._wakeup,)):
                for number in os.read(self._wakeup, 64):
                    self._signal(signal.Signals(number))
        return process.returncode if process.returncode >= 0 else 128 - process.returncode

    def _release_streams(self) -> None:
        """The program has the streams now: a pipe must close when the program closes it, not when we end."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        sys.stdout.flush()
        os.dup2(null, 1)
        os.close(null)

    # -- signals -----------------------------------------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        self._wakeup, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (*GROUP_SIGNALS, *PROCESS_SIGNALS, *OWN_SIGNALS):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's choice stays
                signal.signal(number, self._noted)
        self._unanswered = self._noted_before = 0

    def _noted(self, number: int, _frame: object) -> None:
        """The wake-up descriptor carries the number, to a program that is still starting, too; but a start that two signals do
        not end is given up.
        """
        if self._starting and number in FATAL_SIGNALS:
            self._early += 1
            if self._early > 1:
                self._starting = False
                raise _EndedBySignal(number)

    def _signal(self, number: signal.Signals) -> None:
        process = self.process
        if number == signal.SIGWINCH:
            if self.terminal.fd >= 0:
                if process is not None:
                    self.container.tell_program(process, "set_window_size", self.terminal.window())
            elif process is not None:  # standard output may be a terminal all the same
                self.container.send_signal(process, int(number), group=True)
            return
        if number == signal.SIGTSTP:
            if process is not None:
                self.container.tell_program(process, "pause")
            return
        if number == signal.SIGCONT:
            if not self.terminal.attached and self._take_terminal():
                self._attach()
            return
        if process is not None:
            if number in FATAL_SIGNALS:
                noted = self.container.signals_noted
                self._unanswered = self._unanswered + 1 if noted == self._noted_before else 1
                self._noted_before = noted
                if self._unanswered > IMPATIENCE:
                    raise ContainerError("the kernel process does not answer")
            self.container.send_signal(process, int(number), group=number in GROUP_SIGNALS)

    def _suspend(self, process: Process) -> None:
        """The container is paused: stop as one job of the caller's shell; SIGCONT continues both."""
        self.process = process
        self.terminal.restore()
        number, self._stop_signal = self._stop_signal, signal.SIGTSTP
        handler = signal.signal(number, signal.SIG_DFL)
        os.killpg(0, number)
        signal.signal(number, handler)
        if self._take_terminal():
            self._attach()
        self.container.tell_program(process, "resume")

    def _take_terminal(self) -> bool:
        """Raw mode, if a program reads the terminal and it is ours to take; says whether it is."""
        return self._reads_terminal and self.terminal.attach()

    def _attach(self) -> None:
        """The terminal is raw again: the container may read it."""
        if self.process is not None:
            self.container.tell_program(self.process, "attach_terminal", self.terminal.window())

    def _input_wanted(self, process: Process) -> None:
        """The program reads from the terminal while we are in the background: stop, as it would have been stopped; once is
        enough.
        """
        self.process = process
        self._reads_terminal = True
        if self.terminal.attached or self._take_terminal():
            self._attach()
        elif not self._asked:
            self._asked = True
            self._stop_signal = signal.SIGTTIN
            self.container.tell_program(process, "pause")


class _EndedBySignal(BaseException):
    """A signal came before the program had started."""

    def __init__(self, number: int) -> None:
        self.number = number
