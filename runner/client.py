"""Runner: a client of a runner that runs as a service, for programs and for the command line.

For example::

    runner = polynix.Runner()
    runner.start(["redis-server"], name="cache", suspend_after=60.0)
    with runner.attach("cache") as container:
        container.run(["redis-cli", "ping"])
    runner.stop("cache")
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from polynix.ipc.bindings import MethodError
from polynix.ipc.client import BlockingClient, PolledClient
from polynix.ipc.fidl import FidlError
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.objects import Channel, ZxStatus
from polynix.ipc.protocols.component import Directory, DirectoryOpenRequest
from polynix.ipc.protocols.containers import (
    ContainerName,
    Containers,
    ContainersError,
    ContainersKillRequest,
    ContainersListRequest,
    ContainersOpenRequest,
    ContainersReadLogRequest,
    ContainersRemoveRequest,
    ContainersSetWindowSizeRequest,
    ContainersStartRequest,
    ContainersStopRequest,
    ContainerStatus,
)
from polynix.ipc.protocols.programs import Data, ProgramArguments, ProgramsSpawnRequest, window_size
from polynix.ipc.session import Session
from polynix.runner import parameters
from polynix.runner.errors import ContainerError, NoSuchContainer
from polynix.runner.log_records import LastLines, Record, parse_records
from polynix.runner.runtime_directory import service_path

if TYPE_CHECKING:
    from polynix.runner.container import Container
    from polynix.runner.process import Argument

_COMMAND_SHOWN = 200
_TEXTS = {
    ContainersError.NO_SUCH_CONTAINER: "no such container: {}",
    ContainersError.NAME_IN_USE: "the name {!r} is in use",
    ContainersError.INVALID_NAME: "{!r} is no name: letters, digits, '_', '.' and '-', at most 63, and a letter or digit first",
    ContainersError.NOT_RUNNING: "container {} is not running",
    ContainersError.STILL_RUNNING: "container {} is running: stop it, or remove it by force",
    ContainersError.SUSPEND_FAILED: "container {} cannot be suspended",
    ContainersError.AMBIGUOUS_ID: "more than one container has an id that begins with {}",
}


@dataclass(frozen=True)
class Attachment:
    """The standard streams of a container's program, as :meth:`Runner.attach_streams` gives them."""

    input: int | None
    """A descriptor, the caller's to close, that what the program reads is written to without blocking; None where its input isn't open."""
    terminal: bool
    offset: int
    """:meth:`Runner.logs` from here on is what the program writes from now on."""


class Runner:
    """One session with the runner in ``directory``, by default the user's own. From any thread, one call at a time."""

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        """Errors: ContainerError when no runner is there."""
        self.directory = service_path() if directory is None else os.fspath(directory)
        try:
            self.session = Session.connect(self.directory)
            self._containers = BlockingClient(Containers, self._open(Containers.__fidl_protocol__.name))
        except (OSError, ZxStatus) as error:
            raise ContainerError(f"no runner in {self.directory}: start one with `polynix runner` ({error})") from error

    def _open(self, name: str) -> Channel:
        ours, theirs = Channel.create()
        method = Directory.__fidl_protocol__.by_attribute["open"]
        self.session.root.write(*method.encode_request(0, DirectoryOpenRequest(name=name, channel=theirs)))
        return ours

    def _call(self, about: str, method: Callable[..., Any], request: Any) -> Any:
        try:
            return self._containers.call(method, request)
        except (MethodError, FidlError, ZxStatus) as error:
            raise self._error(about, error) from None

    def _error(self, about: str, error: Exception) -> ContainerError:
        """What to tell people."""
        if isinstance(error, MethodError) and error.error in _TEXTS:
            kind = NoSuchContainer if error.error == ContainersError.NO_SUCH_CONTAINER else ContainerError
            return kind(_TEXTS[ContainersError(error.error)].format(about))
        return ContainerError(f"the runner does not answer: {error}")

    # -- containers --------------------------------------------------------------------------------------------------------------

    def start(
        self,
        args: Sequence[Argument],
        *,
        name: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
        interactive: bool = False,
        terminal: bool = False,
        **options: Any,
    ) -> str:
        """Start a program in a container of its own, detached; returns the container's id. ``interactive`` keeps its standard input open for those who
        attach, ``terminal`` makes its streams a terminal, ``options`` are those of :class:`Container`.

        Errors: ContainerError, ParameterError; OSError when the program cannot be started.
        """
        from polynix.runner.container import Container

        specification = Container(init=False, workdir=None if cwd is None else os.fspath(cwd), **options)
        return self.start_container(specification, args, name=name, interactive=interactive, terminal=terminal)

    def start_container(
        self, specification: Container, args: Sequence[Argument], *, name: str | None = None, interactive: bool = False, terminal: bool = False
    ) -> str:
        """:meth:`start`, in a container like ``specification``."""
        from polynix.runner.process import encode_argument

        argv = [encode_argument(argument) for argument in args]
        environment = [os.fsencode(variable) for variable in parameters.environment_list(specification.environment)]
        directory = specification.workdir
        program = ProgramsSpawnRequest(
            arguments=ProgramArguments(argv, environment).pack(),
            directory=os.fsencode(directory) if directory is not None else os.getcwdb(),
            directory_required=directory is not None,
            uid=specification.user[0],
            gid=specification.user[1],
            terminal=terminal,
        )
        request = ContainersStartRequest(
            name=name,
            options=specification.options.to_json(),
            script=Data.of(json.dumps(specification.take_script()).encode()),
            program=program,
            interactive=interactive,
            command=b" ".join(argv)[:_COMMAND_SHOWN].decode(errors="replace"),
        )
        response = self._call(name or "", Containers.start, request)
        if response.failure is not None:
            if response.failure.errno:
                raise OSError(response.failure.errno, response.failure.message, os.fsdecode(response.failure.path))
            raise ContainerError(response.failure.message)
        identity: str = response.id
        return identity

    def list(self, *, all: bool = False) -> list[ContainerStatus]:
        """The containers that run, or all that are known, in the order of their making."""
        found: list[ContainerStatus] = []
        while page := self._call("", Containers.list, ContainersListRequest(all, found[-1].id or "" if found else "")).containers:
            found += page
        return found

    def attach(self, name: str, **defaults: Any) -> Container:
        """A running container in which programs may be started; leaving it leaves the container alone. ``defaults`` are ``env``, ``workdir`` and ``user``
        of :class:`Container`; those of the container's own program where they aren't given. Errors: ContainerError.
        """
        from polynix.runner.connection import ContainerConnection
        from polynix.runner.container import Container

        program = self.inspect(name)["program"]
        environment = dict(variable.partition("=")[::2] for variable in program["env"])
        defaults = {"env": environment, "user": tuple(program["user"]), **{key: value for key, value in defaults.items() if value is not None}}
        session = Session.connect(self.directory, threaded=False)  # who waits for a program polls
        ours, theirs = Channel.create()
        directory = PolledClient(Directory, session.root)
        channel, containers_end = Channel.create()
        directory.send(Directory.open, DirectoryOpenRequest(name=Containers.__fidl_protocol__.name, channel=containers_end))
        containers = PolledClient(Containers, channel)
        outcome: list[Exception | None] = []

        def finish(_reply: Any, error: Exception | None) -> bool:
            outcome.append(error)
            return True

        containers.send(Containers.open, ContainersOpenRequest(name, theirs), finish)
        while not outcome:
            select.select([session], [], [])
            session.process()
            containers.pump()
        containers.close()
        if outcome[0] is not None:
            ours.close()
            session.close()
            raise self._error(name, outcome[0])
        return Container.attached(ContainerConnection(session, ours), os.fsencode(program["directory"]), **defaults)

    def inspect(self, name: str) -> dict[str, Any]:
        """All that is known of it."""
        known: dict[str, Any] = json.loads(self._call(name, Containers.inspect, ContainerName(name)).text.read())
        return known

    def wait(self, name: str) -> int:
        """Wait for its end; returns the exit status, 128+n for signal n."""
        status: ContainerStatus = self._call(name, Containers.wait, ContainerName(name))
        return status.exit_status or 0

    def kill(self, name: str, signal: int = 9) -> None:
        """Send a signal to its program."""
        self._call(name, Containers.kill, ContainersKillRequest(name, int(signal)))

    def stop(self, name: str, timeout: float = 10.0) -> None:
        """SIGTERM, and SIGKILL after ``timeout`` seconds; returns when it has ended."""
        self._call(name, Containers.stop, ContainersStopRequest(name, int(timeout * 1e9)))

    def remove(self, name: str, *, force: bool = False) -> None:
        """Forget a container that has ended, with its log; ``force`` kills it first."""
        self._call(name, Containers.remove, ContainersRemoveRequest(name, force))

    def suspend(self, name: str) -> None:
        """Hold all its processes until it is resumed, or a wake source wakes it."""
        self._call(name, Containers.suspend, ContainerName(name))

    def resume(self, name: str) -> None:
        self._call(name, Containers.resume, ContainerName(name))

    def attach_streams(self, name: str) -> Attachment:
        """Share its program's standard streams, as ``polynix attach`` does."""
        response = self._call(name, Containers.attach, ContainerName(name))
        return Attachment(None if response.input is None else response.input.detach(), response.terminal, response.offset)

    def set_window_size(self, name: str, rows: int, columns: int) -> None:
        """Of its terminal."""
        self._call(name, Containers.set_window_size, ContainersSetWindowSizeRequest(name, window_size((rows, columns))))

    def logs(self, name: str, *, follow: bool = False, tail: int | None = None, offset: int = 0) -> Iterator[Record]:
        """What its programs have written, oldest first, beginning at ``offset``, or of that the last ``tail`` lines; with ``follow`` then what they write
        until it ends.
        """
        if tail is not None:
            lines = LastLines(tail)
            for known, record in self._log(name, offset, False):
                offset = known
                lines.add(record)
            yield from lines
            if not follow:
                return
        for _known, record in self._log(name, offset, follow):
            yield record

    def _log(self, name: str, offset: int, follow: bool) -> Iterator[tuple[int, Record]]:
        """The records from ``offset`` on, each after the offset to ask for when what came with it is known."""
        while True:
            answer = self._call(name, Containers.read_log, ContainersReadLogRequest(name, offset, follow))
            offset = answer.offset + len(answer.data)
            for record in parse_records(answer.data):
                yield offset, record
            if answer.ended or (not answer.data and not follow):
                return

    # -- the session -------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the session; containers go on."""
        self._containers.close()
        self.session.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
