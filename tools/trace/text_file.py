"""Writes events as text, one line each: time in seconds, thread, what happened; for grep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

from polynix.kernelproc.strace import names
from polynix.kernelproc.strace.recorded import RecordedCalls
from polynix.kernelproc.trace_layout import Kind
from polynix.tools.trace.reader import CALL, Event, TraceReader

if TYPE_CHECKING:
    from polynix.tools.trace.reader import Thread


def write_text(reader: TraceReader, events: Iterable[Event], file: IO[bytes]) -> None:
    """The reader's events, in the order of their ends. Errors: OSError of the file."""
    calls = RecordedCalls(lambda _name, value: value)
    for event in events:
        file.write(text_line(event, reader.threads.get(event.tid), calls).encode(errors="backslashreplace") + b"\n")


def text_line(event: Event, thread: Thread | None, calls: RecordedCalls[str]) -> str:
    """``13806.123456 [17 cat] read(0, 0x7f…, 4096) = 3 <0.000017>``"""
    head = f"{event.start_ns / 1e9:.6f} [{event.tid} {thread.name if thread is not None else '?'}] "
    if event.kind == CALL:
        arguments = ", ".join(calls.arguments(event.number, event.arguments, event.memory, event.result))
        took = " <unfinished>" if event.end_ns is None else f" <{(event.end_ns - event.start_ns) / 1e9:.6f}>"
        return f"{head}{event.name}({arguments}) = {calls.result(event.number, event.result)}{took}"
    if event.kind == Kind.SIGNAL:
        return head + f"--- {names.signal_name(event.number)} ---"
    if event.kind == Kind.WAKE:
        return head + f"wakes {event.arguments[0]}"
    if event.kind == Kind.FAULT:
        return head + f"page fault at {event.arguments[0]:#x}"
    return head + f"+++ exited with status {event.result} +++"
