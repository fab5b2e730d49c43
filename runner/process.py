"""Programs in a container from Python: what ``Container.spawn`` gives."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from polynix.runner import parameters
from polynix.runner.streams import Communication, Stream, stream_descriptor

if TYPE_CHECKING:
    from polynix.runner.container import Container

Argument = str | bytes | os.PathLike[Any]


class Process:
    """A program in a container, in the form of ``subprocess.Popen``.

    ``stdin``, ``stdout`` and ``stderr`` are None (the caller's), PIPE, DEVNULL, STDOUT (stderr only), a descriptor or a file
    object. ``pid`` is the number inside the container. ``returncode`` is None while it runs and ``-n`` when signal n killed it.
    """

    def __init__(
        self,
        container: Container,
        args: Sequence[Argument],
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        user: str | tuple[int, int] | None = None,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        universal_newlines: bool | None = None,
        bufsize: int = -1,
        terminal: bool = False,
        controlling_terminal: int = -1,
        attached: bool = False,
        window: tuple[int, int] = (0, 0),
    ) -> None:
        if isinstance(args, str | bytes | os.PathLike):
            args = [args]
        if not args:
            raise ValueError("no program")
        self.container = container
        self.args = list(args)
        self.id = 0
        self.pid = 0
        self.returncode: int | None = None
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[Any] | None = None
        self._text = bool(text or encoding or errors or universal_newlines)
        self._encoding = encoding
        self._errors = errors
        self._communication: Communication | None = None
        ours: list[int | None] = []
        to_close: list[int] = []
        descriptors: list[int] = []
        try:
            for number, stream in enumerate((stdin, stdout, stderr)):
                descriptors.append(stream_descriptor(number, stream, descriptors, ours, to_close))
            uid, gid = container.user if user is None else parameters.parse_user(user) if isinstance(user, str) else user
            directory = cwd if cwd is not None else container.workdir
            container.request_spawn(
                self,
                argv=[encode_argument(argument) for argument in self.args],
                env=[os.fsencode(variable) for variable in parameters.environment_list(container.environment if env is None else env)],
                descriptors=descriptors,
                directory=os.fsencode(directory) if directory is not None else container.usual_directory or _current_directory(),
                directory_required=directory is not None,
                user=(uid, gid),
                terminal=terminal,
                controlling_terminal=controlling_terminal,
                attached=attached,
                window=window,
            )
        except BaseException:
            to_close += [fd for fd in ours if fd is not None]
            raise
        finally:
            for fd in to_close:
                os.close(fd)
        modes = ("w", "r", "r")
        opened: list[IO[Any] | None] = []
        for end, mode in zip(ours, modes, strict=True):
            if end is None:
                opened.append(None)
            elif self._text:
                opened.append(open(end, mode, bufsize if bufsize > 1 else -1, encoding=encoding, errors=errors))  # noqa: SIM115
            else:
                opened.append(open(end, mode + "b", bufsize))  # noqa: SIM115
        self.stdin, self.stdout, self.stderr = opened

    def poll(self) -> int | None:
        """``returncode`` if the program has ended."""
        if self.returncode is None:
            self.container.pump(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Errors: ``subprocess.TimeoutExpired``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                self.container.pump(0)
                if self.returncode is None:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
                break
            # Short waits, so that another thread gets a turn with the connection.
            self.container.pump(0.05 if left is None else min(left, 0.05))
        return self.returncode

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Feed ``input``, read both outputs to their ends, wait.

        After ``subprocess.TimeoutExpired`` it may be called again without losing output.
        """
        if self._communication is None:
            data = input.encode(self._encoding or "utf-8", self._errors or "strict") if isinstance(input, str) else bytes(input or b"")
            self._communication = Communication(self, data)
        deadline = None if timeout is None else time.monotonic() + timeout
        outputs = self._communication.run(deadline)
        if outputs is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0, *self._communication.so_far())
        try:
            self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0, *self._communication.so_far()) from None
        return self._decode_output(outputs[0]), self._decode_output(outputs[1])

    def _decode_output(self, data: bytes | None) -> Any:
        if data is None or not self._text:
            return data
        return data.decode(self._encoding or "utf-8", self._errors or "strict").replace("\r\n", "\n").replace("\r", "\n")

    def send_signal(self, number: int) -> None:
        """Send a signal to the program, if it still runs."""
        if self.poll() is None:
            self.container.send_signal(self, int(number), group=False)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for stream in (self.stdout, self.stderr, self.stdin):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
        self.wait()

    def __repr__(self) -> str:
        return f"<Process {self.pid} {self.args!r} returncode={self.returncode}>"


def _current_directory() -> bytes:
    try:
        return os.getcwdb()
    except OSError:
        return b"/"  # it was removed


def encode_argument(argument: Argument) -> bytes:
    """As execve takes it. Errors: ValueError."""
    text = os.fsencode(argument)
    if b"\0" in text:
        raise ValueError("embedded null byte")
    return text
