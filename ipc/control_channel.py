"""The plainest control channel between a container's kernel process and whoever started it: JSON messages over one zmq pair.

Messages are objects with an ``op``. To the kernel: ``spawn``, ``signal``, ``window_size``, ``terminal``, ``pause``, ``resume``,
``script``, ``shutdown``. From it: ``ready``, ``spawned``, ``failed``, ``exited``, ``suspend``, ``input_wanted``, ``noted`` (a
signal), ``scripted``.
Descriptors travel beside, on a unix socket (:func:`send_descriptors`), each set under the number of the message it belongs to.
The FIDL-style channels replace this; nothing else knows the format.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

_TAG = struct.Struct("<I")
MAX_DESCRIPTORS = 16
MAX_SOCKET_PATH = 107  # bytes, without the final NUL

Message = dict[str, Any]


class ControlChannel:
    """One end of the pair.

    ``fd`` is edge-triggered, as zmq's are: call :meth:`receive_all` after each wake, after each send, and before sleeping.
    """

    def __init__(self, path: str, *, bind: bool) -> None:
        import zmq  # 25 ms: only after the fork, while the other side boots

        self._again = zmq.Again
        self._noblock = zmq.NOBLOCK
        self._context = zmq.Context(io_threads=1)
        self.socket = self._context.socket(zmq.PAIR)
        self.socket.linger = 1000
        self.socket.reconnect_ivl = 5
        self._directory = -1
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:  # sun_path is short; the directory's descriptor is a shorter name for it
            self._directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            path = f"/proc/self/fd/{self._directory}/{os.path.basename(path)}"
        address = "ipc://" + path
        if bind:
            self.socket.bind(address)
        else:
            self.socket.connect(address)
        self.fd = int(self.socket.getsockopt(zmq.FD))

    def send(self, op: str, **fields: Any) -> None:
        """Queue one message; never blocks."""
        fields["op"] = op
        try:
            self.socket.send(json.dumps(fields).encode(), self._noblock)
        except self._again:
            pass  # the peer is gone, which its end of the descriptor socket tells

    def receive_all(self) -> list[Message]:
        """All messages that have arrived."""
        messages = []
        while True:
            try:
                messages.append(json.loads(self.socket.recv(self._noblock)))
            except self._again:
                return messages

    def close(self, linger_ms: int = 1000) -> None:
        """Send what is queued, for at most ``linger_ms``, and close."""
        self.socket.close(linger=linger_ms)
        self._context.term()
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


def descriptor_socket_pair() -> tuple[socket.socket, socket.socket]:
    """The unix socket beside the channel: packets, so that each set of descriptors keeps its number; its end of file tells that
    the peer is gone.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send_descriptors(peer: socket.socket, tag: int, descriptors: Sequence[int]) -> None:
    """Hand ``descriptors`` over under ``tag``."""
    socket.send_fds(peer, [_TAG.pack(tag)], list(descriptors))


def receive_descriptors(peer: socket.socket) -> tuple[int, list[int]] | None:
    """The next set, as (tag, descriptors), close-on-exec; None at end of file. Errors: BlockingIOError."""
    data, descriptors, _flags, _address = socket.recv_fds(peer, 4096, MAX_DESCRIPTORS, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    if len(data) < _TAG.size:
        return None
    return _TAG.unpack_from(data)[0], list(descriptors)
