"""The command line: ``polynix run [options] [--] PROGRAM [ARG...]`` and the tools beside it.

Imports nothing heavy before it must.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
from polynix.tools import container_commands
from polynix.tools.container_options import CONTAINER_OPTIONS, ContainerOption
from polynix.tools.exit_status import EXIT_ERROR, status_of, tell_error
from polynix.tools.finite_range import FiniteRange

from polynix import __version__

RUN_EPILOG = f"""\b
Examples:
  polynix run echo hello
  polynix run bash                                    a shell with job control
  polynix run --strace=open,openat cat /etc/hostname
  polynix run --bind .:/src:ro --workdir /src make -j4
  polynix run --rootfs ./debian --user 1000 -- sh -c 'id; ls /'
  polynix run --memory 256M --pids 50 ./untrusted
  polynix run --fail 'write:path=/data/*,error=ENOSPC,after=3' ./program
  polynix run --shorten 'read:count=7' --kill 'fsync:after=4' -- make

{container_commands.RULE_HELP}
\b
Exit status: the program's; 128+n when signal n killed it; 125 when polynix itself
failed, 126 when PROGRAM cannot be executed, 127 when it is not found.
Nothing on the host changes unless it is bound writable.
"""


class RunCommand(click.Command):
    """Lets ``--strace`` stand without a value, as ``--strace=all``: the word after it is the program's name, not a filter."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_value = {name for option in self.params if isinstance(option, click.Option) and not option.is_flag for name in option.opts}
        args = list(args)
        index = 0
        while index < len(args) and args[index].startswith("-") and args[index] != "--":
            if args[index] == "--strace":
                args[index] = "--strace=all"
            index += 2 if args[index] in takes_value else 1
        return super().parse_args(ctx, args)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", prog_name="polynix", message="%(prog)s %(version)s")
def cli() -> None:
    """A Linux kernel in Python that runs unmodified Linux programs."""


def container_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that shape a container, as ``run`` and ``start`` take them."""
    return _with_options(command, CONTAINER_OPTIONS)


def _measured_container_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Those of them that a command takes which starts a container of its own for measuring."""
    taken = ("rootfs", "binds", "user", "features", "memory")
    return _with_options(command, [option for option in CONTAINER_OPTIONS if option.destination in taken])


def _with_options(command: Callable[..., Any], options: Sequence[ContainerOption]) -> Callable[..., Any]:
    types = {"": None, "count": click.IntRange(min=1), "seconds": FiniteRange(min=0.01)}
    for option in reversed(options):
        command = click.option(
            *option.flags,
            option.destination,
            metavar=option.metavar,
            default=option.default,
            show_default=bool(option.default),
            multiple=option.repeatable,
            type=types[option.number],
            help=option.help,
        )(command)
    return command


@cli.command(
    "run",
    cls=RunCommand,
    epilog=RUN_EPILOG,
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    short_help="Run a program in a fresh container.",
)
@container_options
@click.argument("command", metavar="PROGRAM [ARG]...", nargs=-1, type=click.UNPROCESSED, required=True)
def run_command(**options: Any) -> int:
    """Run PROGRAM in a fresh container, with the caller's standard input, output and error."""
    from polynix.runner import parameters
    from polynix.tools.run import run_program

    try:
        return run_program(**options)
    except parameters.ParameterError as error:
        raise click.ClickException(str(error)) from None


TRACE_EPILOG = """\b
Examples:
  polynix trace make -j4
  polynix trace --filter openat,%process --output start.pftrace -- git status
  polynix trace --format text --output calls.txt -- ls
  polynix trace --flame flame.json -- make                then open it at https://www.speedscope.app
  polynix trace --bind .:/src --workdir /src -- make      options of run go before the program
  polynix trace --container web --seconds 10              what a running container does

\b
Open the file at https://ui.perfetto.dev (it stays in the browser), or with trace_processor.
Exit status: the program's, as for run; 125 when the trace cannot be written: on a full
disk what fits is in FILE.partial.
"""


@cli.command(
    "trace",
    epilog=TRACE_EPILOG,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    short_help="Run a program and write a trace of its system calls for Perfetto.",
)
@click.option("--output", "-o", metavar="FILE", default="polynix.pftrace", show_default=True, help="Where the trace goes.")
@click.option("--filter", "call_filter", metavar="FILTER", default="", help="Which system calls, as for run --strace; all by default.")
@click.option("--buffer", "megabytes", metavar="MIB", type=click.IntRange(1, 65536), default=64, show_default=True, help="Keep the last events that fit.")
@click.option("--format", "form", type=click.Choice(["perfetto", "text"]), default="perfetto", show_default=True, help="Of the file.")
@click.option("--flame", metavar="FILE", default="", help="Also sample stacks, of the kernel and of the programs: FILE.json for speedscope, else folded lines.")
@click.option("--container", metavar="NAME", default=None, help="Trace a running container (or a kernel, by its process id) instead of a program.")
@click.option("--seconds", "-s", metavar="S", type=FiniteRange(min=0.1), default=None, help="Trace the container for S seconds; by default until Ctrl-C.")
@click.argument("arguments", metavar="[[RUN OPTION]... PROGRAM [ARG]...]", nargs=-1, type=click.UNPROCESSED)
def trace_command(arguments: tuple[str, ...], container: str | None, seconds: float | None, **options: Any) -> int:
    """Run PROGRAM in a fresh container, or watch a running one, and write a trace: threads as tracks, system calls with decoded arguments, wake-ups, faults,
    signals.

    Recording costs the program a tenth of its speed in system calls; decoding comes after its end. Of a long run the last events are kept.
    """
    if bool(arguments) == (container is not None):
        raise click.UsageError("give either a program or --container")
    if container is None and seconds is not None:
        raise click.UsageError("--seconds is for --container")
    if container is not None and options["flame"]:
        raise click.UsageError("--flame is for programs that trace starts")
    from polynix.tools.trace.command import TraceOptions, trace_container, trace_program
    from polynix.tools.trace.output import TraceError

    try:
        if container is None:
            return trace_program(TraceOptions(**options), arguments)
        with _one_line_errors():
            return trace_container(TraceOptions(**options), container, seconds)
    except TraceError as error:
        raise click.ClickException(str(error)) from None


def _inspector(name: str, function: str, summary: str, *, of_process: bool = False) -> None:
    @cli.command(name, short_help=summary, help=summary + " Of all running kernels, or of one: a container's name or id, or a kernel's process id.")
    @click.argument("kernel", metavar="[KERNEL]", required=False)
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.option("--pid", metavar="PID", type=int, default=None, hidden=not of_process, help="Only this process of the container.")
    def command(kernel: str | None, as_json: bool, pid: int | None) -> None:
        from polynix.tools import inspect_kernels

        with _one_line_errors():
            getattr(inspect_kernels, function)(kernel, as_json, pid)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the tools report of kernels becomes polynix's own error."""
    from polynix.tools.inspection import InspectionError
    from polynix.tools.report.page import ReportError
    from polynix.tools.selection import NoKernel

    try:
        yield
    except (NoKernel, InspectionError, ReportError) as error:
        raise click.ClickException(str(error)) from None


@cli.command("ps", short_help="List containers, or the tasks of one.")
@click.argument("container", metavar="[CONTAINER]", required=False)
@click.option("--all", "-a", "all_", is_flag=True, help="Containers that have ended, too.")
@click.option("--quiet", "-q", is_flag=True, help="Only the ids.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--pid", metavar="PID", type=int, default=None, help="Only this process of the container.")
@container_commands.RUNNER_OPTION
def ps_command(container: str | None, all_: bool, quiet: bool, as_json: bool, pid: int | None, directory: str | None) -> int:
    """List the runner's containers, and the kernels of each `polynix run`; or the tasks of CONTAINER, a name, an id, or the process id of a kernel."""
    from polynix.tools import containers, inspect_kernels

    if container is None:
        with container_commands.one_line_errors():
            return containers.list_containers(directory, all=all_, as_json=as_json, quiet=quiet)
    with _one_line_errors():
        inspect_kernels.show_tasks(container, as_json, pid)
    return 0


_inspector("tree", "show_tree", "Show the processes as a tree, and what blocked ones wait for.", of_process=True)
_inspector("maps", "show_maps", "List the mappings of processes.", of_process=True)
_inspector("fds", "show_descriptors", "List the open descriptors of processes.", of_process=True)
_inspector("stubs", "show_stubs", "List what guests asked for and polynix lacks.")
_inspector("stats", "show_statistics", "List system calls by time (needs --feature syscall_stats).")


@cli.command("top", short_help="Watch processes and threads live.")
@click.argument("kernel", metavar="[KERNEL]", required=False)
@click.option("--threads", "-H", is_flag=True, help="One line a thread, not a process.")
@click.option("--interval", "-d", metavar="SECONDS", type=FiniteRange(min=0.05), default=1.0, show_default=True, help="Time between two looks.")
@click.option("--count", "-n", metavar="N", type=click.IntRange(min=1), default=None, help="End after so many looks.")
@click.option("--sort", metavar="FIELD", default="cpu", show_default=True, help="cpu, syscalls, faults, io, memory or pid.")
@click.option("--json", "as_json", is_flag=True, help="Print one look as JSON, threads included.")
def top_command(**options: Any) -> None:
    """Watch what processes and threads do, of all running kernels or of one: a container's name or id, or a kernel's process id.

    Everything shown is read from shared memory and from the host's own accounting: looking costs the kernels nothing.
    """
    from polynix.tools.top import show_top

    with _one_line_errors():
        show_top(**options)


PROFILE_EPILOG = """\b
Examples:
  polynix profile --report out.html -- make -j4
  polynix profile --seconds 30 --container 4711 --json out.json
  polynix profile --windows 0.2 --report out.html -- ./server-and-clients
  polynix profile --against 'gzip -c /usr/bin/git' --report out.html -- ./mine

\b
Exit status: the program's, or 1 when it was 0 and isolation was violated; 125 when
polynix itself failed, a file cannot be written, or --kill names no process.
"""


@contextlib.contextmanager
def _one_line_container_errors(program: str) -> Iterator[None]:
    """What goes wrong with a container that a tool starts becomes polynix's own error."""
    from polynix.runner.errors import ContainerError
    from polynix.runner.parameters import ParameterError

    with _one_line_errors():
        try:
            yield
        except (ContainerError, ParameterError) as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            raise click.ClickException(f"{error.filename or program}: {error.strerror or error}") from None


@cli.command(
    "profile",
    epilog=PROFILE_EPILOG,
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    short_help="Show where time and memory go, and whether processes are isolated.",
)
@click.option("--seconds", "-s", metavar="S", type=FiniteRange(min=0.1), default=None, help="Stop after S seconds; by default with the program.")
@click.option("--interval", metavar="S", type=FiniteRange(min=0.05), default=0.5, show_default=True, help="Time between two samples.")
@click.option("--report", metavar="FILE", default=None, help="Write an HTML report: one file that needs no network.")
@click.option("--json", "json_path", metavar="FILE", default=None, help="Write everything as JSON.")
@click.option("--container", metavar="NAME", default=None, help="Watch a running container (or a kernel, by its process id) instead of starting a program.")
@click.option("--windows", metavar="S", type=FiniteRange(min=0.05), default=None, help="Measure interference: hold all but one or two for S seconds each.")
@click.option("--against", metavar="COMMAND", multiple=True, help="Measure interference: whole runs beside COMMAND. Repeatable.")
@click.option("--kill", metavar="PID", type=int, default=None, help="Kill this process of the container, and see what it does to the others.")
@_measured_container_options
@click.argument("command", metavar="[PROGRAM [ARG]...]", nargs=-1, type=click.UNPROCESSED)
def profile_command(rootfs: str, binds: tuple[str, ...], user: str, features: tuple[str, ...], memory: str, **options: Any) -> int:
    """Run PROGRAM in a fresh container, or watch a running one, and report per process and thread where time goes (user, kernel, blocked, runnable),
    system calls with latency histograms, memory by kind, who waits for whom, and whether the host agrees that nobody can reach another's memory.
    """
    if bool(options["command"]) == (options["container"] is not None):
        raise click.UsageError("give either a program or --container")
    with _one_line_errors():
        from polynix.tools.report.page import check_libraries

        check_libraries()
    from polynix.tools.profile.command import ProfileOptions, profile

    with _one_line_container_errors(options["command"][0] if options["command"] else ""):
        given = {"rootfs": rootfs, "binds": binds, "user": user, "features": features, "memory": memory or 0}
        return profile(ProfileOptions(**options, container_options=given))


STRESS_EPILOG = """\b
Examples:
  polynix stress --containers 10 --processes 50 --duration 60s --report out.html
  polynix stress --mix pipe:3,fs:2 --rate 100 --ramp --seed 7
  polynix stress --faults kill:2 --processes 20
  polynix stress --processes 8 -- make -C /src test
  polynix stress --containers 40 --cluster tcp://scheduler:8786 --report out.html

\b
Exit status: 0 when everything was as it should be, 1 when something was found,
125 when polynix itself failed.
"""


@cli.command(
    "stress",
    epilog=STRESS_EPILOG,
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    short_help="Run many processes that verify what they do.",
)
@click.option("--containers", "-c", metavar="N", type=click.IntRange(1, 200), default=1, show_default=True, help="Containers, each with a kernel of its own.")
@click.option("--processes", "-p", metavar="M", type=click.IntRange(1, 4000), default=10, show_default=True, help="Workers in each container.")
@click.option("--threads", "-t", metavar="T", type=click.IntRange(1, 64), default=4, show_default=True, help="Threads of each worker that uses threads.")
@click.option("--duration", "-d", metavar="TIME", default="30s", show_default=True, help="How long: 500ms, 30s, 2m, 1h.")
@click.option("--rate", "-r", metavar="R", type=FiniteRange(min=0), default=0.0, help="Operations a second of each worker; by default as fast as they go.")
@click.option("--ramp", is_flag=True, help="Start the workers one after the other, over a quarter of the duration before it.")
@click.option("--mix", metavar="KIND:WEIGHT,...", default=None, help="Which stressors: pipe, socket, fork, mem, futex, fs, signal; by default all.")
@click.option("--faults", metavar="FAULT", multiple=True, help="kill:N workers a second; fail:RULE, delay:RULE, shorten:RULE as of run. Repeatable.")
@click.option("--seed", metavar="S", type=click.IntRange(min=0), default=None, help="Repeat a run; by default a fresh one, which is printed.")
@click.option("--cluster", metavar="ADDRESS", default=None, help="Split the containers over the workers of a Dask scheduler.")
@click.option("--report", metavar="FILE", default=None, help="Write an HTML report: one file that needs no network.")
@click.option("--json", "json_path", metavar="FILE", default=None, help="Write everything as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing.")
@_measured_container_options
@click.argument("command", metavar="[COMMAND [ARG]...]", nargs=-1, type=click.UNPROCESSED)
def stress_command(
    containers: int, processes: int, threads: int, duration: str, rate: float, ramp: bool, mix: str | None, faults: tuple[str, ...], seed: int | None,
    cluster: str | None, report: str | None, json_path: str | None, quiet: bool, command: tuple[str, ...], rootfs: str, binds: tuple[str, ...], user: str,
    features: tuple[str, ...], memory: str,
) -> int:  # fmt: skip
    """Fill containers with processes that verify what they do, data through pipes, sockets and files, private memory, wake-ups, signals, or with COMMAND
    again and again, whose exit status is its verdict. Afterwards each container must be back at its baseline of processes, descriptors and shared memory.
    """
    from polynix.tools.stress import plan as plans

    if mix is not None and command:
        raise click.UsageError("give either --mix or a command")
    try:
        seconds = plans.parse_duration(duration)
        kills, hooks = plans.parse_faults(faults)
        plan = plans.StressPlan(
            containers=containers,
            processes=processes,
            threads=threads,
            seconds=seconds,
            rate=rate,
            ramp_seconds=seconds / 4 if ramp else 0.0,
            mix=plans.check_mix(mix or plans.DEFAULT_MIX),
            command=command,
            kills_per_second=kills,
            hooks=hooks,
            seed=plans.fresh_seed() if seed is None else seed,
            container_options={"rootfs": rootfs, "binds": binds, "user": user, "features": features, "memory": memory or 0},
        )
    except ValueError as error:  # PlanError, ParameterError
        raise click.ClickException(str(error)) from None
    from polynix.tools.stress.command import StressOutput, stress

    with _one_line_container_errors(command[0] if command else "stress"):
        return stress(plan, StressOutput(report, json_path, cluster, quiet))


container_commands.register(cli, container_options, RunCommand)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status. Every error of polynix's own is one line and status 125."""
    return status_of(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> Any:
    try:
        return cli.main(arguments, prog_name="polynix", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx is not None else str(error), err=True)
        return EXIT_ERROR
    except click.ClickException as error:
        return tell_error(error.format_message())
    except click.Abort:
        return 130
