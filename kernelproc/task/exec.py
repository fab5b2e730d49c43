"""execve: find the program, build its address space in a fresh stub, then switch the task over.

The new address space is complete before anything of the caller is touched, so a failing exec has no point of no return; and since it always takes a fresh stub,
exec from a multi-threaded process is only bookkeeping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace.paged_memory import AbsentPages, no_waiting
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.task import cpu_time, futex
from polynix.kernelproc.task import exit as task_exit
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.task.elf import ElfImage, load_elf, parse_elf, parse_interpreter, read_file
from polynix.kernelproc.task.process_group import ProcessGroup, Session
from polynix.kernelproc.task.resource_limits import ResourceLimits
from polynix.kernelproc.task.scheduling import host_thread_changed
from polynix.kernelproc.task.task import Task
from polynix.kernelproc.task.thread_group import ThreadGroup
from polynix.kernelproc.uapi.errno import EACCES, EAGAIN, EIO, ELOOP, ENOENT, ENOEXEC, ENOMEM, ENOSPC, ETXTBSY
from polynix.kernelproc.uapi.fcntl import AT_FDCWD
from polynix.kernelproc.uapi.resource import RLIMIT_STACK
from polynix.kernelproc.vfs.lookup import open_exec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.fd_table import FdTable
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_context import FsContext
    from polynix.kernelproc.vfs.namespace import NamespaceNode

HEAD_BYTES = 4096
MAX_WAITS = 64  # for pages of one program, before it is loaded in one go
SCRIPT_LINE = 256
MAX_SCRIPT_DEPTH = 5
ARGUMENT_LIMIT = 6 << 20
MNT_NOSUID = 2
DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Program:
    """A resolved program: the ELF image, its interpreter, and arguments as the scripts on the way changed them."""

    def __init__(self, image: ElfImage, interpreter: ElfImage | None, argv: list[bytes], file_name: bytes) -> None:
        self.image = image
        self.interpreter = interpreter
        self.argv = argv
        self.file_name = file_name

    def close(self) -> None:
        self.image.file.release()
        if self.interpreter is not None:
            self.interpreter.file.release()


def resolve_program(task: Task, file: FileObject, file_name: bytes, argv: Sequence[bytes]) -> Program:
    """Follow ``#!`` lines from ``file`` (whose reference it takes over) to an ELF program, and find that one's interpreter."""
    arguments = list(argv)
    for _ in range(MAX_SCRIPT_DEPTH + 1):
        try:
            if file.node.writers:
                raise Errno(ETXTBSY)
            head = read_file(file, 0, HEAD_BYTES)
            if head[:2] != b"#!":
                image = parse_elf(file, head)
                interpreter = _open_interpreter(task, image.interpreter) if image.interpreter is not None else None
                return Program(image, interpreter, arguments, file_name)
            interpreter_path, option = _parse_script(head)
        except BaseException:
            file.release()
            raise
        file.release()
        arguments = [interpreter_path, *option, file_name, *arguments[1:]]
        file_name = interpreter_path
        file = open_exec(task, AT_FDCWD, interpreter_path).retain()
    raise Errno(ELOOP)


def _parse_script(head: bytes) -> tuple[bytes, list[bytes]]:
    line, newline, _ = head[2:SCRIPT_LINE].partition(b"\n")
    text = line.strip(b" \t")
    path, _, rest = text.replace(b"\t", b" ", 1).partition(b" ") if b"\t" in text.split(b" ", 1)[0] else text.partition(b" ")
    if not path or (not newline and len(head) >= SCRIPT_LINE and not rest):
        raise Errno(ENOEXEC)
    rest = rest.strip(b" \t")
    return path, [rest] if rest else []


def _open_interpreter(task: Task, path: bytes) -> ElfImage:
    file = open_exec(task, AT_FDCWD, path).retain()
    try:
        return parse_interpreter(file, read_file(file, 0, HEAD_BYTES))
    except BaseException:
        file.release()
        raise


def credentials_after_exec(task: Task, where: NamespaceNode) -> tuple[Credentials, bool]:
    """The program's credentials, set-id bits included, and whether that makes the exec *secure* (AT_SECURE)."""
    node = where.node
    credentials = task.credentials.for_exec(node.mode, node.uid, node.gid, may_set_ids=not where.mount.flags & MNT_NOSUID, no_new_privs=task.no_new_privs)
    return credentials, task.credentials.is_secure_exec(credentials)


def execute(task: Task, file: FileObject, file_name: bytes, argv: Sequence[bytes], envp: Sequence[bytes]) -> None:
    """Replace ``task``'s program by the one in ``file`` (opened by ``open_exec``). On return the task is on its way in the new address space; on error
    nothing changed.
    """
    kernel = task.kernel
    program = resolve_program(task, file.retain(), file_name, argv or [b""])
    place = program.image.file.name
    assert place is not None
    try:
        mm = kernel.stubs.take()
    except OSError:
        program.close()
        raise Errno(EAGAIN) from None
    try:
        credentials, secure = credentials_after_exec(task, place)
        loaded = load_elf(
            task, mm, program.image, program.interpreter, program.argv, envp, credentials, program.file_name, secure, task.group.limits.soft(RLIMIT_STACK)
        )
    except BaseException as error:
        program.close()
        mm.destroy()
        if isinstance(error, OSError) and error.errno == ENOSPC:
            raise Errno(ENOMEM) from None  # of the regions' tmpfs
        raise
    mm.exe = place
    program.close()
    # From here on nothing fails.
    task_exit.leave_other_threads(task)
    cpu_time.detach(task)
    futex.exit_robust_list(task)
    futex.release_mm(task)
    task_exit.leave_address_space(task)
    mm.users = 1
    task.mm = mm
    task.user = mm.user
    slot = task.slot = mm.stub.slot(0)
    slot.task = task
    if mm.ready:
        slot.init_frame(loaded.entry, loaded.stack_pointer)
    else:
        mm.first_frame = (loaded.entry, loaded.stack_pointer)
    task.fs_base = task.gs_base = 0
    task.credentials = credentials
    if kernel.region is not None:
        kernel.region.set_comm(task.counters, file_name.rsplit(b"/", 1)[-1])
    task.comm = file_name.rsplit(b"/", 1)[-1][:15]
    if task.files.users > 1:
        task.files.users -= 1
        task.files = task.files.fork()
    task.files.close_on_exec(task)
    if task.signals.actions.users > 1:
        task.signals.actions.users -= 1
        task.signals.actions = task.signals.actions.fork()
    task.signals.actions.reset_for_exec()
    if task.group.signals.posix_timers is not None:
        task.group.signals.posix_timers.delete_all()
    task.alternate_stack = (0, 2, 0)
    task.restart = None
    task.group.did_exec = True
    task.group.exit_signal = 17
    if secure:
        task.death_signal = 0
    task.group.dumpable = 0 if secure else 1
    task_exit.release_vfork_parent(task)
    cpu_time.publish(task)
    host_thread_changed(task)


def execute_when_present(task: Task, file: FileObject, file_name: bytes, argv: Sequence[bytes], envp: Sequence[bytes]) -> Awaitable[None] | None:
    """:func:`execute`. Where pages of the program have yet to come, returns what waits for them, while other guests go on, and tries again: until it succeeds
    an exec changes nothing.
    """
    file.retain()
    try:
        with no_waiting():
            execute(task, file, file_name, argv, envp)
    except AbsentPages as absent:
        return _execute_later(task, file, file_name, argv, envp, absent)
    except BaseException:
        file.release()
        raise
    file.release()
    return None


async def _execute_later(task: Task, file: FileObject, file_name: bytes, argv: Sequence[bytes], envp: Sequence[bytes], absent: AbsentPages) -> None:
    """``file`` is ours to release."""
    try:
        for _ in range(MAX_WAITS):
            try:
                await absent.come()
            except OSError:
                raise Errno(EIO) from None
            try:
                with no_waiting():
                    return execute(task, file, file_name, argv, envp)
            except AbsentPages as others:
                absent = others
        return execute(task, file, file_name, argv, envp)  # they go as fast as they come
    finally:
        file.release()


async def start_program(
    kernel: Kernel,
    argv: Sequence[bytes],
    env: Sequence[bytes],
    fs: FsContext,
    credentials: Credentials,
    files: FdTable,
    limits: ResourceLimits | None = None,
    parent: ThreadGroup | None = None,
) -> Task:
    """Make a new process (pid 1 first) in a session of its own and start ``argv[0]``, searched in PATH. Errors: as execve; nothing is left of a failed
    start.
    """
    from polynix.kernelproc.signals.signal_state import ProcessSignals, SignalActions, SignalState

    limits = limits or ResourceLimits()
    pid = kernel.pids.allocate()
    session = Session(pid)
    process_group = ProcessGroup(pid, session)
    group = ThreadGroup(kernel, pid, process_group, ProcessSignals(), limits)
    files.limit_source = limits
    task = Task(
        kernel,
        pid,
        group,
        mm=kernel.stubs.nothing,
        files=files,
        fs=fs,
        signals=SignalState(SignalActions()),
        credentials=credentials,
        comm=argv[0].rsplit(b"/", 1)[-1][:15],
    )
    file, path = find_program(task, argv[0], env)
    group.leader = task
    group.tasks[pid] = task
    process_group.members[group] = None
    pids = kernel.pids
    try:
        waiting = execute_when_present(task, file, path, argv, env)
        if waiting is not None:
            await waiting
    except BaseException:
        files.close_all(task)
        raise
    pids.sessions[pid] = session
    pids.process_groups[pid] = process_group
    pids.tasks[pid] = task
    pids.thread_groups[pid] = group
    group.parent = parent
    if parent is not None:
        parent.children[pid] = group
    if kernel.init is None:
        kernel.init = group
    kernel.loop.return_to_user(task, None)
    return task


def find_program(task: Task, name: bytes, env: Sequence[bytes]) -> tuple[FileObject, bytes]:
    """Search PATH as execvp does. Errors: ENOENT, or EACCES when something was found that can't be executed."""
    if b"/" in name:
        return open_exec(task, AT_FDCWD, name), name
    path = next((entry[5:] for entry in env if entry.startswith(b"PATH=")), DEFAULT_PATH)
    failure = Errno(ENOENT)
    for directory in path.split(b":"):
        candidate = (directory or b".") + b"/" + name
        try:
            return open_exec(task, AT_FDCWD, candidate), candidate
        except Errno as error:
            if error.errno == EACCES:
                failure = error
    raise failure
