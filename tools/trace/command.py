"""``polynix trace``: run a program traced, then write what the ring holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from polynix.kernelproc.trace_layout import SAMPLES_START, create_ring
from polynix.runner.trace import LOG_VARIABLE, TraceEvent, read_log

if TYPE_CHECKING:
    from polynix.tools.trace.reader import TraceReader

MANY_EVENTS = 100_000  # which take seconds to write


class TraceError(Exception):
    """The trace can't be made or written; the text is one line."""


def trace_program(*, output: str, form: str, call_filter: str, megabytes: int, flame: str, arguments: tuple[str, ...]) -> int:
    """Run ``polynix run ARGUMENTS`` with a trace; returns its exit status. Errors: TraceError."""
    try:
        ring = create_ring(megabytes)
        log = os.memfd_create("polynix-trace-log", os.MFD_CLOEXEC)
    except OSError as error:
        raise TraceError(f"cannot make a trace buffer of {megabytes} MiB: {error.strerror}") from error
    features = ["--feature", f"trace:/proc/{os.getpid()}/fd/{ring}" + (f",{call_filter}" if call_filter else "")]
    if call_filter:
        check_filter(call_filter)
    with replacing(output) as file:
        if flame:
            with replacing(flame) as samples:
                status = run_sampled(features, log, arguments, samples, folded=not flame.endswith(".json"))
        else:
            status = run_traced(features, log, arguments)
        from polynix.tools.trace.reader import TraceReader

        reader = TraceReader(ring)
        if not len(reader):
            return status  # it could not start, and has said why
        if len(reader) > MANY_EVENTS:
            print(f"polynix: decoding {len(reader)} events", file=sys.stderr, flush=True)
        write_trace(reader, read_log(log), file, form)
    print(f"polynix: {summary(reader)} in {output}", file=sys.stderr)
    return status


def check_filter(text: str) -> None:
    """Errors: TraceError for a filter that strace would not take."""
    from polynix.kernelproc.strace.filter import FilterError, parse_filter

    try:
        parse_filter(text)
    except FilterError as error:
        raise TraceError(str(error)) from None


def run_sampled(features: list[str], log: int, arguments: tuple[str, ...], file: IO[bytes], *, folded: bool) -> int:
    """Run with samples of the stacks, and write them; returns the program's exit status."""
    memory = os.memfd_create("polynix-samples", os.MFD_CLOEXEC)
    os.ftruncate(memory, SAMPLES_START)
    status = run_traced([*features, "--feature", f"flame:/proc/{os.getpid()}/fd/{memory}"], log, arguments)
    from polynix.tools.trace.flame import read_samples, write_folded, write_speedscope

    samples = read_samples(memory)
    if samples is not None:
        (write_folded if folded else write_speedscope)(samples, file)
    return status


def run_traced(features: list[str], log: int, arguments: tuple[str, ...]) -> int:
    """The program's exit status. The run is a process of its own: whatever becomes of it, the ring is ours."""
    environment = {**os.environ, LOG_VARIABLE: f"/proc/{os.getpid()}/fd/{log}"}
    numbers = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)
    handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}  # the terminal's go to the run as well
    try:
        command = [sys.executable, "-m", "polynix.tools.start", "run", *features, *arguments]
        with subprocess.Popen(command, env=environment) as process:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, lambda number, _frame: process.send_signal(number))
            status = process.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def write_trace(reader: TraceReader, runner_events: list[TraceEvent], file: IO[bytes], form: str) -> None:
    """Decode all that the ring holds. Errors: OSError of the file."""
    if form == "text":
        from polynix.tools.trace.text_file import write_text

        write_text(reader, file)
        return
    from polynix.tools.trace.perfetto_file import PerfettoFile

    trace = PerfettoFile(file, reader.threads)
    for event in reader.events():
        trace.write(event)
    trace.write_runner(runner_events)


@contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` when it is complete, and leaves nothing otherwise; a pipe or device is written as it is. Errors: TraceError."""
    temporary = f"{path}.{os.getpid()}"
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as file:
                yield file
            return
        with open(temporary, "wb", buffering=1 << 20) as file:
            yield file
        if os.path.getsize(temporary):
            os.replace(temporary, path)
        else:
            os.unlink(temporary)
    except OSError as error:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise TraceError(f"cannot write {path}: {error.strerror}") from error
    except BaseException:
        os.unlink(temporary)
        raise


def summary(reader: TraceReader) -> str:
    """How much there is, and what is missing."""
    text = f"{len(reader)} events"
    if reader.dropped is None:
        return text + ", the oldest ones dropped (a bigger --buffer keeps more)"
    return text if not reader.dropped else f"{text}, {reader.dropped} older ones dropped (a bigger --buffer keeps more)"
