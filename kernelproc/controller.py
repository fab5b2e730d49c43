"""fuchsia.starnix.container.Controller: what the outside asks of a container, served in the kernel's loop.

Source: Starnix's ``kernel/runner/src/serve_protocols.rs``. Unlike there, a program that cannot be started costs its caller an error and nobody else
anything.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import MemoryObject
from polynix.ipc.bindings import MethodError
from polynix.ipc.host_file import HostFile
from polynix.ipc.objects import Channel, Job
from polynix.ipc.protocols.controller import (
    Controller,
    ControllerGetJobHandleResponse,
    ControllerGetVmoReferencesRequest,
    ControllerGetVmoReferencesResponse,
    ControllerSendSignalRequest,
    ControllerSetSyscallLogFilterRequest,
    ControllerSpawnConsoleRequest,
    ControllerSpawnConsoleResponse,
    ControllerVsockConnectRequest,
    SendSignalError,
    SetSyscallLogFilterError,
    SpawnConsoleError,
    VmoReference,
)
from polynix.kernelproc.connections import connect_vsock
from polynix.kernelproc.console_session import run_on_console
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fidl_loop import EngineServer
from polynix.kernelproc.programs import take_descriptor
from polynix.kernelproc.signals.send import send_to_group
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.signals.signal_state import NSIG
from polynix.kernelproc.syscall_log import SyscallLog
from polynix.kernelproc.uapi.signal import SI_USER

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.vfs.file_object import FileObject

log = logging.getLogger(__name__)


class ContainerController(Controller):
    """One container's Controller; serves any number of clients."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.job = Job.create()
        self.syscall_log = SyscallLog(kernel)

    def serve(self, channel: Channel) -> None:
        """Serve one more client."""
        EngineServer(self.kernel.engine, Controller, self, channel)

    async def get_job_handle(self) -> ControllerGetJobHandleResponse:
        return ControllerGetJobHandleResponse(job=self.job.duplicate())

    async def send_signal(self, request: ControllerSendSignalRequest) -> None:
        group = None if request.pid is None else self.kernel.pids.thread_groups.get(request.pid)
        if group is None or group.exited or request.signal is None:
            raise MethodError(SendSignalError.INVALID_TARGET)
        if not 0 < request.signal <= NSIG:
            raise MethodError(SendSignalError.INVALID_SIGNAL)
        send_to_group(group, SigInfo(request.signal, SI_USER))

    async def spawn_console(self, request: ControllerSpawnConsoleRequest) -> ControllerSpawnConsoleResponse:
        source, sink = request.console_in, request.console_out
        if not isinstance(source, HostFile) or not isinstance(sink, HostFile) or not request.binary_path:
            raise MethodError(SpawnConsoleError.INVALID_ARGS)
        path = request.binary_path.encode()
        argv = [argument.encode() for argument in request.argv or (request.binary_path,)]
        env = [variable.encode() for variable in request.environ or ()]
        if any(b"\0" in text for text in (path, *argv, *env)):
            raise MethodError(SpawnConsoleError.INVALID_ARGS)
        size = request.window_size
        window = (0, 0, 0, 0) if size is None else (size.rows, size.cols, size.x_pixels, size.y_pixels)
        with source, sink:
            descriptors = take_descriptor(source), take_descriptor(sink)
        try:
            status = await run_on_console(self.kernel, descriptors, path, argv, env, window)
        except Errno as error:
            log.info("cannot spawn %s on a console: %s", request.binary_path, error)
            raise MethodError(SpawnConsoleError.INVALID_ARGS) from None
        if status & 0x7F:
            raise MethodError(SpawnConsoleError.CANCELED)
        return ControllerSpawnConsoleResponse(status >> 8 & 0xFF)

    async def get_vmo_references(self, request: ControllerGetVmoReferencesRequest) -> ControllerGetVmoReferencesResponse:
        """Which descriptors of which processes lead to a memory object of the kernel; its koid is ``MemoryObject.id``."""
        found = []
        for group in list(self.kernel.pids.thread_groups.values()):
            if group.exited:
                continue
            for fd, file in list(group.leader.files.files.items()):
                memory = _memory_of(file)
                if memory is not None and (request.koid is None or memory.id == request.koid):
                    name = group.leader.comm.decode(errors="replace")
                    found.append(VmoReference(process_name=name, pid=group.pid, fd=fd, koid=memory.id))
        return ControllerGetVmoReferencesResponse(references=found)

    async def set_syscall_log_filter(self, request: ControllerSetSyscallLogFilterRequest) -> None:
        if request.process_name is None:
            raise MethodError(SetSyscallLogFilterError.MISSING_PROCESS_NAME)
        self.syscall_log.add_filter(request.process_name.encode())

    async def clear_syscall_log_filters(self) -> None:
        self.syscall_log.clear()

    async def vsock_connect(self, request: ControllerVsockConnectRequest) -> None:
        if request.port is None or not isinstance(request.bridge_socket, HostFile):
            log.warning("VsockConnect without a port or a socket")
            return
        with request.bridge_socket as bridge:
            connect_vsock(self.kernel, request.port, take_descriptor(bridge))


def _memory_of(file: FileObject) -> MemoryObject | None:
    """The memory that a file already is (a memfd, a tmpfs file that was mapped); looking makes none."""
    for place in (file.node.ops, file.ops):
        memory = getattr(place, "memory", None)
        if isinstance(memory, MemoryObject):
            return memory
    return None
