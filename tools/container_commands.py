"""The command line of containers that a runner keeps: ``runner``, ``start``, ``exec``, ``ps``, ``logs``, ``kill`` and so on. Imports nothing heavy before it
must.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import click
from polynix.tools.container_options import RUNNER
from polynix.tools.finite_range import FiniteRange

RUNNER_OPTION = click.option(*RUNNER.flags, RUNNER.destination, metavar=RUNNER.metavar, default=RUNNER.default, help=RUNNER.help)
NAME_ARGUMENT = click.argument("name", metavar="CONTAINER")
VERBATIM = {"ignore_unknown_options": False, "allow_interspersed_args": False}

RULE_HELP = """\b
A RULE of --fail, --delay, --shorten and --kill is CALL[+CALL...][:KEY=VALUE,...].
CALL is a system call's name, a glob, or %read %write %space %disk %memory. Keys:
path (a glob), process (a glob or pid), after, every, times, probability, seed;
error=ENOSPC (fail), seconds=0.1 (delay), count=1 (shorten), signal=TERM (kill).
"""

START_EPILOG = f"""\b
Examples:
  polynix runner &                                  once, or as a service of systemd
  polynix start web -- python3 -m http.server 80
  polynix start --fail 'write:path=/data/*,error=ENOSPC,after=3' web ./server
  polynix exec -it web -- bash
  polynix logs -f web
  polynix start -it shell -- bash; polynix attach shell    Ctrl-P Ctrl-Q leaves it
  polynix stop web; polynix wait web; polynix rm web

\b
Containers end with their runner. CONTAINER is a name, an id, or the beginning of an id.

{RULE_HELP}"""


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What can go wrong is one line and status 125."""
    from polynix.runner.errors import ContainerError
    from polynix.runner.parameters import ParameterError
    from polynix.tools.containers import error_text

    try:
        yield
    except (ContainerError, ParameterError, OSError) as error:
        raise click.ClickException(error_text(error)) from None


def register(cli: click.Group, container_options: Callable[[Callable[..., Any]], Callable[..., Any]], run_command: type[click.Command]) -> None:
    """Add the commands. ``container_options`` are those of ``polynix run`` that shape a container."""

    @cli.command("runner", short_help="Keep containers, for start, exec, ps and the others.")
    @click.option("--directory", metavar="DIR", default=None, help="By default $XDG_RUNTIME_DIR/polynix.")
    @click.option("--log-level", metavar="LEVEL", default="info", show_default=True, help="debug, info, warning, error.")
    def runner(directory: str | None, log_level: str) -> int:
        """Keep containers: serve start, exec, ps and the others in the foreground, until SIGTERM or SIGINT; then the containers end, too."""
        from polynix.tools import containers

        with one_line_errors():
            return containers.serve(directory, log_level)

    @cli.command("start", cls=run_command, epilog=START_EPILOG, context_settings=VERBATIM, short_help="Start a program in a container that a runner keeps.")
    @RUNNER_OPTION
    @click.option("--interactive", "-i", is_flag=True, help="Keep its standard input open, for `polynix attach`.")
    @click.option("--tty", "-t", "terminal", is_flag=True, help="Give it a terminal.")
    @container_options
    @NAME_ARGUMENT
    @click.argument("command", metavar="PROGRAM [ARG]...", nargs=-1, type=click.UNPROCESSED, required=True)
    def start(directory: str | None, name: str, command: tuple[str, ...], interactive: bool, terminal: bool, **options: Any) -> int:
        """Start PROGRAM detached, in a container called CONTAINER, and print its id. What it writes is kept for `polynix logs`."""
        from polynix.tools import containers

        with one_line_errors():
            return containers.start(directory, name, command[1:] if command[0] == "--" else command, options, interactive=interactive, terminal=terminal)

    @cli.command("attach", short_help="Connect to the standard streams of a container's program.")
    @RUNNER_OPTION
    @NAME_ARGUMENT
    def attach(directory: str | None, name: str) -> int:
        """Show what the program of CONTAINER writes from now on, and give it the caller's standard input if it was started with -i.

        From a terminal, Ctrl-P Ctrl-Q detaches and leaves it running; without one, signals go to the program. The exit status is the program's.
        """
        from polynix.tools import attach as attaching
        from polynix.tools import containers

        with one_line_errors(), containers.connect(directory) as runner:
            return attaching.attach(runner, name)

    @cli.command("exec", context_settings=VERBATIM, short_help="Run a program in a running container.")
    @RUNNER_OPTION
    @click.option("--detach", "-d", is_flag=True, help="Don't wait for it; it has no standard streams.")
    @click.option("--interactive", "-i", is_flag=True, help="Give it the caller's standard input.")
    @click.option("--tty", "-t", is_flag=True, help="Give it a terminal inside, connected to the caller's.")
    @click.option("--env", "-e", "environment", metavar="K=V", multiple=True, help="Set an environment variable. Repeatable.")
    @click.option("--workdir", "-w", metavar="DIR", default=None, help="Working directory inside.")
    @click.option("--user", "-u", metavar="UID[:GID]", default=None, help="User inside.")
    @NAME_ARGUMENT
    @click.argument("command", metavar="PROGRAM [ARG]...", nargs=-1, type=click.UNPROCESSED, required=True)
    def execute(directory: str | None, name: str, command: tuple[str, ...], **options: Any) -> int:
        """Run PROGRAM beside the others in CONTAINER, by default as the user, in the directory and with the environment that CONTAINER was started with. The
        exit status is the program's.
        """
        from polynix.tools import containers

        with one_line_errors():
            return containers.execute(directory, name, command[1:] if command[0] == "--" else command, **options)

    @cli.command("logs")
    @RUNNER_OPTION
    @click.option("--follow", "-f", is_flag=True, help="Go on until the container ends.")
    @click.option("--timestamps", "-t", is_flag=True, help="Begin each line with its time.")
    @click.option("--tail", "-n", metavar="N", type=click.IntRange(min=0), default=None, help="Only the last N lines, and with -f what follows.")
    @NAME_ARGUMENT
    def logs(directory: str | None, name: str, **options: Any) -> int:
        """Show what a container's programs wrote. The newest 16 to 32 MiB are kept."""
        from polynix.tools import containers

        with one_line_errors():
            return containers.logs(directory, name, **options)

    @cli.command("kill")
    @RUNNER_OPTION
    @click.option("--signal", "-s", "signal", metavar="SIGNAL", default="KILL", show_default=True, help="A name or a number.")
    @click.argument("names", metavar="CONTAINER...", nargs=-1, required=True)
    def kill(directory: str | None, signal: str, names: tuple[str, ...]) -> int:
        """Send a signal to containers. The signal goes to the program that the container was started with."""
        from polynix.tools import containers

        with one_line_errors():
            number = containers.signal_number(signal)
            return containers.for_each(directory, names, lambda runner, name: runner.kill(name, number))

    @cli.command("stop")
    @RUNNER_OPTION
    @click.option("--time", "-t", "seconds", metavar="SECONDS", type=FiniteRange(min=0), default=10.0, show_default=True, help="Time before SIGKILL.")
    @click.argument("names", metavar="CONTAINER...", nargs=-1, required=True)
    def stop(directory: str | None, seconds: float, names: tuple[str, ...]) -> int:
        """Stop containers: SIGTERM, then SIGKILL. Returns when they have ended."""
        from polynix.tools import containers

        with one_line_errors():
            return containers.for_each(directory, names, lambda runner, name: runner.stop(name, seconds))

    @cli.command("wait")
    @RUNNER_OPTION
    @click.argument("names", metavar="CONTAINER...", nargs=-1, required=True)
    def wait(directory: str | None, names: tuple[str, ...]) -> int:
        """Wait until containers end, and print their exit statuses. 128+n stands for signal n, as in a shell."""
        from polynix.tools import containers

        with one_line_errors():
            return containers.for_each(directory, names, lambda runner, name: str(runner.wait(name)))

    @cli.command("rm")
    @RUNNER_OPTION
    @click.option("--force", "-f", is_flag=True, help="Kill those that run; that there is none is no error.")
    @click.argument("names", metavar="CONTAINER...", nargs=-1, required=True)
    def remove(directory: str | None, force: bool, names: tuple[str, ...]) -> int:
        """Forget containers that have ended. Their logs are removed, too."""
        from polynix.runner.errors import NoSuchContainer
        from polynix.tools import containers

        with one_line_errors():
            forgiven = (NoSuchContainer,) if force else ()
            return containers.for_each(directory, names, lambda runner, name: runner.remove(name, force=force), forgiven=forgiven)

    @cli.command("inspect")
    @RUNNER_OPTION
    @click.argument("names", metavar="CONTAINER...", nargs=-1, required=True)
    def inspect(directory: str | None, names: tuple[str, ...]) -> int:
        """Print what is known of containers, as JSON. A list with one object for each that there is."""
        from polynix.tools import containers

        with one_line_errors():
            return containers.inspect(directory, names)

    def sleep_command(name: str, summary: str, text: str) -> None:
        @cli.command(name, help=f"{summary} {text}")
        @RUNNER_OPTION
        @click.argument("names", metavar="CONTAINER...", nargs=-1, required=True)
        def command(directory: str | None, names: tuple[str, ...]) -> int:
            from polynix.tools import containers

            with one_line_errors():
                return containers.for_each(directory, names, lambda runner, container: getattr(runner, name)(container))

    sleep_command(
        "suspend", "Hold all processes of containers.", "They use no CPU, and CLOCK_MONOTONIC stands still, until they are resumed or a message wakes them."
    )
    sleep_command("resume", "Let suspended containers go on.", "Being awake is no error.")

    @cli.command("proxy", short_help="Proxy TCP connections into a container.")
    @RUNNER_OPTION
    @NAME_ARGUMENT
    @click.argument("address", metavar="[tcp://ADDRESS:PORT]", required=False)
    @click.option("--to", "target", metavar="unix:/PATH|port:N", default=None, help="A unix socket inside (unix:@NAME is abstract), or a port of AF_VSOCK.")
    @click.option("--remove", is_flag=True, help="Listen at the address no more, and reset the connections that came there.")
    def proxy(directory: str | None, name: str, address: str | None, target: str | None, remove: bool) -> int:
        """Let the runner listen at an address of the host, and connect who comes to a socket in CONTAINER, until that ends. The first message of a
        connection wakes a suspended container. Prints the address: PORT 0 is any free one. Without an address, lists the proxies of CONTAINER.
        """
        from polynix.tools import containers

        with one_line_errors():
            return containers.proxy(directory, name, address, target, remove=remove)
