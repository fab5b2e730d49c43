"""Boot: waits for the container to be asked for, builds its Kernel, mounts its file systems, serves its protocols, runs the loop, and takes
everything down.

The order is Starnix's (``kernel/runner/src/container.rs``): kernel object, features, root file system, device nodes and virtual
file systems, init.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import resource
import select
import socket
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

from polynix.addrspace._restricted import SUSPENDED_NS, Monitor
from polynix.addrspace.host_vdso import publish_host_vdso
from polynix.addrspace.memory_manager import MemoryManager
from polynix.addrspace.region import RegionFactory, SharedMemoryUnavailable
from polynix.addrspace.stub_pool import StubPool
from polynix.ipc.descriptor_table import make_room_for_descriptors
from polynix.ipc.session import Session
from polynix.kernelproc.clock import HostClock
from polynix.kernelproc.container import Container, Start, take_standard_error, wait_for_runner, wait_for_start
from polynix.kernelproc.engine import Engine
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.hot_text import enable_patching
from polynix.kernelproc.incoming_directory import IncomingDirectory
from polynix.kernelproc.inspector.server import Inspector
from polynix.kernelproc.kernel import Kernel, UtsNamespace
from polynix.kernelproc.kthreads import KernelThreads
from polynix.kernelproc.modules import load as load_modules
from polynix.kernelproc.modules import load_file as load_module_file
from polynix.kernelproc.notes import Notes
from polynix.kernelproc.power.autosleep import Autosleep
from polynix.kernelproc.registry import modules
from polynix.kernelproc.shared_region import SharedRegion
from polynix.kernelproc.syscall_loop import SyscallLoop
from polynix.kernelproc.task.kernel_tasks import start_builtin_init, start_kthreadd
from polynix.kernelproc.task.out_of_memory import MemoryWatch

if TYPE_CHECKING:
    from polynix.kernelproc.options import ContainerOptions

log = logging.getLogger(__name__)

NOBODY = 65534  # whom the stubs become when the kernel process runs as root


class BootError(Exception):
    """The container cannot be started, for a reason that the user can do something about; the text is one line."""

    expected = True


def import_all() -> None:
    """What boot imports when it comes to it, before: for a process that kernel processes are forked from."""
    import polynix.kernelproc.mounts
    import polynix.kernelproc.syscalls.all  # noqa: F401
    import posix_ipc  # noqa: F401


def run_kernel(beside: socket.socket) -> None:
    """The kernel process, from its first message to the container's end. ``beside`` is the socket of its session."""
    raise_descriptor_limit()
    make_room_for_descriptors()
    session = Session(beside, threaded=False)
    try:
        start = wait_for_start(session)
        if start is not None:
            run_container(session, start)
    finally:
        session.close()


def run_container(session: Session, start: Start) -> None:
    """Boot as ``start`` says, and run until the end, which the start's controller is told."""
    try:
        take_standard_error(start.info)
        options = start.options
        set_up_logging(options)
        kernel = build_kernel(options)
        kernel.expando.get(IncomingDirectory).enter(kernel.engine, start.info.ns or [])
        kernel.wait_for_message = lambda _channel: wait_for_runner(session)
        mount_file_systems(kernel, options)
        enable_features(kernel, options)
        if options.suspend_after:
            Autosleep(kernel, int(options.suspend_after * 1e9))
        start_tracing(kernel, options)
        if options.builtin_init:
            start_builtin_init(kernel)
        inspector = Inspector(kernel)
    except Exception as error:
        start.refuse(describe_failure(error))
        return
    container = Container(kernel, session, start)
    gc.freeze()  # what boot made lives as long as the kernel; collections need not look at it
    gc.enable()
    failure = ""
    try:
        kernel.engine.run()
    except Exception as error:
        failure = describe_failure(error)
    finally:
        container.tell_end(failure)
        inspector.close()
        shut_down(kernel)


def set_up_logging(options: ContainerOptions) -> None:
    """Log to standard error."""
    logging.basicConfig(stream=sys.stderr, level=options.log_level.upper(), format="polynix: %(levelname)s: %(name)s: %(message)s")
    if isinstance(sys.stderr, io.TextIOWrapper) and os.isatty(2):
        sys.stderr.reconfigure(newline="\r\n")  # the caller's terminal is raw meanwhile


def describe_failure(error: Exception) -> str:
    """Why the kernel cannot start or go on, in one line."""
    log.debug("the kernel process failed", exc_info=error)
    text = " ".join(str(error).split()) or type(error).__name__
    if not getattr(error, "expected", False):
        text = f"{type(error).__name__}: {text}"
        if os.environ.get("POLYNIX_TRACEBACK"):
            traceback.print_exception(error)
    return text[:4000].encode(errors="replace").decode()


def raise_descriptor_limit() -> None:
    """As many descriptors as may be had: each bigger file of a tmpfs is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with open("/proc/sys/fs/nr_open", encoding="utf-8") as file:
            most = int(file.read())
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, max(most, hard)))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def build_kernel(options: ContainerOptions) -> Kernel:
    """The Kernel object with its engine and address spaces, nothing mounted. Errors: BootError."""
    import polynix.kernelproc.syscalls.all  # noqa: F401  # fills the table

    root = os.geteuid() == 0
    try:
        monitor = Monitor(_stub_path(), NOBODY if root else -1, NOBODY if root else -1)
        publish_host_vdso(monitor)
        clock = HostClock(partial(monitor.publish, SUSPENDED_NS))
        kernel = Kernel(Engine(monitor, clock), clock)
        kernel.region = SharedRegion()  # before the factory hides the host's /dev/shm
        kernel.memory = RegionFactory(options.memory_limit, force_memfd=bool(os.environ.get("POLYNIX_FORCE_MEMFD")))
    except (OSError, SharedMemoryUnavailable) as error:
        raise BootError(f"cannot set up restricted mode: {_reason(error)}") from error
    kernel.stubs = StubPool(monitor, kernel.memory)
    enable_patching(kernel)
    kernel.engine.watch(monitor.spawned_fd, select.EPOLLIN, lambda _events: kernel.stubs.collect())
    kernel.kthreads = KernelThreads(kernel.engine)
    kernel.pids_limit = options.pids_limit
    kernel.memory_limit = options.memory_limit
    kernel.uts = UtsNamespace(os.fsencode(options.hostname or socket.gethostname()))
    SyscallLoop(kernel)
    try:
        kernel.stubs.prime()
    except OSError as error:
        raise BootError(f"cannot start restricted processes: {_reason(error)}") from error
    MemoryWatch(kernel)
    if kernel.memory.kind != "private-tmpfs":
        MemoryManager.room = kernel.memory.room  # type: ignore[method-assign]
    kernel.expando.get(Notes).attach(kernel)
    return kernel


def _reason(error: Exception) -> str:
    """``what: why`` of an OSError, without its number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if isinstance(error.filename, str) else error.strerror


def _stub_path() -> str:
    return os.path.join(os.path.dirname(os.path.abspath(sys.modules["polynix.addrspace"].__file__ or "")), "restricted", "stub")


def mount_file_systems(kernel: Kernel, options: ContainerOptions) -> None:
    """The root overlay, /dev, /dev/pts, /dev/shm, /proc, /sys, and the binds. Errors: BootError."""
    from polynix.kernelproc.fs.host_call import probe_host_files
    from polynix.kernelproc.mounts import mount_all

    try:
        probe_host_files()
    except Errno as error:
        raise BootError(f"cannot open host files: openat2: {os.strerror(error.errno)}") from error
    try:
        mount_all(kernel, options)
    except Errno as error:
        raise BootError(f"cannot mount the container's file systems: {os.strerror(error.errno)}") from error
    except Exception as error:
        if not getattr(error, "expected", False):
            raise
        raise BootError(f"rootfs {options.rootfs!r}: {error}") from error
    start_kthreadd(kernel)


def enable_features(kernel: Kernel, options: ContainerOptions) -> None:
    """Initialise the modules that were asked for. Errors: BootError."""
    if options.features:
        load_modules()
    for feature in [name for given in options.features for name in expand_feature(given)]:
        try:
            modules.enable(kernel, feature)
        except Errno:
            known = ", ".join(modules.features)
            raise BootError(f"unknown feature or bad arguments: {feature!r} (there are: {known})") from None
        name, _, arguments = feature.partition(":")
        kernel.features[name] = arguments


def expand_feature(feature: str) -> list[str]:
    """``FILE.py[:ARGS]`` stands for the features that the Python file registers; any other feature for itself. Errors: BootError."""
    path, separator, arguments = feature.partition(".py")
    if not separator or arguments[:1] not in ("", ":"):
        return [feature]
    try:
        return [name + arguments for name in load_module_file(path + separator)]
    except Exception as error:
        raise BootError(f"cannot load kernel module {path + separator!r}: {type(error).__name__}: {error}") from error


def start_tracing(kernel: Kernel, options: ContainerOptions) -> None:
    """``--strace``. Errors: BootError."""
    if options.strace is None:
        return
    from polynix.kernelproc.strace import FilterError, Strace
    from polynix.kernelproc.strace.last_lines import LastLines

    try:
        output: Any = sys.stderr
        if options.strace_keep:
            output = kernel.expando.get(LastLines).keep(options.strace_keep)
        elif options.strace_file is not None:
            output = open(options.strace_file, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        kernel.syscall_observers.append(Strace(kernel, options.strace, output))
    except OSError as error:
        raise BootError(f"strace file {options.strace_file!r}: {error.strerror}") from None
    except FilterError as error:
        raise BootError(str(error)) from None


def shut_down(kernel: Kernel) -> None:
    """End every guest and let go of everything that has a name."""
    for observer in kernel.observers:
        observer.close()
    kernel.stubs.close()
    if kernel.region is not None:
        kernel.region.close()
    kernel.monitor.close()
