"""Containers from Python: ``Container`` starts one kernel, ``spawn`` runs programs in it, ``run`` is the short way for one
program.

The forms are subprocess's: ``Process`` is Popen-like, results are ``subprocess.CompletedProcess``, errors are
``subprocess.TimeoutExpired``, ``subprocess.CalledProcessError`` and the ``OSError`` of a failed exec. What polynix itself gets
wrong raises :class:`ContainerError`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from polynix.kernelproc.hook_rule import HookRule, RuleError
from polynix.kernelproc.options import Bind, ContainerOptions
from polynix.runner import parameters
from polynix.runner.errors import ContainerError
from polynix.runner.hooks import Scriptable
from polynix.runner.process import Argument, Process
from polynix.runner.streams import PIPE, Stream

if TYPE_CHECKING:
    import socket

    from polynix.runner.connection import ContainerConnection


class Container(Scriptable):
    """One container with a kernel of its own; a context manager. Leaving it kills what still runs in it.

    Parameters are those of the command line: ``rootfs`` is the read-only lower layer, ``binds`` are ``Bind``s or
    ``SRC:DST[:ro]`` texts, ``user`` is ``(uid, gid)`` or ``UID[:GID]`` inside, ``env`` replaces the caller's environment,
    ``memory`` is bytes or a text such as ``512M``, ``suspend_after`` is seconds of idleness (0: never),
    ``tmpfs`` are empty file systems in memory (``PATH[:size=64K]``), ``hooks``
    are rules of :mod:`polynix.scripting`. ``strace`` is a filter (``"all"``) whose output goes to ``strace_file`` or standard
    error, or, of its end, ``strace_keep`` lines to :meth:`last_calls`.
    Errors: ``ParameterError`` (a ValueError), :class:`ContainerError`.
    """

    def __init__(
        self,
        *,
        rootfs: str | os.PathLike[str] = "/",
        binds: Sequence[str | Bind] = (),
        tmpfs: Sequence[str] = (),
        hooks: Sequence[HookRule] = (),
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | tuple[int, int] = (0, 0),
        hostname: str = "",
        features: Sequence[str] = (),
        memory: int | str = 0,
        pids: int = 0,
        suspend_after: float = 0.0,
        strace: str | None = None,
        strace_file: str | None = None,
        strace_keep: int = 0,
        log_level: str = "warning",
        init: bool = True,
        _in_process: bool = False,
    ) -> None:
        self.options = ContainerOptions(
            rootfs=parameters.check_rootfs(os.fspath(rootfs)),
            binds=[bind if isinstance(bind, Bind) else parameters.parse_bind(bind) for bind in binds],
            tmpfs=[parameters.check_tmpfs(text) for text in tmpfs],
            hostname=parameters.check_hostname(hostname),
            features=[parameters.resolve_feature(feature) for feature in features],
            strace=strace,
            strace_file=strace_file,
            strace_keep=strace_keep,
            log_level=parameters.check_log_level(log_level),
            memory_limit=memory if isinstance(memory, int) else parameters.parse_size(memory),
            pids_limit=pids,
            suspend_after=suspend_after,
            builtin_init=init,
        )
        self.workdir = workdir
        self.usual_directory: bytes | None = None  # without a workdir, where it exists inside; None: the caller's
        self.environment = dict(os.environ if env is None else env)
        self.user = parameters.parse_user(user) if isinstance(user, str) else user
        self.processes: dict[int, Process] = {}
        self.on_event: dict[str, Callable[[Process], None]] = {}  # what the kernel asks of the owner of a terminal
        self._lock = threading.RLock()
        self._in_process = _in_process
        self.connection: ContainerConnection | None = None
        super().__init__(hooks)

    @classmethod
    def attached(cls, connection: ContainerConnection, directory: bytes, **parameters: Any) -> Container:
        """A container that somebody else has started, and that goes on when this one is closed; see ``Runner.attach``."""
        container = cls(**parameters)
        container.connection = connection
        container.usual_directory = directory
        return container

    def start(self) -> Container:
        """Start the kernel process; :meth:`spawn` does it when needed."""
        with self._lock:
            if self.connection is None:
                from polynix.runner.private_runner import private_runner  # of no use to who only describes or attaches

                runner = private_runner(in_process=self._in_process)
                from polynix.runner.connection import ContainerConnection  # while the runner starts

                self.connection = ContainerConnection.start(self.options, runner)
                for message in self.take_script():
                    self.script(message["method"], **message["parameters"])
        return self

    def __enter__(self) -> Container:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs in the container and end its kernel."""
        with self._lock:
            self._lost()

    @property
    def kernel_pid(self) -> int:
        """The kernel process: what ``polynix top``, ``tree`` and the others take to choose this container. Errors: ContainerError."""
        with self._lock:
            self.start()
            assert self.connection is not None
            return self.connection.wait_until_booted()

    def spawn(self, args: Sequence[Argument], **parameters: Any) -> Process:
        """Start a program: parameters as of :class:`Process`.

        Errors: FileNotFoundError, PermissionError, OSError as subprocess raises them.
        """
        return Process(self, args, **parameters)

    def run(self, args: Sequence[Argument], **parameters: Any) -> subprocess.CompletedProcess[Any]:
        """Run a program to its end: parameters as of :func:`run`."""
        return _run(self.spawn, args, **parameters)

    def proxy(self, address: str, *, to: str) -> str:
        """Let peers outside connect to the container over TCP, until it ends or :meth:`remove_proxy`: ``proxy("tcp://127.0.0.1:8080", to="unix:/run/server")``,
        or ``to="port:5000"`` for AF_VSOCK. What they send wakes the container. Returns the address, with the port that was chosen if it was 0.
        Errors: ValueError, OSError, ContainerError.
        """
        listen_address, target = parameters.tcp_address(address), parameters.proxy_target(to)
        with self._lock:
            self.start()
            assert self.connection is not None
            return parameters.tcp_url(self.connection.listen(listen_address, target))

    def remove_proxy(self, address: str) -> None:
        """Listen at ``address``, which :meth:`proxy` returned, no more; connections that came there are reset.
        Errors: ValueError, FileNotFoundError, ContainerError.
        """
        listen_address = parameters.tcp_address(address)
        with self._lock:
            self.start()
            assert self.connection is not None
            self.connection.unlisten(listen_address)

    def proxies(self) -> dict[str, str]:
        """What :meth:`proxy` has made, for whomever: addresses, and where connections go. Errors: OSError, ContainerError."""
        with self._lock:
            self.start()
            assert self.connection is not None
            return {parameters.tcp_url(listener.address): parameters.target_text(listener.target) for listener in self.connection.listeners()}

    def vsock_connect(self, port: int, socket: socket.socket) -> None:
        """Bridge a connected stream socket, whose duplicate the container takes, to what listens on an AF_VSOCK port inside, as soon as something does.
        Errors: ContainerError.
        """
        with self._lock:
            self.start()
            assert self.connection is not None
            self.connection.connect_vsock(port, socket.fileno())

    # -- for Process and the command line ----------------------------------------------------------------------------------------

    def script(self, method: str, **fields: Any) -> Any:
        """Ask the kernel process for something of :mod:`polynix.kernelproc.scripting.requests`, and wait for the answer. Errors: RuleError with its text."""
        with self._lock:
            if self.connection is None:
                raise ContainerError("the container does not run")
            answer = self.connection.script(method, fields)
        if "error" in answer:
            raise RuleError(answer["error"])
        return answer["result"]

    @property
    def running(self) -> bool:
        """Whether the container has been started and not closed."""
        return self.connection is not None

    def script_later(self, method: str, **fields: Any) -> None:
        """:meth:`script`, at the start if the container does not run yet."""
        with self._lock:
            if self.connection is None:
                self._unsent.append((method, fields))
            else:
                self.script(method, **fields)

    def request_spawn(self, process: Process, **request: Any) -> None:
        """Ask for a program, and wait until it has started; parameters are those of ``ContainerConnection.spawn``. Errors: OSError, ContainerError."""
        with self._lock:
            self.start()
            assert self.connection is not None
            outcome: list[tuple[Any, Exception | None]] = []

            def finish(reply: Any, error: Exception | None) -> bool:
                outcome.append((reply, error))
                if reply is not None and reply.failure is None:
                    process.pid = reply.pid
                    self.processes[process.id] = process
                return True

            process.id = self.connection.spawn(**request, heard=lambda event, status: self._heard(process, event, status), finish=finish)
            while not outcome:
                self.pump(None)
            reply, error = outcome[0]
            if error is not None:
                self._failed(error)
            if reply.failure is not None:
                if not reply.failure.errno:
                    raise ContainerError(reply.failure.message)
                raise OSError(reply.failure.errno, reply.failure.message, os.fsdecode(reply.failure.path))

    def _failed(self, error: Exception) -> NoReturn:
        """The kernel did not answer. Errors: ContainerError, always."""
        try:
            if self.connection is None:
                raise ContainerError("the container has ended")
            self.connection.fail(error)
        finally:
            self._lost()

    def pump(self, timeout: float | None, descriptors: Sequence[int] = ()) -> list[int]:
        """Wait once for news of the kernel and note them; returns which of ``descriptors`` are readable."""
        with self._lock:
            if self.connection is None:
                return []
            try:
                ready = self.connection.poll(timeout, descriptors)
            except ContainerError:
                self._lost()
                raise
            if self.connection.has_ended:
                self._lost()
            return ready

    def _lost(self) -> None:
        """The kernel is gone, and what still ran with it."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()
        for process in self.processes.values():
            if process.returncode is None:
                process.returncode = -signal.SIGKILL
        self.processes.clear()

    def _heard(self, process: Process, event: str, status: int) -> None:
        if event == "exited":
            process.returncode = os.waitstatus_to_exitcode(status)
            self.processes.pop(process.id, None)
        elif event in self.on_event:
            self.on_event[event](process)

    def tell_program(self, process: Process, method: str, window: tuple[int, int] | None = None) -> None:
        """``pause``, ``resume``; with a window ``set_window_size``, ``attach_terminal``."""
        with self._lock:
            if self.connection is None:
                return
            if window is None:
                self.connection.tell_program(process.id, method)
            else:
                self.connection.set_window(process.id, method, window)

    def send_signal(self, process: Process, number: int, *, group: bool) -> None:
        """Send a signal to a program, or to its whole process group, if it still runs."""
        with self._lock:
            if self.connection is not None:
                self.connection.signal(process.id, number, group)

    @property
    def signals_noted(self) -> int:
        """How many signals the kernel says that it has noted."""
        return self.connection.signals_noted if self.connection is not None else 0


def run(
    args: Sequence[Argument],
    *,
    stdin: Stream = None,
    input: Any = None,
    stdout: Stream = None,
    stderr: Stream = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    text: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    universal_newlines: bool | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    **container: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run one program in a fresh container: ``subprocess.run`` with the parameters of :class:`Container` beside its own."""
    with Container(init=False, **container) as fresh:
        return _run(
            fresh.spawn, args, stdin=stdin, input=input, stdout=stdout, stderr=stderr, capture_output=capture_output,
            timeout=timeout, check=check, text=text, encoding=encoding, errors=errors, universal_newlines=universal_newlines,
            env=env, cwd=cwd,
        )  # fmt: skip


def _run(
    spawn: Callable[..., Process],
    args: Sequence[Argument],
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **parameters: Any,
) -> subprocess.CompletedProcess[Any]:
    if input is not None:
        if parameters.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        parameters["stdin"] = PIPE
    if capture_output:
        if parameters.get("stdout") is not None or parameters.get("stderr") is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        parameters["stdout"] = parameters["stderr"] = PIPE
    with spawn(args, **parameters) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    assert process.returncode is not None
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args, stdout, stderr)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
