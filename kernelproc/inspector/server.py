"""The socket of the inspector: one JSON packet in, one packet out that carries a memory file with the JSON answer.

A memory file, so that an answer of any size is sent at once and a peer that does not read can't make the kernel wait. The socket's address is abstract:
it goes with the process, however that ends. Only the kernel's own user and root may ask.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import select
import socket
import struct
from typing import TYPE_CHECKING, Any

from polynix.kernelproc.inspector import Connection, RequestError, requests
from polynix.kernelproc.region_layout import INSPECTOR_PREFIX

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel

log = logging.getLogger(__name__)

LOWEST_FD = 64  # the kernel's descriptors stay out of the way of what a stub's start puts in place
MAX_REQUEST = 1 << 16
MAX_PEERS = 32
UCRED = struct.Struct("3i")  # SO_PEERCRED: pid, uid, gid


class Inspector:
    """Listens for tools while the kernel runs."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._peers: dict[int, tuple[socket.socket, int, Connection]] = {}
        self._listener: socket.socket | None = None
        try:
            listener = _high(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK))
            listener.bind(f"\0{INSPECTOR_PREFIX}{os.getpid()}")
            listener.listen(MAX_PEERS)
        except OSError as error:
            log.debug("no inspector: %s", error)
            return
        self._listener = listener
        kernel.engine.watch(listener.fileno(), select.EPOLLIN, lambda _events: self._accept())

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        _pid, uid, _gid = UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
        if uid not in (0, os.geteuid()) or len(self._peers) >= MAX_PEERS:
            peer.close()
            return
        peer = _high(peer)
        peer.setblocking(False)
        token = self.kernel.engine.watch(peer.fileno(), select.EPOLLIN, lambda _events: self._serve(peer))
        self._peers[peer.fileno()] = (peer, token, Connection())

    def _serve(self, peer: socket.socket) -> None:
        try:
            packet = peer.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._forget(peer)
            return
        try:
            answer = json.dumps(self._answer(packet, self._peers[peer.fileno()][2])).encode()
            with _memory_file(answer) as fd:
                socket.send_fds(peer, [b"answer"], [fd])
        except OSError as error:
            log.debug("inspector: %s", error)
            self._forget(peer)

    def _answer(self, packet: bytes, connection: Connection) -> dict[str, Any]:
        from polynix.kernelproc.inspector import all as _all  # noqa: F401  # registers the handlers

        try:
            request = json.loads(packet)
            if not isinstance(request, dict):
                raise RequestError("a request is a JSON object")
            return {"result": requests.answer(self.kernel, request, connection)}
        except (RequestError, ValueError, KeyError, TypeError) as error:
            return {"error": " ".join(str(error).split()) or type(error).__name__}
        except Exception as error:
            log.exception("inspector request %r failed", packet[:200])
            return {"error": f"{type(error).__name__}: {error}"}

    def _forget(self, peer: socket.socket) -> None:
        _, token, connection = self._peers.pop(peer.fileno())
        connection.close()
        self.kernel.engine.unwatch(peer.fileno(), token)
        peer.close()

    def close(self) -> None:
        """Answer nobody any longer."""
        for peer, _, _ in list(self._peers.values()):
            peer.close()
        self._peers.clear()
        if self._listener is not None:
            self._listener.close()


def _high(made: socket.socket) -> socket.socket:
    moved = socket.socket(fileno=fcntl.fcntl(made.fileno(), fcntl.F_DUPFD_CLOEXEC, LOWEST_FD))
    made.close()
    return moved


@contextlib.contextmanager
def _memory_file(content: bytes) -> Any:
    low = os.memfd_create("polynix-answer", os.MFD_CLOEXEC)
    try:
        fd = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, LOWEST_FD)
    finally:
        os.close(low)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        yield fd
    finally:
        os.close(fd)
