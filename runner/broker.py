"""Broker: the part of the runner that processes' sessions connect with; to its realm what the Zircon kernel is to its processes.

It listens at ``DIRECTORY/broker``, a unix socket, in a directory that only its user may enter. Who connects is asked for his user id by
the host's kernel: ours and root's may. He is given the realm's arena and the name of a zmq endpoint of his own
(:mod:`polynix.ipc.session`); :class:`~polynix.runner.member.Member` does what he asks for. The unix socket stays: descriptors go over it,
and its end tells that the process is gone. What it had sent before is handled first.

One thread serves all members: the broker's own, or one that waits for a message anyway (:mod:`polynix.ipc.service`). The runner's own
code uses channels like anybody: a message to an end that a member holds goes out from the thread that writes it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import select
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable

from polynix.ipc.channel import RIGHTS, Channel, ChannelEnd
from polynix.ipc.descriptor_socket import send_packet
from polynix.ipc.handle import KernelObject
from polynix.ipc.object_lock import OBJECTS
from polynix.ipc.record import VERSION, Hello
from polynix.ipc.service import Service
from polynix.ipc.session import BROKER_SOCKET
from polynix.ipc.shared_arena import DEFAULT_SLOTS, MAX_MEMBERS, SharedArena
from polynix.ipc.status import Status, ZxStatus
from polynix.ipc.wire import HANGUP_SECONDS, EndpointDirectory, Wire, WireError
from polynix.ipc.wire_server import WireServer
from polynix.runner.member import Member, Peer

log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("iII")
_CLOSE_SECONDS = 1.0
_BATCH = 16  # frames of one member before the others' turn

OnConnect = Callable[[Peer, Channel], None]


class Broker(WireServer[Member]):
    """Serves the processes of one realm until it is closed."""

    def __init__(self, directory: str, on_connect: OnConnect | None = None, *, slots: int = DEFAULT_SLOTS) -> None:
        """``directory`` exists, and only its owner may enter it. ``on_connect`` is called, from the broker's thread, with each process
        that connects and the broker's end of its first channel; it must not block. Errors: ZxStatus ACCESS_DENIED for a directory that
        others may enter, ALREADY_EXISTS where a broker is, NO_MEMORY, IO.
        """
        import zmq

        super().__init__()
        self.directory = os.path.abspath(directory)
        self.on_connect = on_connect
        self.objects: weakref.WeakValueDictionary[int, KernelObject] = weakref.WeakValueDictionary()  # that processes know, by koid
        status = os.stat(self.directory)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ZxStatus(Status.ACCESS_DENIED, f"{directory} must be ours alone (mode 0700)")
        self._endpoints = EndpointDirectory(self.directory)
        self.arena = SharedArena.create(slots)
        self._listener = self._listen()
        self._context = zmq.Context(io_threads=1)
        self._members: dict[int, Member] = {}  # by number
        self._hung_up: dict[Member, float] = {}  # and until when zmq's word is awaited
        self._epoll.register(self._listener, select.EPOLLIN)
        self._closing = False
        self._lock = threading.Lock()  # of the numbers
        self._service = Service(self, "broker")

    def _listen(self) -> socket.socket:
        path = self._endpoints.socket_path(BROKER_SOCKET)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            listener.bind(path)
            listener.listen(256)
        except OSError as error:
            listener.close()
            self.arena.close()
            raise ZxStatus(Status.ALREADY_EXISTS if error.errno == 98 else Status.IO, f"{self.directory}: {error.strerror}") from error
        return listener

    # -- members -----------------------------------------------------------------------------------------------------------------

    def invite(self) -> tuple[socket.socket, Channel]:
        """A socket for ``Session(socket)`` in a process that will be, and the broker's end of its first channel, which can be written to
        at once. The socket must be closed here once the process has it. Errors: NO_RESOURCES.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            return theirs, self._admit(ours, Peer(os.getpid(), os.geteuid(), os.getegid()))
        except BaseException:
            theirs.close()
            raise

    def _accept(self) -> None:
        while True:
            try:
                beside, _ = self._listener.accept()
            except OSError:  # none is left, or it went away; or there are too many descriptors
                return
            peer = Peer(*_CREDENTIALS.unpack(beside.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))
            if peer.uid not in (os.geteuid(), 0):
                _refuse(beside, "the runner is another user's")
                continue
            try:
                root = self._admit(beside, peer)
            except ZxStatus as error:
                log.warning("process %d is turned away: %s", peer.pid, error)
                continue
            try:
                if self.on_connect is not None:
                    self.on_connect(peer, root)
                else:
                    root.close()
            except Exception:
                log.exception("a connection failed")
                root.close()

    def _admit(self, beside: socket.socket, peer: Peer) -> Channel:
        """Errors: NO_RESOURCES, and ``beside`` is closed."""
        import zmq

        name = f"session-{secrets.token_hex(8)}"
        with self._lock:
            index = next((number for number in range(1, MAX_MEMBERS) if number not in self._members), 0)
            if not index or self._closing:
                _refuse(beside, "the runner has too many connections")
                raise ZxStatus(Status.NO_RESOURCES, f"{MAX_MEMBERS} processes")
            try:
                wire = Wire(self._context, self._endpoints.endpoint(name), bind=True, beside=beside, on_attention=lambda: self.look_at(member))
            except zmq.ZMQError as error:
                _refuse(beside, str(error))
                raise ZxStatus(Status.NO_RESOURCES, str(error)) from error
            member = self._members[index] = Member(self, index, peer, wire)
        ours, theirs = ChannelEnd.create()
        with OBJECTS:
            root = Channel(ours, RIGHTS)
            member.hold_root(theirs, RIGHTS)
        hello = Hello(VERSION, index, self.directory, name, theirs.koid, ours.koid)
        with contextlib.suppress(OSError):  # it is gone already: its end is noticed as any other
            send_packet(beside, json.dumps(hello._asdict()).encode(), [self.arena.fd])
        member.endpoint = self._endpoints.socket_path(name)
        self.look_at(member)
        return root

    # -- whoever serves ----------------------------------------------------------------------------------------------------------

    def serve(self, timeout: float) -> None:
        """Sleep until there is something to do, for ``timeout`` seconds or (-1) without end, and do it."""
        if self._hung_up:
            due_in = max(0.0, min(self._hung_up.values()) - time.monotonic())
            timeout = due_in if timeout < 0 else min(timeout, due_in)
        due = self.await_due(timeout)
        if self._hung_up:
            due.update(dict.fromkeys(self._hung_up))
        for member in due:
            if not member.ended:
                self._serve(member)

    def on_readable(self, fd: int) -> None:
        """Somebody wants to connect."""
        self._accept()

    def _serve(self, member: Member) -> None:
        wire = member.wire
        try:
            frames = wire.receive(_BATCH)
            if frames:
                member.handle_frames(frames)
        except (WireError, ZxStatus) as error:
            log.warning("closing the session of process %d: %s", member.peer.pid, error)
            self._remove(member)
            return
        except Exception:
            log.exception("closing the session of process %d", member.peer.pid)
            self._remove(member)
            return
        member.flush()
        if wire.hung_up:
            self._hung_up.setdefault(member, time.monotonic() + HANGUP_SECONDS)
        if member.said_goodbye or wire.ended or time.monotonic() >= self._hung_up.get(member, math.inf):
            self._remove(member)
            return
        if not wire.drained:
            self._attention.append(member)
        if not member.polled or wire.wants_other_events:
            self.poll_for(member)

    def _remove(self, member: Member) -> None:
        self.poll_no_more(member)
        self._hung_up.pop(member, None)
        member.end()
        with contextlib.suppress(OSError):
            os.unlink(member.endpoint)
        self.arena.bury(member.index)
        with self._lock:
            self._members.pop(member.index, None)

    def close(self) -> None:
        """End all sessions: every channel of every process sees PEER_CLOSED. What was written to them has a second to go out."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self.ended = True
        self._service.join()
        deadline = time.monotonic() + _CLOSE_SECONDS
        while any(member.wire.has_unsent for member in self._members.values()) and time.monotonic() < deadline:
            self.serve(0.01)
        with contextlib.suppress(OSError):
            os.unlink(self._endpoints.socket_path(BROKER_SOCKET))
        self._listener.close()
        for member in list(self._members.values()):
            self._remove(member)
        self._context.term()
        self.close_poll()
        self.arena.close()
        self._endpoints.close()


def _refuse(beside: socket.socket, why: str) -> None:
    with contextlib.suppress(OSError):
        send_packet(beside, json.dumps({"refused": why}).encode())
    beside.close()
