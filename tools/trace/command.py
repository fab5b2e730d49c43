"""``polynix trace``: run a program traced, or trace a running container for a while, then write what the ring holds."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from polynix.kernelproc.trace_layout import SAMPLES_START, create_ring
from polynix.runner.trace import LOG_VARIABLE, TraceEvent, log_to, read_log
from polynix.tools import start
from polynix.tools.inspection import Inspection
from polynix.tools.selection import NoKernel, one_kernel
from polynix.tools.trace.output import Output, TraceError, whole_lines
from polynix.tools.write_files import write_files

if TYPE_CHECKING:
    from polynix.tools.trace.reader import Event, TraceReader

MANY_EVENTS = 250_000  # take a second to write
SHOW_EVERY = 20_000  # events between two looks of who waits for them


@dataclass(frozen=True)
class TraceOptions:
    """What the command line asks for. ``form`` is perfetto or text; ``flame`` the file for stacks, empty when they are not wanted."""

    output: str
    form: str
    call_filter: str
    megabytes: int
    flame: str


def trace_program(options: TraceOptions, arguments: tuple[str, ...]) -> int:
    """Run ``polynix run ARGUMENTS`` with a trace; returns its exit status. Errors: TraceError, with what could be written written."""
    if options.call_filter:
        check_filter(options.call_filter)
    try:
        ring = create_ring(options.megabytes)
        log = os.memfd_create("polynix-trace-log", os.MFD_CLOEXEC)
        samples = os.memfd_create("polynix-samples", os.MFD_CLOEXEC)
        os.ftruncate(samples, SAMPLES_START)
    except OSError as error:
        raise TraceError(f"cannot make a trace buffer of {options.megabytes} MiB: {error.strerror}") from error
    features = ["--feature", f"trace:/proc/{os.getpid()}/fd/{ring}" + (f",{options.call_filter}" if options.call_filter else "")]
    if options.flame:
        features += ["--feature", f"flame:/proc/{os.getpid()}/fd/{samples}"]
    with contextlib.ExitStack() as outputs:
        trace = outputs.enter_context(Output(options.output))
        flame = outputs.enter_context(Output(options.flame)) if options.flame else None
        status = run_traced(["run", *features, *arguments], log, options.form)
        from polynix.tools.trace.reader import TraceReader

        reader = TraceReader(ring)
        writes = []
        if len(reader):  # else it could not start, and has said why
            writes.append(lambda: write_trace(reader, read_log(log), trace, options.form))
        if flame is not None:
            writes.append(lambda: write_samples(samples, flame))
        write_files(TraceError, *writes)
    return status


def trace_container(options: TraceOptions, container: str, seconds: float | None) -> int:
    """Trace a running container for ``seconds``, or until Ctrl-C; either way until it ends. Errors: TraceError, NoKernel, InspectionError."""
    kernel = one_kernel(container)
    with Output(options.output) as output, Inspection(kernel) as inspection:
        number = inspection.request("trace.start", megabytes=options.megabytes, filter=options.call_filter)
        try:
            ring = os.open(f"/proc/{kernel}/fd/{number}", os.O_RDONLY)
        except OSError:
            raise NoKernel(f"kernel {kernel} ended") from None
        for interrupt in (signal.SIGINT, signal.SIGTERM):
            signal.signal(interrupt, signal.default_int_handler)
        try:
            if seconds is None:
                print(f"polynix: tracing {container} until Ctrl-C", file=sys.stderr)
            import_writers(options.form)
            inspection.wait_for_end(seconds)
        except KeyboardInterrupt:
            pass
        with contextlib.suppress(NoKernel):  # it died, and the ring is ours
            inspection.request("trace.stop")
        from polynix.tools.trace.reader import TraceReader

        write_trace(TraceReader(ring), [], output, options.form)
    return 0


def check_filter(text: str) -> None:
    """Errors: TraceError for a filter that strace would not take."""
    from polynix.kernelproc.strace.filter import FilterError, parse_filter

    try:
        parse_filter(text)
    except FilterError as error:
        raise TraceError(str(error)) from None


def run_traced(arguments: list[str], log: int, form: str) -> int:
    """The program's exit status. The run is a process of its own: whatever becomes of it, the ring is ours."""
    log_path = f"/proc/{os.getpid()}/fd/{log}"
    numbers = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)
    handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}  # the terminal's go to the run as well

    def prepare() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ[LOG_VARIABLE] = log_path
        log_to(log_path)

    try:
        child = start.fork_command_line(arguments, prepare)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _frame: os.kill(child, number))
        import_writers(form)  # while the program runs, and not after it
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def import_writers(form: str) -> None:
    """Import what the trace will be read and written with."""
    if form == "text":
        from polynix.tools.trace import text_file  # noqa: F401
    else:
        from polynix.tools.trace import perfetto_file  # noqa: F401


def write_trace(reader: TraceReader, runner_events: list[TraceEvent], output: Output, form: str) -> None:
    """Decode all that the ring holds. Errors: TraceError."""
    if form == "text":
        from polynix.tools.trace.text_file import write_text

        output.write(lambda file: write_text(reader, _shown(reader), file), whole_lines)
    else:
        from polynix.tools.trace.packet_writer import whole_packets
        from polynix.tools.trace.perfetto_file import write_perfetto

        output.write(lambda file: write_perfetto(reader, _shown(reader), runner_events, file), whole_packets)
    print(f"polynix: {summary(reader)} in {output.path}", file=sys.stderr)


def _shown(reader: TraceReader) -> Iterator[Event]:
    """The reader's events; who waits long for them is told so, and on a terminal how far it is."""
    count = len(reader)
    if count < MANY_EVENTS:
        yield from reader.events()
        return
    live = sys.stderr.isatty()
    text = f"polynix: writing {count} events"
    print(text, end="" if live else "\n", file=sys.stderr, flush=True)
    for number, event in enumerate(reader.events()):
        if live and not number % SHOW_EVERY:
            print(f"\r{text}, {100 * number // count}%", end="", file=sys.stderr, flush=True)
        yield event
    if live:
        print(f"\r{' ' * (len(text) + 6)}\r", end="", file=sys.stderr, flush=True)


def write_samples(memory: int, output: Output) -> None:
    """Write sampled stacks, if there are any. Errors: TraceError."""
    from polynix.tools.trace.flame import read_samples, write_folded, write_speedscope

    samples = read_samples(memory)
    if samples is not None:
        folded = not output.path.endswith(".json")
        write: Callable[[IO[bytes]], None] = lambda file: (write_folded if folded else write_speedscope)(samples, file)  # noqa: E731
        output.write(write, whole_lines if folded else None)


def summary(reader: TraceReader) -> str:
    """How much there is, and what is missing."""
    text = f"{len(reader)} events"
    if reader.dropped is None:
        return text + ", the oldest ones dropped (a bigger --buffer keeps more)"
    return text if not reader.dropped else f"{text}, {reader.dropped} older ones dropped (a bigger --buffer keeps more)"
