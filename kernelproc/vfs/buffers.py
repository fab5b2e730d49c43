"""Where read() puts bytes and write() takes them from: guest memory, or kernel memory for splice, sendfile and friends.

File operations see only these two interfaces, so no file system ever handles a guest address. Counts are partial as Linux's: a buffer that meets an
unmapped page transfers what it can, and raises ``Fault`` (EFAULT) only when that is nothing. What one range of guest memory needs, all that read() and
write() know, is ``UserOutput`` and ``UserInput`` of usercopy; here are iovecs and kernel memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from polynix.addrspace._usercopy import Fault

if TYPE_CHECKING:
    from polynix.addrspace._usercopy import UserAddress, UserMap


class OutputBuffer(Protocol):
    """The destination of a read: bytes flow from the file out to the caller."""

    remaining: int

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take up to ``remaining`` bytes of ``data``; returns how many. Errors: Fault when none could be stored."""

    def write_from_fd(self, fd: int, offset: int, count: int, flags: int = 0) -> int:
        """``preadv2(fd, …, offset, flags)`` of at most ``count`` bytes straight into the buffer (offset -1: read()). Returns n or -errno."""

    def zero(self, count: int) -> int:
        """Store up to ``count`` zero bytes."""


class InputBuffer(Protocol):
    """The source of a write: bytes flow from the caller into the file."""

    @property
    def remaining(self) -> int: ...

    def read(self, count: int = -1) -> bytes:
        """Take up to ``count`` bytes (all that remain by default). Errors: Fault when none could be loaded and some were asked for."""

    def peek(self, count: int = -1) -> bytes:
        """As ``read``, without consuming."""

    def skip(self, count: int) -> None:
        """Consume ``count`` bytes."""

    def truncate(self, count: int) -> None:
        """Forget what lies beyond the next ``count`` bytes (at most ``remaining``)."""

    def read_to_fd(self, fd: int, offset: int, count: int, flags: int = 0) -> int:
        """``pwritev2(fd, …, offset, flags)`` of at most ``count`` bytes straight out of the buffer (offset -1: write()). Returns n or -errno."""


class _UserBuffer:
    """An iovec in guest memory with a position; consumed from the front."""

    __slots__ = ("iov", "remaining", "user")

    def __init__(self, user: UserMap, iov: Sequence[tuple[UserAddress, int]]) -> None:
        self.user = user
        self.iov = list(iov)
        self.remaining = sum(length for _, length in self.iov)

    def _limited(self, count: int) -> list[tuple[UserAddress, int]]:
        result = []
        for address, length in self.iov:
            if count <= 0:
                break
            take = length if length < count else count
            if take:
                result.append((address, take))
            count -= take
        return result

    def _advance(self, count: int) -> None:
        self.remaining -= count
        iov = self.iov
        while count:
            address, length = iov[0]
            if length <= count:
                count -= length
                del iov[0]
            else:
                iov[0] = (address + count, length - count)
                count = 0


class UserOutputBuffer(_UserBuffer):
    """Guest memory as the destination of a read."""

    __slots__ = ()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        if not data or not self.remaining:
            return 0
        if len(self.iov) == 1:
            address, length = self.iov[0]
            done = self.user.copy_out(address, data if len(data) <= length else memoryview(data)[:length])
        else:
            done = self.user.copy_out_iov(self.iov, memoryview(data)[: self.remaining])
        if not done:
            raise Fault
        self._advance(done)
        return done

    def write_from_fd(self, fd: int, offset: int, count: int, flags: int = 0) -> int:
        done = self.user.preadv(fd, self._limited(count), offset, flags)
        if done > 0:
            self._advance(done)
        return done

    def zero(self, count: int) -> int:
        total = 0
        while count and self.iov:
            address, length = self.iov[0]
            want = min(length, count)
            done = self.user.zero(address, want) if want else 0
            self._advance(done)
            if want == 0:
                del self.iov[0]
            total += done
            count -= done
            if done < want:
                break
        if not total and count and self.remaining:
            raise Fault
        return total


class UserInputBuffer(_UserBuffer):
    """Guest memory as the source of a write."""

    __slots__ = ()

    def peek(self, count: int = -1) -> bytes:
        want = self.remaining if count < 0 or count > self.remaining else count
        if not want:
            return b""
        if len(self.iov) == 1:
            data = self.user.copy_in_partial(self.iov[0][0], want)
        else:
            data = self.user.copy_in_iov(self.iov, want)
        if not data:
            raise Fault
        return data

    def skip(self, count: int) -> None:
        self._advance(count)

    def truncate(self, count: int) -> None:
        self.iov = self._limited(count)
        self.remaining = count

    def read(self, count: int = -1) -> bytes:
        data = self.peek(count)
        if data:
            self._advance(len(data))
        return data

    def read_to_fd(self, fd: int, offset: int, count: int, flags: int = 0) -> int:
        done = self.user.pwritev(fd, self._limited(count), offset, flags)
        if done > 0:
            self._advance(done)
        return done


class BytesOutputBuffer:
    """Kernel memory as the destination of a read; the bytes collect in ``data``."""

    __slots__ = ("data", "remaining")

    def __init__(self, capacity: int) -> None:
        self.remaining = capacity
        self.data = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        done = min(len(data), self.remaining)
        self.data += data if done == len(data) else memoryview(data)[:done]
        self.remaining -= done
        return done

    def write_from_fd(self, fd: int, offset: int, count: int, flags: int = 0) -> int:
        import os

        want = min(count, self.remaining)
        chunk = bytearray(want)
        try:
            done = os.readv(fd, [chunk]) if offset < 0 else os.preadv(fd, [chunk], offset, flags)
        except OSError as error:
            return -(error.errno or 5)
        return self.write(memoryview(chunk)[:done])

    def zero(self, count: int) -> int:
        return self.write(bytes(min(count, self.remaining)))


class BytesInputBuffer:
    """Kernel memory as the source of a write."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data)
        self._position = 0

    @property
    def remaining(self) -> int:
        return len(self._data) - self._position

    def peek(self, count: int = -1) -> bytes:
        end = len(self._data) if count < 0 else self._position + count
        return bytes(self._data[self._position : end])

    def skip(self, count: int) -> None:
        self._position += count

    def truncate(self, count: int) -> None:
        self._data = self._data[: self._position + count]

    def read(self, count: int = -1) -> bytes:
        data = self.peek(count)
        self._position += len(data)
        return data

    def read_to_fd(self, fd: int, offset: int, count: int, flags: int = 0) -> int:
        import os

        chunk = self._data[self._position : self._position + count]
        try:
            done = os.writev(fd, [chunk]) if offset < 0 else os.pwritev(fd, [chunk], offset, flags)
        except OSError as error:
            return -(error.errno or 5)
        self._position += done
        return done
