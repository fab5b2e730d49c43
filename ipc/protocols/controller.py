"""fuchsia.starnix.container.Controller: what the outside asks of a container."""

from __future__ import annotations

from enum import IntEnum

from polynix.ipc.bindings import FidlProtocol, Openness, one_way, protocol, two_way
from polynix.ipc.fidl import INT32, STRING, UINT8, UINT16, UINT32, UINT64, EnumType, HandleType, VectorType, member, struct, table
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.objects import Handle, Job


class SpawnConsoleError(IntEnum):
    INVALID_ARGS = 1
    CANCELED = 2


class SendSignalError(IntEnum):
    INVALID_TARGET = 1
    INVALID_SIGNAL = 2


class SetSyscallLogFilterError(IntEnum):
    MISSING_PROCESS_NAME = 1


@table
@dataclass(kw_only=True)
class ControllerVsockConnectRequest:
    port: int | None = member(1, UINT32)
    bridge_socket: Handle | None = member(2, HandleType(Handle))


@struct
@dataclass(frozen=True)
class ConsoleWindowSize:
    """As in struct winsize."""

    rows: int = member(UINT16)
    cols: int = member(UINT16)
    x_pixels: int = member(UINT16)
    y_pixels: int = member(UINT16)


@table
@dataclass(kw_only=True)
class ControllerSpawnConsoleRequest:
    console_in: Handle | None = member(1, HandleType(Handle))
    console_out: Handle | None = member(2, HandleType(Handle))
    binary_path: str | None = member(3, STRING)
    argv: list[str] | None = member(4, VectorType(STRING))
    environ: list[str] | None = member(5, VectorType(STRING))
    window_size: ConsoleWindowSize | None = member(6, ConsoleWindowSize)


@struct
@dataclass(frozen=True)
class ControllerSpawnConsoleResponse:
    exit_code: int = member(UINT8)


@table
@dataclass(kw_only=True)
class ControllerGetVmoReferencesRequest:
    koid: int | None = member(1, UINT64)


@table
@dataclass(kw_only=True)
class VmoReference:
    """A descriptor of a process behind which the memory lies."""

    process_name: str | None = member(1, STRING)
    pid: int | None = member(2, UINT64)
    fd: int | None = member(3, INT32)
    koid: int | None = member(4, UINT64)


@table
@dataclass(kw_only=True)
class ControllerGetVmoReferencesResponse:
    references: list[VmoReference] | None = member(1, VectorType(VmoReference))


@table
@dataclass(kw_only=True)
class ControllerGetJobHandleResponse:
    job: Job | None = member(1, HandleType(Job))


@table
@dataclass(kw_only=True)
class ControllerSendSignalRequest:
    pid: int | None = member(1, INT32)
    signal: int | None = member(2, UINT64)


@table
@dataclass(kw_only=True)
class ControllerSetSyscallLogFilterRequest:
    process_name: str | None = member(1, STRING)


@protocol("fuchsia.starnix.container.Controller", openness=Openness.OPEN)
class Controller(FidlProtocol):
    """One container."""

    @one_way()
    async def vsock_connect(self, request: ControllerVsockConnectRequest) -> None:
        """Bridge a socket to a vsock port inside, once something listens there."""
        raise NotImplementedError

    @two_way(error=EnumType(SpawnConsoleError))
    async def spawn_console(self, request: ControllerSpawnConsoleRequest) -> ControllerSpawnConsoleResponse:
        """Run a program on a terminal of its own, and wait for its end."""
        raise NotImplementedError

    @two_way()
    async def get_vmo_references(self, request: ControllerGetVmoReferencesRequest) -> ControllerGetVmoReferencesResponse:
        raise NotImplementedError

    @two_way()
    async def get_job_handle(self) -> ControllerGetJobHandleResponse:
        raise NotImplementedError

    @two_way(error=EnumType(SendSignalError))
    async def send_signal(self, request: ControllerSendSignalRequest) -> None:
        raise NotImplementedError

    @two_way(error=EnumType(SetSyscallLogFilterError))
    async def set_syscall_log_filter(self, request: ControllerSetSyscallLogFilterRequest) -> None:
        """Log the system calls of processes whose name contains ``process_name``."""
        raise NotImplementedError

    @two_way()
    async def clear_syscall_log_filters(self) -> None:
        raise NotImplementedError
