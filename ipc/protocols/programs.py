"""polynix.container: programs in a container, as its owner and its users start and steer them.

Programs are not components: they share the container's kernel. Each has a channel of its own, over which signals and window sizes go in and its end
comes out; closing it leaves the program alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from polynix.ipc.bindings import FidlProtocol, Openness, event, one_way, protocol, two_way
from polynix.ipc.fidl import (
    BOOL,
    INT32,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    HandleType,
    UnknownVariant,
    VectorType,
    decode,
    encode,
    member,
    struct,
    table,
    type_of,
    union,
)
from polynix.ipc.host_file import HostFile
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.objects import Channel, Vmo
from polynix.ipc.protocols.component import HandleInfo
from polynix.ipc.protocols.controller import ConsoleWindowSize

PROGRAMS_PROTOCOL = "polynix.container.Programs"
BYTES = VectorType(UINT8)
INLINE_LIMIT = 32768  # bytes of arguments that lie in the message itself


@struct
@dataclass(frozen=True)
class Buffer:
    """``size`` bytes at the beginning of ``vmo``."""

    vmo: Vmo = member(HandleType(Vmo))
    size: int = member(UINT64)


@union()
@dataclass(frozen=True, kw_only=True)
class Data:
    """Bytes of any number, of which a message takes 64 KiB (fuchsia.mem.Data)."""

    inline: bytes | None = member(1, BYTES)
    buffer: Buffer | None = member(2, Buffer)
    unknown: UnknownVariant | None = None

    @classmethod
    def of(cls, data: bytes) -> Data:
        if len(data) <= INLINE_LIMIT:
            return cls(inline=data)
        vmo = Vmo.create(len(data))
        vmo.write(data)
        return cls(buffer=Buffer(vmo, len(data)))

    def read(self) -> bytes:
        """The bytes, once. Errors: ZxStatus."""
        if self.buffer is None:
            return self.inline or b""
        with self.buffer.vmo as vmo:
            return vmo.read(self.buffer.size)


@struct
@dataclass(frozen=True)
class ProgramArguments:
    """What may be longer than a message: the texts of execve(2)."""

    argv: list[bytes] = member(VectorType(BYTES))
    env: list[bytes] = member(VectorType(BYTES))

    def pack(self) -> Data:
        """For :attr:`ProgramsSpawnRequest.arguments`. Errors: EncodeError, ZxStatus."""
        return Data.of(encode(type_of(ProgramArguments), self)[0])

    @classmethod
    def unpack(cls, data: Data) -> ProgramArguments:
        """Errors: DecodeError, ZxStatus."""
        arguments: ProgramArguments = decode(type_of(cls), data.read())
        return arguments


@table
@dataclass(kw_only=True)
class ProgramsSpawnRequest:
    arguments: Data | None = member(1, Data)
    directory: bytes | None = member(2, BYTES)
    """The working directory; absent: the root."""
    directory_required: bool | None = member(3, BOOL)
    """Fail without the directory, instead of starting at the root."""
    uid: int | None = member(4, UINT32)
    gid: int | None = member(5, UINT32)
    descriptors: list[HandleInfo] | None = member(6, VectorType(HandleInfo))
    """HostFiles; what isn't given is closed inside."""
    terminal: bool | None = member(7, BOOL)
    """Descriptor 0 is the caller's terminal: it becomes the program's console."""
    attached: bool | None = member(8, BOOL)
    """The caller has put its terminal in raw mode: input may be read."""
    window_size: ConsoleWindowSize | None = member(9, ConsoleWindowSize)
    program: Channel | None = member(10, HandleType(Channel))
    """The server's end of a Program."""
    controlling_terminal: HostFile | None = member(11, HandleType(HostFile))
    """Where descriptor 0 is no terminal: what the program finds as /dev/tty."""


@struct
@dataclass(frozen=True)
class SpawnFailure:
    """Why a program did not start: ``errno`` because of ``path``; 0 when polynix itself failed, as ``message`` says."""

    errno: int = member(INT32)
    message: str = member(STRING)
    path: bytes = member(BYTES)


@table
@dataclass(kw_only=True)
class ProgramsSpawnResponse:
    """One of the two."""

    pid: int | None = member(1, INT32)
    failure: SpawnFailure | None = member(2, SpawnFailure)


@table
@dataclass(kw_only=True)
class ProgramsGetKernelResponse:
    pid: int | None = member(1, INT32)
    """The host's number of the kernel process, by which its shared region is found."""


@protocol(PROGRAMS_PROTOCOL, openness=Openness.OPEN)
class Programs(FidlProtocol):
    """Starts programs in one container. The first becomes pid 1 where the container has no init of its own."""

    @two_way()
    async def spawn(self, request: ProgramsSpawnRequest) -> ProgramsSpawnResponse:
        raise NotImplementedError

    @two_way()
    async def get_kernel(self) -> ProgramsGetKernelResponse:
        """Which process answers; that it does tells that the container has booted."""
        raise NotImplementedError


@struct
@dataclass(frozen=True)
class ProgramSignalRequest:
    signal: int = member(INT32)
    group: bool = member(BOOL)
    """To the program's whole process group, as a terminal sends it."""


@struct
@dataclass(frozen=True)
class ProgramOnExitedPayload:
    status: int = member(INT32)
    """A wait status."""


@protocol("polynix.container.Program", openness=Openness.OPEN)
class Program(FidlProtocol):
    """One program that runs."""

    @two_way()
    async def signal(self, request: ProgramSignalRequest) -> None:
        """The reply says that the kernel has noted the signal; a program that has ended needs none."""
        raise NotImplementedError

    @one_way()
    async def set_window_size(self, request: ConsoleWindowSize) -> None:
        raise NotImplementedError

    @one_way()
    async def attach_terminal(self, request: ConsoleWindowSize) -> None:
        """The caller's terminal is raw (again): input may be read."""
        raise NotImplementedError

    @one_way()
    async def pause(self) -> None:
        """Stop the container as one job of the caller's shell; ``on_suspend`` follows."""
        raise NotImplementedError

    @one_way()
    async def resume(self) -> None:
        """Continue what ``pause`` stopped."""
        raise NotImplementedError

    @event()
    async def on_exited(self, payload: ProgramOnExitedPayload) -> None:
        """The last message."""
        raise NotImplementedError

    @event()
    async def on_suspend(self) -> None:
        """The job is stopped: so may the caller be."""
        raise NotImplementedError

    @event()
    async def on_input_wanted(self) -> None:
        """Somebody reads the terminal while the caller is in its background: natively, SIGTTIN would stop the job."""
        raise NotImplementedError


def window_size(window: Sequence[int]) -> ConsoleWindowSize:
    """Rows and columns, as :class:`ConsoleWindowSize`."""
    rows, columns = window
    return ConsoleWindowSize(rows, columns, 0, 0)
