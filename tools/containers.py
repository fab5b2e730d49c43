"""``polynix runner``, ``start``, ``exec``, ``ps``, ``logs`` and the others: what users do with the containers of a runner.

Each function is one command; it returns the exit status. Errors: ContainerError, ParameterError, OSError.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from polynix.runner.errors import ContainerError
from polynix.runner.log_records import OUTPUT, Record

if TYPE_CHECKING:
    from polynix.ipc.protocols.containers import ContainerStatus
    from polynix.runner.client import Runner

EXIT_ERROR = 125


def error_text(error: Exception) -> str:
    """What to tell people about an error of one of these commands."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    return str(error)


def serve(directory: str | None, log_level: str) -> int:
    """Be the runner, in the foreground."""
    from polynix.runner import parameters
    from polynix.runner.runner_process import RunnerStartError, run_service
    from polynix.runner.runtime_directory import service_path

    try:
        return run_service(directory or service_path(), parameters.check_log_level(log_level))
    except RunnerStartError as error:
        raise ContainerError(str(error)) from None


def connect(directory: str | None) -> Runner:
    """A session with the user's runner."""
    from polynix.runner.client import Runner

    return Runner(directory)


def start(
    directory: str | None, name: str | None, command: tuple[str, ...], options: dict[str, Any], *, interactive: bool = False, terminal: bool = False
) -> int:
    """Start a program detached, and print the container's id."""
    from polynix.tools.run import describe_start_failure, scripted_container_of

    with connect(directory) as runner:
        try:
            identity = runner.start_container(scripted_container_of(**options), command, name=name, interactive=interactive, terminal=terminal)
        except OSError as error:
            return describe_start_failure(error, command)
    print(identity)
    return 0


def execute(
    directory: str | None,
    name: str,
    command: tuple[str, ...],
    *,
    detach: bool,
    interactive: bool,
    tty: bool,
    environment: tuple[str, ...],
    workdir: str | None,
    user: str | None,
) -> int:
    """Run a program in a running container, with the caller's streams, or ``detach``ed without any."""
    from polynix.runner import parameters
    from polynix.runner.streams import DEVNULL
    from polynix.tools.host_terminal import HostTerminal
    from polynix.tools.run import Foreground, describe_start_failure

    if tty and not os.isatty(0):
        raise ContainerError("standard input is no terminal, so there is none to give to the program")
    variables = dict(parameters.parse_environment(text) for text in environment)
    if tty and "TERM" in os.environ:
        variables.setdefault("TERM", os.environ["TERM"])
    with connect(directory) as runner:
        container = runner.attach(name, workdir=workdir, user=user)
    container.environment.update(variables)
    if detach:
        with container:
            try:
                container.spawn(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
            except OSError as error:
                return describe_start_failure(error, command)
        return 0
    return Foreground(container, command, HostTerminal.of_caller() if tty else HostTerminal(-1), None if interactive or tty else DEVNULL).run()


def logs(directory: str | None, name: str, *, follow: bool, timestamps: bool, tail: int | None) -> int:
    """Print what the container's programs wrote, errors to standard error."""
    with connect(directory) as runner:
        for record in runner.logs(name, follow=follow, tail=tail):
            write_record(record, timestamps)
    return 0


def write_record(record: Record, timestamps: bool) -> None:
    """What a container wrote, to the stream of ours that it is for."""
    output = sys.stdout.buffer if record.stream == OUTPUT else sys.stderr.buffer
    if timestamps:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.time_ns // 1_000_000_000)) + f".{record.time_ns % 1_000_000_000:09d}Z "
        for line in record.data.splitlines(keepends=True):
            output.write(stamp.encode() + line)
    else:
        output.write(record.data)
    output.flush()


def list_containers(directory: str | None, *, all: bool, as_json: bool, quiet: bool) -> int:
    """Print the runner's containers, and the kernels that run beside it, such as those of ``polynix run``."""
    from polynix.tools.inspect_kernels import print_json, print_table, task_rows

    found: list[ContainerStatus] = []
    try:
        with connect(directory) as runner:
            found = runner.list(all=all)
    except ContainerError:
        if directory is not None:
            raise  # of one's own runner it is no error that there is none
    rows: list[dict[str, Any]] = []
    for status in found:
        assert status.state is not None and status.created_ns is not None
        row: dict[str, Any] = {"id": status.id, "name": status.name, "state": status.state.name.lower(), "exit_status": status.exit_status}
        age = (time.time_ns() - status.created_ns) / 1e9
        rows.append({**row, "kernel": status.kernel_pid, "age": round(age, 1), "command": status.command})
    known = {status.kernel_pid for status in found}
    if directory is None and not quiet:
        for task in task_rows(None):
            if task["tid"] == 1 and task["kernel"] not in known:
                row = {"id": "", "name": "", "state": "running", "exit_status": None}
                rows.append({**row, "kernel": task["kernel"], "age": task["age"], "command": task["command"]})
    if quiet:
        for row in rows:
            print(row["id"])
    elif as_json:
        print_json(rows)
    else:
        for row in rows:
            row["created"] = _age(row["age"])
            row["command"] = " ".join((row["command"] or "").split())  # a script has many lines
            row["kernel"] = row["kernel"] or ""
            if row["exit_status"] is not None:
                row["state"] = f"exited ({row['exit_status']})"
        print_table(rows, {"ID": "id", "NAME": "name", "STATE": "state", "KERNEL": "kernel", "CREATED": "created", "COMMAND": "command"})
    return 0


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit} ago"
    return f"{int(seconds)}s ago"


def for_each(directory: str | None, names: Sequence[str], do: Callable[[Runner, str], str | None], *, forgiven: tuple[type[ContainerError], ...] = ()) -> int:
    """Do something with each container, and print what ``do`` returns, its name for None. One that fails keeps no other from its turn; the exit status
    tells of it, unless the error is one of ``forgiven``.
    """
    status = 0
    with connect(directory) as runner:
        for name in names:
            try:
                text = do(runner, name)
            except ContainerError as error:
                print(f"polynix: {error}", file=sys.stderr)
                status = status if isinstance(error, forgiven) else EXIT_ERROR
                continue
            if text is None or text:
                print(name if text is None else text, flush=True)
    return status


def inspect(directory: str | None, names: Sequence[str]) -> int:
    """Print what is known of containers, as a list."""
    found: list[dict[str, Any]] = []

    def look(runner: Runner, name: str) -> str:
        found.append(runner.inspect(name))
        return ""

    status = for_each(directory, names, look)
    print(json.dumps(found, indent=2))
    return status


def signal_number(text: str) -> int:
    """``TERM``, ``SIGTERM`` or ``15``. Errors: ParameterError."""
    import signal

    from polynix.runner.parameters import ParameterError

    if text.isdigit() and 0 < int(text) <= 64:
        return int(text)
    name = text.upper()
    number = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(number, signal.Signals):
        raise ParameterError(f"{text!r} is no signal")
    return int(number)


def proxy(directory: str | None, name: str, address: str | None, target: str | None, *, remove: bool) -> int:
    """Proxy TCP connections into a container, and print where; or no more; or without ``address``, print what is proxied."""
    from polynix.runner import parameters

    if address is not None:
        parameters.tcp_address(address)
        if remove == (target is not None):
            raise ContainerError("either --to says where connections go, or --remove that they don't any more")
    elif remove or target is not None:
        raise ContainerError("which address?")
    if target is not None:
        parameters.proxy_target(target)
    with connect(directory) as runner, runner.attach(name) as container:
        if address is None:
            for known, place in container.proxies().items():
                print(known, place)
        elif target is not None:
            print(container.proxy(address, to=target))
        else:
            try:
                container.remove_proxy(address)
            except FileNotFoundError:
                raise ContainerError(f"{address} is no proxy of container {name}") from None
            print(address)
    return 0
