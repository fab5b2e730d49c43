"""polynix.runner.Containers: the named containers of a runner, as its users see them.

They are started detached, and their output is kept; an ended container is known until it is removed. A container is named by its name, its id, or the
beginning of its id that no other has.
"""

from __future__ import annotations

from enum import IntEnum

from polynix.ipc.bindings import FidlProtocol, Openness, protocol, two_way
from polynix.ipc.fidl import BOOL, INT32, INT64, STRING, UINT64, EnumType, HandleType, StringType, VectorType, member, struct, table
from polynix.ipc.host_file import HostFile
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.objects import Channel
from polynix.ipc.protocols.component import MAX_NAME
from polynix.ipc.protocols.controller import ConsoleWindowSize
from polynix.ipc.protocols.programs import BYTES, Data, ProgramsSpawnRequest, SpawnFailure

PAGE = 64  # containers in one answer
LOG_PIECE = 32768  # bytes of a log in one answer


class ContainersError(IntEnum):
    NO_SUCH_CONTAINER = 1
    NAME_IN_USE = 2
    INVALID_NAME = 3
    NOT_RUNNING = 4
    STILL_RUNNING = 5
    SUSPEND_FAILED = 6
    AMBIGUOUS_ID = 7


class ContainerState(IntEnum):
    RUNNING = 1
    SUSPENDED = 2
    EXITED = 3


@table
@dataclass(kw_only=True)
class ContainerStatus:
    id: str | None = member(1, STRING)
    name: str | None = member(2, STRING)
    command: str | None = member(3, StringType(256))
    """The beginning of it, for people."""
    state: ContainerState | None = member(4, EnumType(ContainerState))
    created_ns: int | None = member(5, INT64)
    """CLOCK_REALTIME, as ``ended_ns``."""
    ended_ns: int | None = member(6, INT64)
    exit_status: int | None = member(7, INT32)
    """As a shell says it: 128+n for signal n."""
    kernel_pid: int | None = member(8, INT32)
    message: str | None = member(9, STRING)
    """What went wrong, if it did not end by itself."""


@table
@dataclass(kw_only=True)
class ContainersStartRequest:
    name: str | None = member(1, StringType(MAX_NAME))
    """Absent: the beginning of the id."""
    options: str | None = member(2, STRING)
    """ContainerOptions as JSON."""
    program: ProgramsSpawnRequest | None = member(3, ProgramsSpawnRequest)
    """Without descriptors and channel; ``terminal`` asks for a terminal of the container's own."""
    command: str | None = member(4, StringType(256))
    script: Data | None = member(5, Data)
    """A JSON list of what Scripting is asked for before the program starts."""
    interactive: bool | None = member(6, BOOL)
    """Keep the program's standard input open, for those who attach; absent: it is empty."""


@table
@dataclass(kw_only=True)
class ContainersStartResponse:
    """One of the two."""

    id: str | None = member(1, STRING)
    failure: SpawnFailure | None = member(2, SpawnFailure)


@struct
@dataclass(frozen=True)
class ContainersListRequest:
    all: bool = member(BOOL)
    """Those that have ended, too."""
    after: str = member(StringType(MAX_NAME))
    """The id of the last one that is known already; empty for the first page."""


@struct
@dataclass(frozen=True)
class ContainersListResponse:
    containers: list[ContainerStatus] = member(VectorType(ContainerStatus, PAGE))
    """In the order of their making; empty after the last."""


@struct
@dataclass(frozen=True)
class ContainerName:
    name: str = member(StringType(MAX_NAME))


@struct
@dataclass(frozen=True)
class ContainersOpenRequest:
    name: str = member(StringType(MAX_NAME))
    directory: Channel = member(HandleType(Channel))
    """The server's end of a Directory of what the container offers."""


@struct
@dataclass(frozen=True)
class ContainersKillRequest:
    name: str = member(StringType(MAX_NAME))
    signal: int = member(INT32)


@struct
@dataclass(frozen=True)
class ContainersStopRequest:
    name: str = member(StringType(MAX_NAME))
    timeout_ns: int = member(INT64)
    """Between SIGTERM and SIGKILL."""


@struct
@dataclass(frozen=True)
class ContainersRemoveRequest:
    name: str = member(StringType(MAX_NAME))
    force: bool = member(BOOL)
    """Kill it first, if it runs."""


@struct
@dataclass(frozen=True)
class ContainersReadLogRequest:
    name: str = member(StringType(MAX_NAME))
    offset: int = member(UINT64)
    follow: bool = member(BOOL)
    """Wait for something beyond ``offset``, or for the end."""


@struct
@dataclass(frozen=True)
class ContainersReadLogResponse:
    offset: int = member(UINT64)
    """Where ``data`` begins; more than was asked for if that has been dropped."""
    data: bytes = member(BYTES)
    """Whole records (polynix.runner.log_records), none after the last."""
    ended: bool = member(BOOL)
    """Nothing will be added."""


@table
@dataclass(kw_only=True)
class ContainersAttachResponse:
    input: HostFile | None = member(1, HandleType(HostFile))
    """What the program reads as standard input is written here, without blocking; absent where that isn't open."""
    terminal: bool | None = member(2, BOOL)
    """The input is that of a terminal."""
    offset: int | None = member(3, UINT64)
    """Of the log: what is written from now on begins there."""


@struct
@dataclass(frozen=True)
class ContainersSetWindowSizeRequest:
    name: str = member(StringType(MAX_NAME))
    size: ConsoleWindowSize = member(ConsoleWindowSize)


@struct
@dataclass(frozen=True)
class ContainersInspectResponse:
    text: Data = member(Data)
    """JSON."""


@protocol("polynix.runner.Containers", openness=Openness.OPEN)
class Containers(FidlProtocol):
    """One runner's."""

    @two_way(error=EnumType(ContainersError))
    async def start(self, request: ContainersStartRequest) -> ContainersStartResponse:
        raise NotImplementedError

    @two_way()
    async def list(self, request: ContainersListRequest) -> ContainersListResponse:
        raise NotImplementedError

    @two_way(error=EnumType(ContainersError))
    async def open(self, request: ContainersOpenRequest) -> None:
        """Connect to what a running container offers."""
        raise NotImplementedError

    @two_way(error=EnumType(ContainersError))
    async def kill(self, request: ContainersKillRequest) -> None:
        """Send a signal to the container's program."""
        raise NotImplementedError

    @two_way(error=EnumType(ContainersError))
    async def stop(self, request: ContainersStopRequest) -> None:
        """SIGTERM, and SIGKILL if that does not end it; the reply comes when it has ended."""
        raise NotImplementedError

    @two_way(error=EnumType(ContainersError))
    async def wait(self, request: ContainerName) -> ContainerStatus:
        """The reply comes when it has ended."""
        raise NotImplementedError

    @two_way(error=EnumType(ContainersError))
    async def remove(self, request: ContainersRemoveRequest) -> None:
        raise NotImplementedError

    @two_way(error=EnumType(ContainersError))
    async def inspect(self, request: ContainerName) -> ContainersInspectResponse:
        raise NotImplementedError

    @two_way(error=EnumType(ContainersError))
    async def read_log(self, request: ContainersReadLogRequest) -> ContainersReadLogResponse:
        raise NotImplementedError

    @two_way(error=EnumType(ContainersError))
    async def attach(self, request: ContainerName) -> ContainersAttachResponse:
        """Share the standard streams of a running container's program; what it writes is read from the log."""
        raise NotImplementedError

    @two_way(error=EnumType(ContainersError))
    async def set_window_size(self, request: ContainersSetWindowSizeRequest) -> None:
        """Of the terminal of a running container, if it has one."""
        raise NotImplementedError

    @two_way(error=EnumType(ContainersError))
    async def suspend(self, request: ContainerName) -> None:
        """Hold all its processes; the reply comes when it sleeps."""
        raise NotImplementedError

    @two_way(error=EnumType(ContainersError))
    async def resume(self, request: ContainerName) -> None:
        """The reply comes when it is awake."""
        raise NotImplementedError
