"""``--strace``: the decoded system calls of a container, in strace's notation, without ptrace: an observer of the system call
loop.

A call's line is written when it ends, so that what it returned in memory can be shown. While it blocks, its beginning is written
after a moment, or, when another task's line comes between, as ``<unfinished ...>`` with ``<... resumed>`` later.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING

from polynix.kernelproc.observer import SyscallObserver
from polynix.kernelproc.strace import names
from polynix.kernelproc.strace.arguments import Call, quote
from polynix.kernelproc.strace.filter import FilterError, parse_filter
from polynix.kernelproc.strace.signatures import Signature, signature
from polynix.kernelproc.uapi.unistd import NR_execve

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.signals.siginfo import SigInfo
    from polynix.kernelproc.task.task import Task

_COLUMN = 40  # results are aligned, as strace's -a
_BLOCKED_NS = 5_000_000  # a call that takes longer shows its beginning
_ADDRESS_RESULTS = frozenset({"mmap", "mremap", "brk", "shmat"})
_RESTARTS = {
    512: "To be restarted if SA_RESTART is set", 513: "To be restarted", 514: "To be restarted if no handler",
    516: "Interrupted by signal",
}  # fmt: skip


class Strace(SyscallObserver):
    """One trace: which calls (``filter``), and where to."""

    def __init__(self, kernel: Kernel, filter_text: str, output: IO[str]) -> None:
        self.wanted = parse_filter(filter_text)
        self.output = output
        self.pids: set[int] = set()
        self._open: dict[int, tuple[Call, Signature]] = {}  # by tid: calls in progress
        self._partial: int | None = None  # the tid whose beginning stands at the end of the last line, unfinished
        self._shown: set[int] = set()  # tids whose beginning was written as <unfinished ...>
        self.engine = kernel.engine
        self._timer_runs = False

    # -- what the system call loop tells --------------------------------------------------------------------------------------

    def started(self, task: Task, argv: list[bytes], env: list[bytes]) -> None:
        """The container's first program, or another one: shown as the exec that it would have been."""
        self.pids.add(task.tid)
        if self.wanted is None or NR_execve in self.wanted:
            program = quote(task.mm.exe.path(task.fs) if task.mm.exe is not None else argv[0], 4096)
            shown = ", ".join(quote(argument) for argument in argv)
            text = f"{self._prefix(task.tid)}execve({program}, [{shown}], {task.mm.env_start:#x} /* {len(env)} vars */)"
            self._line(text + " " * max(1, _COLUMN - len(text)) + "= 0")

    def enter(self, task: Task, number: int, arguments: tuple[int, ...]) -> None:
        """A call begins."""
        self.pids.add(task.tid)
        if self.wanted is not None and number not in self.wanted:
            return
        known = signature(number)
        self._open[task.tid] = (Call(task, number, arguments), known)
        if not self._timer_runs:
            self._timer_runs = True
            self.engine.call_later(_BLOCKED_NS, self._show_blocked)
        if known.name in ("exit", "exit_group", "rt_sigreturn", "execve", "execveat"):
            self._begin(task.tid)  # its arguments will not be there at the end

    def leave(self, task: Task, number: int, arguments: tuple[int, ...], result: int | None) -> None:
        """A call ends; None: it does not return in the usual way."""
        entry = self._open.pop(task.tid, None)
        if entry is None:
            return
        call, known = entry
        call.result = result
        if known.name in ("execve", "execveat") and result is None:
            result = call.result = 0
        if self._partial == task.tid:
            self._partial = None
            head = self._beginning(call, known)
            self._write(_with_result(head + self._end_of(call, known), call, known)[len(head) :] + "\n")
        elif task.tid in self._shown:
            self._shown.discard(task.tid)
            head = f"{self._prefix(task.tid)}<... {known.name} resumed>"
            self._line(_with_result(head + self._end_of(call, known), call, known))
        else:
            shown = [formatter(call, index) for index, formatter in enumerate(known.formatters)]
            head = f"{self._prefix(task.tid)}{known.name}({', '.join(text for text in shown if text)})"
            self._line(_with_result(head, call, known))

    def signal(self, task: Task, info: SigInfo) -> None:
        """A signal is delivered."""
        name = names.signal_name(info.signo)
        details = f"si_signo={name}, si_code={info.code}"
        if info.pid:
            details += f", si_pid={info.pid}, si_uid={info.uid}"
        elif info.addr:
            details += f", si_addr={info.addr:#x}"
        self._line(f"{self._prefix(task.tid)}--- {name} {{{details}}} ---")

    def exited(self, task: Task, status: int) -> None:
        """A task ended with ``status`` (as wait4 shows it)."""
        entry = self._open.pop(task.tid, None)
        if entry is not None:
            if self._partial == task.tid:
                self._partial = None
                head = self._beginning(*entry)
                end = ")" if entry[1].late >= len(entry[1].formatters) else " <unfinished ...>)"
                self._write(end + " " * max(1, _COLUMN - len(head) - len(end)) + "= ?\n")
            self._shown.discard(task.tid)
        what = f"exited with {status >> 8 & 0xFF}" if status & 0x7F == 0 else f"killed by {names.signal_name(status & 0x7F)}"
        self._line(f"{self._prefix(task.tid)}+++ {what} +++")
        self.pids.discard(task.tid)

    def close(self) -> None:
        """The container ends."""
        if self._partial is not None:
            self._partial = None
            self._write(" <unfinished ...>\n")
        try:
            self.output.flush()
        except OSError:
            pass

    # -- lines ----------------------------------------------------------------------------------------------------------------

    def _prefix(self, tid: int) -> str:
        return f"[pid {tid:5}] " if len(self.pids) > 1 else ""

    def _beginning(self, call: Call, known: Signature) -> str:
        """The name and the arguments that are known before the call."""
        shown = [known.formatters[index](call, index) for index in range(min(known.late, len(known.formatters)))]
        more = ", " if shown and known.late < len(known.formatters) else ""
        return f"{known.name}(" + ", ".join(text for text in shown if text) + more

    def _end_of(self, call: Call, known: Signature) -> str:
        """The rest of the arguments."""
        shown = [known.formatters[index](call, index) for index in range(known.late, len(known.formatters))]
        return ", ".join(text for text in shown if text) + ")"

    def _begin(self, tid: int) -> None:
        """Write the beginning of a call whose end will come later."""
        call, known = self._open[tid]
        self._break()
        self._write(self._prefix(tid) + self._beginning(call, known))
        self._partial = tid

    def _break(self) -> None:
        """Finish the line of a call that is still in progress."""
        if self._partial is not None:
            self._shown.add(self._partial)
            self._partial = None
            self._write(" <unfinished ...>\n")

    def _line(self, text: str) -> None:
        self._break()
        self._write(text + "\n")

    def _write(self, text: str) -> None:
        try:
            self.output.write(text)
        except OSError:
            self.output = open(os.devnull, "w")  # noqa: SIM115

    def _show_blocked(self) -> None:
        """Some time after a call began: show what is still in progress."""
        self._timer_runs = False
        for tid in list(self._open):
            if tid != self._partial and tid not in self._shown:
                self._begin(tid)
        try:
            self.output.flush()
        except OSError:
            pass


def _with_result(text: str, call: Call, known: Signature) -> str:
    """A whole line, its result in strace's column."""
    return text + " " * max(1, _COLUMN - len(text)) + "= " + _result(call, known)


def _result(call: Call, known: Signature) -> str:
    result = call.result
    if result is None:
        return "?"
    if -4096 < result < 0:
        restart = _RESTARTS.get(-result)
        name = names.errno_names().get(-result, str(-result))
        return f"? {name} ({restart})" if restart else f"-1 {name} ({os.strerror(-result)})"
    if known.name in _ADDRESS_RESULTS:
        return f"{result:#x}"
    return str(result)


__all__ = ["FilterError", "Strace"]
