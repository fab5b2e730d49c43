"""Descriptors over a unix socket, never blocking and always close-on-exec (``socket.send_fds`` and ``recv_fds`` drop their flags in Python 3.11)."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Sequence


def send_packet(peer: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """One packet. Errors: OSError, BlockingIOError among them when there is no room."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    peer.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive_packet(peer: socket.socket, size: int, most: int, *, wait: bool = False) -> tuple[bytes, list[int]]:
    """One packet, empty at the end of file, and its descriptors, which are the caller's. ``wait`` follows the socket's timeout.
    Errors: OSError, BlockingIOError among them when nothing is there.
    """
    flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
    descriptors = array.array("i")
    data, ancillary, message_flags, _address = peer.recvmsg(size, socket.CMSG_SPACE(most * descriptors.itemsize), flags)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if len(descriptors) > most or message_flags & socket.MSG_TRUNC:
        close_descriptors(descriptors)
        raise OSError("a packet with more than was asked for")
    return data, list(descriptors)


def close_descriptors(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)
