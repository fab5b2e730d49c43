"""Standard streams of a program in a container, in subprocess's terms: what it gets as 0, 1 and 2, and the pumping of communicate()."""

from __future__ import annotations

import os
import select
import subprocess
import time
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polynix.runner.process import Process

PIPE = subprocess.PIPE
STDOUT = subprocess.STDOUT
DEVNULL = subprocess.DEVNULL

Stream = int | IO[Any] | None


class Communication:
    """The pumping of communicate(): survives a timeout."""

    def __init__(self, process: Process, data: bytes) -> None:
        self.process = process
        self.data = memoryview(data)
        self.buffers: dict[int, bytearray] = {}
        self.streams: dict[int, IO[Any]] = {}
        for stream in (process.stdout, process.stderr):
            if stream is not None and not stream.closed:
                self.streams[stream.fileno()] = stream
                self.buffers[stream.fileno()] = bytearray()
        self.order = [stream.fileno() if stream is not None and not stream.closed else None for stream in (process.stdout, process.stderr)]
        self.input = process.stdin
        if self.input is not None:
            try:
                self.input.flush()
            except BrokenPipeError:
                pass
            os.set_blocking(self.input.fileno(), False)

    def run(self, deadline: float | None) -> tuple[bytes | None, bytes | None] | None:
        """None when the deadline came first."""
        while self.streams or self.input is not None:
            if self.input is not None and not self.data:
                self._close_input()
                continue
            poller = select.poll()
            for fd in self.streams:
                poller.register(fd, select.POLLIN)
            if self.input is not None:
                poller.register(self.input.fileno(), select.POLLOUT)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            for fd, _events in poller.poll(None if left is None else left * 1000):
                if fd in self.streams:
                    chunk = os.read(fd, 65536)
                    if chunk:
                        self.buffers[fd] += chunk
                    else:
                        self.streams.pop(fd).close()
                elif self.input is not None:
                    try:
                        self.data = self.data[os.write(fd, self.data[:65536]) :]
                    except BlockingIOError:
                        pass
                    except BrokenPipeError:
                        self._close_input()
        return self.so_far()

    def so_far(self) -> tuple[bytes | None, bytes | None]:
        first, second = (None if fd is None else bytes(self.buffers[fd]) for fd in self.order)
        return first, second

    def _close_input(self) -> None:
        assert self.input is not None
        try:
            self.input.close()
        except BrokenPipeError:
            pass
        self.input = None


def stream_descriptor(number: int, stream: Stream, before: list[int], ours: list[int | None], to_close: list[int]) -> int:
    """The descriptor that the program gets as ``number``; notes our end of a pipe, and what to close after the start."""
    ours.append(None)
    if stream is None:
        try:
            os.fstat(number)
            return number
        except OSError:
            stream = DEVNULL
    if stream == PIPE:
        reader, writer = os.pipe()
        ours[number], theirs = (writer, reader) if number == 0 else (reader, writer)
        to_close.append(theirs)
        return theirs
    if stream == DEVNULL:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        to_close.append(null)
        return null
    if stream == STDOUT:
        if number != 2:
            raise ValueError("STDOUT is for stderr only")
        return before[1]
    return stream if isinstance(stream, int) else stream.fileno()
