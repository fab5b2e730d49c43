"""Messages on their way through a socket: bytes, descriptors, credentials, and what they cost the sender (``struct sk_buff``)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polynix.kernelproc.net.unix_socket import UnixSocket
    from polynix.kernelproc.vfs.file_object import FileObject

PAGE_SIZE = 4096
SCM_MAX_FD = 253

# What Linux's allocator takes for a buffer: the payload and ``skb_shared_info`` in a power of two, and ``struct sk_buff``.
_SHARED_INFO = 320
_SK_BUFF = 256
MAX_HEAD = PAGE_SIZE - _SHARED_INFO  # SKB_MAX_HEAD(0): the payload of one page
MAX_LINEAR = 4 * PAGE_SIZE - _SHARED_INFO  # SKB_MAX_ALLOC
SMALLEST_TRUESIZE = 512 + _SK_BUFF  # of up to 192 bytes
MAX_FRAGMENTS = 17  # pages that a message may have besides its linear part
MAX_STREAM_PIECE = MAX_HEAD + 32768  # one message of a stream holds no more

Credentials = tuple[int, int, int]  # pid, uid, gid
NO_CREDENTIALS: Credentials = (0, 65534, 65534)  # of a message whose sender gave none (overflow ids)


class Control:
    """Credentials and descriptors beside the bytes. It owns a reference of each file in ``rights`` until somebody takes them over."""

    __slots__ = ("credentials", "rights")

    def __init__(self) -> None:
        self.rights: list[FileObject] | None = None
        self.credentials: Credentials | None = None

    def drop(self) -> None:
        """Let go of what nobody took."""
        rights, self.rights = self.rights, None
        if rights:
            release_files(rights)


class Ancillary(Control):
    """What sendmsg's control data asks to send along."""

    __slots__ = ("uid",)

    def __init__(self, uid: int) -> None:
        super().__init__()
        self.uid = uid  # whose descriptors these are, for RLIMIT_NOFILE's bound on what is in flight


class Received(Control):
    """What recvmsg gets besides the bytes."""

    __slots__ = ("flags", "source")

    def __init__(self) -> None:
        super().__init__()
        self.flags = 0  # MSG_TRUNC
        self.source: bytes | None = None  # address of a datagram's sender; None: leave msg_name alone


class Message:
    """Bytes in a receive queue, read up to ``start``; ``truesize`` is charged to ``sender`` until they are taken."""

    __slots__ = ("credentials", "data", "rights", "sender", "source", "start", "truesize", "uid")

    def __init__(self, data: bytes, sender: UnixSocket, truesize: int) -> None:
        self.data = data
        self.start = 0
        self.sender = sender
        self.truesize = truesize
        self.rights: list[FileObject] | None = None
        self.credentials: Credentials | None = None
        self.source = b""
        self.uid = -1  # of whoever sent the rights

    @property
    def length(self) -> int:
        """Unread bytes."""
        return len(self.data) - self.start


def linear_truesize(size: int) -> int:
    """The memory that Linux charges for a message of ``size`` bytes in one piece."""
    return max(512, 1 << (size + _SHARED_INFO - 1).bit_length()) + _SK_BUFF


def stream_truesize(size: int) -> int:
    """As Linux lays out a stream's message: whole pages for what exceeds the first."""
    if size <= MAX_HEAD:
        return linear_truesize(size)
    pages = -(-(size - MAX_HEAD) // PAGE_SIZE) * PAGE_SIZE
    return linear_truesize(max(0, size - pages)) + pages


def datagram_truesize(size: int) -> int:
    """As Linux lays out a datagram: in one piece up to 16 KiB, and pages for the rest."""
    if size <= MAX_LINEAR:
        return linear_truesize(size)
    pages = min(-(-(size - MAX_LINEAR) // PAGE_SIZE), MAX_FRAGMENTS) * PAGE_SIZE
    return linear_truesize(size - pages) + pages


_releasing: deque[FileObject] | None = None


def release_files(files: list[FileObject]) -> None:
    """Release files; those that their own closing releases in turn are queued, so that no chain of sockets can exhaust the stack."""
    global _releasing
    if _releasing is not None:
        _releasing.extend(files)
        return
    _releasing = deque(files)
    try:
        while _releasing:
            _releasing.popleft().release()
    finally:
        _releasing = None
