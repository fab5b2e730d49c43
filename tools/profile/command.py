"""The command ``polynix profile``: runs a program, or watches a container, and writes what was seen."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from polynix.runner.container import Container
from polynix.runner.errors import ContainerError
from polynix.runner.process import Process
from polynix.tools.inspect_kernels import print_table
from polynix.tools.inspection import InspectionError, ask
from polynix.tools.profile.result import Extras, build_result, violations
from polynix.tools.profile.session import ProfileSession
from polynix.tools.report.page import ReportError, check_libraries, check_writable, write_text
from polynix.tools.selection import NoKernel, one_kernel
from polynix.tools.write_files import write_files

EXIT_VIOLATION, EXIT_ERROR = 1, 125
ATTACHED_SECONDS = 10.0  # how long a container is watched when nobody says
EXTRAS_AFTER_SECONDS = 1.0  # programs get so far before they are held or killed


@dataclass
class ProfileOptions:
    """What the command line asks for."""

    command: tuple[str, ...] = ()
    container: str | None = None
    seconds: float | None = None
    interval: float = 0.5
    report: str | None = None
    json_path: str | None = None
    windows: float | None = None  # seconds of each window of the interference measurement; None: not wanted
    against: tuple[str, ...] = ()
    kill: int | None = None  # pid
    container_options: dict[str, Any] = field(default_factory=dict)


def profile(options: ProfileOptions) -> int:
    """Returns the exit status: the program's, or 1 when it was 0 and isolation was violated, or 125 when the process to be killed was not there. Errors:
    ReportError, ContainerError, NoKernel, InspectionError, OSError.
    """
    check_libraries()
    for path in (options.report, options.json_path):
        check_writable(path)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    others = [_split(text) for text in options.against]
    extras = Extras()
    status: int | None = None
    if options.command:
        if options.against:
            _measure_runs(options, others, extras)
        with _container(options)() as container:
            session = ProfileSession(container.kernel_pid, options.interval)
            process = container.spawn(options.command)
            status = _watch(session, options, extras, process)
            session.finish()
    else:
        kernel = one_kernel(options.container)
        if options.kill is not None:
            ask(kernel, "maps", pid=options.kill)  # not there: an error at once
        session = ProfileSession(kernel, options.interval)
        _watch(session, options, extras, None)
        session.finish()
    result = build_result(session, list(options.command), status, extras)
    try:
        _write(options, result)
    except ReportError:  # as when the disk is full: what was measured is not lost with the file
        _print(result)
        raise
    for line in violations(result):
        print(f"polynix: isolation violated: {line}", file=sys.stderr)
    if options.kill is not None and extras.fault is None:
        print(f"polynix: process {options.kill} was not killed: {extras.not_killed}", file=sys.stderr)
        return EXIT_ERROR
    return status or (EXIT_VIOLATION if violations(result) else 0)


def _container(options: ProfileOptions) -> Callable[[], Container]:
    given = dict(options.container_options)
    features = [*given.pop("features", ()), "profile"]
    return lambda: Container(init=True, features=features, **given)


def _split(text: str) -> list[str]:
    """A command as the shell would split it. Errors: ContainerError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ContainerError(f"bad command {text!r}: {error}") from None
    if not words:
        raise ContainerError(f"bad command {text!r}: it names no program")
    return words


def _measure_runs(options: ProfileOptions, others: list[list[str]], extras: Extras) -> None:
    from polynix.tools.profile.interference import measure_runs

    extras.runs = measure_runs(_container(options), [list(options.command), *others])


def _watch(session: ProfileSession, options: ProfileOptions, extras: Extras, process: Process | None) -> int | None:
    """Sample until the program ends, the time is over, or Ctrl-C; returns the program's exit status if it ended."""
    began = time.monotonic()
    limit = options.seconds if options.seconds is not None or process is not None else ATTACHED_SECONDS
    pending = [_windows, _kill] if (options.windows is not None or options.kill is not None) else []
    try:
        while limit is None or time.monotonic() - began < limit:
            pause = session.tick()
            if limit is not None:
                pause = max(min(pause, began + limit - time.monotonic()), 0)
            if process is None:
                time.sleep(pause)
                if session.ended_early:
                    return None
            else:
                try:
                    code = process.wait(min(pause, 0.2))
                    return code if code >= 0 else 128 - code
                except subprocess.TimeoutExpired:
                    pass
            if pending and time.monotonic() - began >= EXTRAS_AFTER_SECONDS:
                for measure in pending:
                    try:
                        measure(session, options, extras)
                    except (NoKernel, InspectionError) as error:  # as when the programs end meanwhile
                        print(f"polynix: {error}", file=sys.stderr)
                pending = []
    except KeyboardInterrupt:
        pass
    except ContainerError as error:
        session.ended_early = True
        print(f"polynix: {error}", file=sys.stderr)
        return EXIT_ERROR
    return None


def _windows(session: ProfileSession, options: ProfileOptions, extras: Extras) -> None:
    if options.windows is not None:
        from polynix.tools.profile.interference import measure_windows

        extras.windows = measure_windows(session.kernel_pid, options.windows)


def _kill(session: ProfileSession, options: ProfileOptions, extras: Extras) -> None:
    if options.kill is not None:
        from polynix.tools.profile.faults import kill_one

        try:
            extras.fault = kill_one(session.kernel_pid, options.kill)
        except (NoKernel, InspectionError) as error:
            extras.not_killed = str(error)


def _write(options: ProfileOptions, result: dict[str, Any]) -> None:
    """Errors: ReportError, when all that can be written is written."""
    writes = []
    if (json_path := options.json_path) is not None:
        writes.append(lambda: write_text(json_path, json.dumps(result) + "\n"))
    if (report := options.report) is not None:
        from polynix.tools.profile.report import build_page

        writes.append(lambda: build_page(result).write(report))
    write_files(ReportError, *writes)
    if options.json_path is None and options.report is None:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    """A short table for the terminal, on standard error: standard output is the program's."""
    rows = [
        {"pid": row["pid"], "comm": row["comm"], "threads": row["threads"], "calls": row["syscalls"],
         **{name: f"{row[name + '_ns'] / 1e9:.3f}" for name in ("user", "kernel", "blocked", "runnable", "handoff")}}
        for row in result["processes"][:20]
    ]  # fmt: skip
    times = {f"{name.upper()} s": name for name in ("user", "kernel", "blocked", "runnable", "handoff")}
    print_table(rows, {"PID": "pid", "THR": "threads", **times, "CALLS": "calls", "COMMAND": "comm"}, error=True)
    share = 100 * result["kernel_loop"]["share"]
    print(f"polynix: kernel loop {share:.1f}% of a CPU; --report FILE.html and --json FILE.json have everything", file=sys.stderr)
