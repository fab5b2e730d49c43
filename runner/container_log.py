"""The log of a detached container: what its programs wrote to standard output and error, with times, bounded.

Records (:mod:`polynix.runner.log_records`) have one logical offset, counted from the container's start; the newest :data:`LIMIT` bytes or more are kept, in
two files of which the older is dropped when the newer is full.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress

from polynix.runner.log_records import HEADER

LIMIT = 16 << 20  # bytes of one file
_CHUNK = 16384  # a record fits in an answer


class ContainerLog:
    """One container's, in ``directory``, which is its own. Belongs to one asyncio loop."""

    def __init__(self, directory: str, limit: int = LIMIT) -> None:
        """Errors: OSError."""
        self.directory = directory
        self.limit = limit
        os.makedirs(directory, mode=0o700)
        self._file = self._open()
        self._start = 0  # the logical offset of the current file
        self._older = -1
        self._older_start = 0
        self._end = 0
        self._streams: dict[int, int] = {}  # read end -> stream
        self._changed: set[asyncio.Future[None]] = set()
        self.lost = 0  # bytes that could not be written

    @property
    def path(self) -> str:
        return os.path.join(self.directory, "log")

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def add_stream(self, stream: int) -> int:
        """A pipe whose bytes are logged as ``stream``; returns the end to write to, which the caller closes."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.follow(reader, stream)
        return writer

    def follow(self, reader: int, stream: int) -> None:
        """Log what can be read from ``reader`` as ``stream``, and close it at its end."""
        os.set_blocking(reader, False)
        self._streams[reader] = stream
        asyncio.get_running_loop().add_reader(reader, self._take, reader)

    @property
    def end(self) -> int:
        """The offset of what will be written next."""
        return self._end

    @property
    def ended(self) -> bool:
        """No stream is open any more."""
        return not self._streams

    def _take(self, reader: int) -> None:
        try:
            data = os.read(reader, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # EIO: nobody has the terminal open any more
        if data:
            self._write(HEADER.pack(time.time_ns(), self._streams[reader], len(data)) + data)
        else:
            asyncio.get_running_loop().remove_reader(reader)
            os.close(reader)
            del self._streams[reader]
        self._notify()

    def _write(self, record: bytes) -> None:
        if self._end - self._start >= self.limit:
            self._rotate()
        try:
            done = os.write(self._file, record)
        except OSError:
            done = 0
        if done < len(record):  # a full disk: whole records, or none
            self.lost += len(record)
            with suppress(OSError):
                os.ftruncate(self._file, self._end - self._start)
                os.lseek(self._file, self._end - self._start, os.SEEK_SET)
            return
        self._end += done

    def _rotate(self) -> None:
        if self._older >= 0:
            os.close(self._older)
        self._older, self._older_start = self._file, self._start
        os.replace(self.path, self.path + ".1")
        self._file = self._open()
        self._start = self._end

    def read(self, offset: int, most: int) -> tuple[int, bytes]:
        """Whole records from ``offset`` on, or from the oldest that is kept: (where they begin, at most ``most`` bytes but for a single longer record)."""
        oldest = self._older_start if self._older >= 0 else self._start
        offset = min(max(offset, oldest), self._end)
        file, start, end = (self._older, self._older_start, self._start) if offset < self._start else (self._file, self._start, self._end)
        data = os.pread(file, min(most, end - offset), offset - start)
        whole = 0
        while whole + HEADER.size <= len(data):
            length = HEADER.size + HEADER.unpack_from(data, whole)[2]
            if whole + length > len(data):
                break
            whole += length
        if not whole and len(data) >= HEADER.size:
            data = os.pread(file, HEADER.size + HEADER.unpack_from(data)[2], offset - start)
            whole = len(data)
        return offset, data[:whole]

    async def wait_beyond(self, offset: int) -> None:
        """Until there is something beyond ``offset``, or nothing will come."""
        while offset >= self._end and not self.ended:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._changed.add(future)
            try:
                await future
            finally:
                self._changed.discard(future)

    async def wait_until_ended(self) -> None:
        """Until all streams are at their ends."""
        while not self.ended:
            await self.wait_beyond(self._end)

    def _notify(self) -> None:
        changed, self._changed = self._changed, set()
        for future in changed:
            if not future.done():
                future.set_result(None)

    def close(self) -> None:
        """Forget it, and its files."""
        loop = asyncio.get_running_loop()
        for reader in self._streams:
            loop.remove_reader(reader)
            os.close(reader)
        self._streams.clear()
        self._notify()
        for file in (self._file, self._older):
            if file >= 0:
                os.close(file)
        self._file = self._older = -1
        for path in (self.path, self.path + ".1"):
            with suppress(OSError):
                os.unlink(path)
        with suppress(OSError):
            os.rmdir(self.directory)
