"""Wire: what carries records between two processes: frames over a zmq PAIR, and descriptors over a unix socket beside it.

Any thread may :meth:`~Wire.send` a record; records that wait are sent together in one frame. Not more than :data:`FRAMES_AHEAD` frames
are on their way at a time: so records gather while the other side is busy, and zmq's buffers stay small. One thread, or one loop,
*serves* the wire: it polls the descriptors of :meth:`~Wire.poll_events` and calls :meth:`~Wire.receive`. (zmq's descriptor is edge-triggered, and any use
of its socket may swallow an edge; ``on_attention`` is called when the server must come although no descriptor says so.)

A frame is magic, the number of frames received so far, flags, and records. A frame that breaks the rules is a :class:`WireError`, and
the end of the wire. When the other process dies, what had left it is received first.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from polynix.ipc.descriptor_socket import close_descriptors, receive_packet, send_packet

MAGIC = 0x314E_5850  # "PXN1"
FRAMES_AHEAD = 8
FRAME_BYTES = 128 << 10  # at which a frame takes no more records
MAX_RECORD = 80 << 10  # bytes that are sent at once: the largest message with as many handles as it takes, or some smaller ones
MAX_FRAME = FRAME_BYTES + MAX_RECORD  # the largest record may come last; of a larger frame zmq would end the connection
MAX_DESCRIPTORS = 1024  # that came and were not asked for
MAX_SOCKET_PATH = 107  # bytes, without the final NUL
HANGUP_SECONDS = 1.0  # after a hang-up, how long zmq may take to notice it too

_FRAME = struct.Struct("<III")
_WANT_ACK, _ACK = 1, 2
_TAG = struct.Struct("<I")
_LINGER_MS = 1000
# A connection that breaks while zmq's limit holds it back loses what the host's socket still has. Frames that are ahead, as many confirmations of ours, and
# as many again that zmq has handed over and not counted yet, stay below this one: it holds back only who sends on without being told that he may.
_MOST_UNREAD = 4 * FRAMES_AHEAD
_NOBLOCK, _EVENTS, _POLLIN, _POLLOUT = 1, 15, 1, 2  # zmq.h; the enumerations cost a microsecond each


class WireError(Exception):
    """The other side broke the rules."""


class EndpointDirectory:
    """A directory of zmq endpoints and unix sockets whose path may be longer than a socket's address can be."""

    def __init__(self, path: str) -> None:
        self._fd = -1
        self.path = path
        if len(os.fsencode(path)) > MAX_SOCKET_PATH - 32:  # its descriptor is a shorter name for it
            self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.path = f"/proc/self/fd/{self._fd}"

    def socket_path(self, name: str) -> str:
        return f"{self.path}/{name}"

    def endpoint(self, name: str) -> str:
        return f"ipc://{self.path}/{name}"

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Wire:
    """One side. ``channel`` is the unix socket beside, or None."""

    def __init__(
        self,
        context: Any,
        address: str,
        *,
        bind: bool,
        beside: socket.socket | None,
        on_attention: Callable[[], None],
        curve: Callable[[Any], None] | None = None,
    ) -> None:
        """``curve`` gives the zmq socket its keys; who fails the hand-shake then is not asked again. Errors: zmq.ZMQError."""
        import zmq

        self._zmq = zmq
        self._again = zmq.Again
        self._lock = threading.Lock()  # of the zmq socket: not for two threads at once
        self._on_attention = on_attention
        self._outgoing: deque[bytes] = deque()
        self._descriptors: deque[tuple[int, int]] = deque()  # (tag, descriptor) that the unix socket did not take yet
        self._arrived: dict[int, int] = {}  # by tag
        self._sent = self._confirmed = self._received = 0
        self._ack_wanted = False
        self._bind = bind
        self._final = curve is not None  # a hand-shake that fails will fail again
        self._connected = False
        self._failures = 0
        self._paired = False
        self._lost = False  # some connection was: ours, or one that zmq turned away
        self._disconnected = False
        self.beside = beside
        self.ended = False
        """Nothing more will come."""
        self.hung_up = False
        """Whether the other side has closed the unix socket, as its death does, and poll has told of it."""
        self._polled_for_room = self._polled_for_end = False
        self.drained = False
        """Whether the last :meth:`receive` left nothing behind."""
        self._socket = context.socket(zmq.PAIR)
        self._socket.linger = _LINGER_MS
        self._socket.reconnect_ivl = 5
        self._socket.maxmsgsize = MAX_FRAME
        self._socket.sndhwm = 0
        self._socket.rcvhwm = _MOST_UNREAD
        failures = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | failures)
        try:
            if curve is not None:
                curve(self._socket)
            if bind:
                self._socket.bind(address)
            else:
                self._socket.connect(address)
        except zmq.ZMQError:
            self.close(linger_ms=0)
            raise
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._monitor_fd = int(self._monitor.getsockopt(zmq.FD))
        self._read_monitor()  # zmq signals nothing before it was asked once

    # -- sending: any thread -----------------------------------------------------------------------------------------------------

    def send(self, record: bytes) -> bool:
        """Queue a record, or several in one, of at most :data:`MAX_RECORD` bytes. Returns whether :meth:`flush` shall be called: not when
        nothing can go before the other side says that it has caught up; who hears that flushes.
        """
        self._outgoing.append(record)
        return self._sent - self._confirmed < FRAMES_AHEAD or self._ack_wanted  # looked at after the record is queued

    def send_descriptor(self, tag: int, fd: int) -> None:
        """Hand ``fd`` over, before the records that are sent from now on. Errors: OSError."""
        assert self.beside is not None
        if not self._descriptors:
            with contextlib.suppress(BlockingIOError):
                self._send_descriptor(tag, fd)
                return
        self._descriptors.append((tag, os.dup(fd)))

    def _send_descriptor(self, tag: int, fd: int) -> None:
        assert self.beside is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ConnectionRefusedError):  # its end is noticed otherwise
            send_packet(self.beside, _TAG.pack(tag), [fd])

    def flush(self) -> None:
        """Send what may be sent now; the rest goes when the other side has caught up."""
        attention = False
        while self._may_send():
            if not self._lock.acquire(blocking=False):
                return  # who has it looks again after he has let it go
            try:
                going_on = self._send_frame()
                events = int(self._socket.getsockopt(_EVENTS))
                attention = attention or bool(events & _POLLIN)
                going_on = going_on or bool(events & _POLLOUT)  # connected between the two lines
            except self._zmq.ZMQError:  # it was closed meanwhile
                return
            finally:
                self._lock.release()
            if not going_on:
                break
        if attention:
            self._on_attention()

    def _may_send(self) -> bool:
        return self._ack_wanted or (bool(self._outgoing) and self._sent - self._confirmed < FRAMES_AHEAD and not self._descriptors)

    def _send_frame(self) -> bool:
        outgoing = self._outgoing
        records: list[bytes] = []
        flags = 0
        if self._sent - self._confirmed < FRAMES_AHEAD and not self._descriptors:
            size = 0
            while outgoing and size < FRAME_BYTES:
                record = outgoing.popleft()
                size += len(record)
                records.append(record)
        if not records:
            if not self._ack_wanted:
                return True
            flags = _ACK
        elif self._sent + 1 - self._confirmed >= FRAMES_AHEAD // 2:
            flags = _WANT_ACK
        frame = b"".join((_FRAME.pack(MAGIC, self._received & 0xFFFF_FFFF, flags), *records))
        try:
            self._socket.send(frame, _NOBLOCK)
        except self._again:  # nobody is connected yet, or any more
            outgoing.extendleft(reversed(records))
            return False
        self._ack_wanted = False
        if records:
            self._sent += 1
        return True

    @property
    def has_unsent(self) -> bool:
        return bool(self._outgoing)

    # -- receiving: who serves the wire ------------------------------------------------------------------------------------------

    def poll_events(self) -> dict[int, int]:
        """Descriptors to poll, each with the events that matter (epoll's numbers)."""
        self._polled_for_room = bool(self._descriptors)
        self._polled_for_end = not self.hung_up
        events = {self._fd: select.EPOLLIN, self._monitor_fd: select.EPOLLIN}
        if self.beside is not None and not self.hung_up:
            events[self.beside.fileno()] = select.EPOLLRDHUP | (select.EPOLLOUT if self._descriptors else 0)
        return events

    @property
    def wants_other_events(self) -> bool:
        """Whether :meth:`poll_events` would tell something else than the last time: descriptors wait for room in the unix socket, or do no longer, or
        it has hung up.
        """
        return bool(self._descriptors) != self._polled_for_room or self.hung_up == self._polled_for_end

    def notice(self, fd: int, events: int) -> None:
        """Poll told of ``fd``, one of :meth:`poll_events`."""
        if fd == self._monitor_fd:
            with self._lock:
                if not self.ended:
                    self._read_monitor()
        elif events & select.EPOLLRDHUP:
            self.hung_up = True

    def receive(self, most: int = 16) -> list[bytes]:
        """The frames that have come, at most so many. Errors: WireError."""
        frames: list[bytes] = []
        self.drained = False
        with self._lock:
            if self.ended:
                return frames
            while len(frames) < most:
                try:
                    part = self._socket.recv(_NOBLOCK, copy=False)
                except self._again:
                    pass
                else:
                    frame = part.bytes
                    if part.more:
                        raise WireError("a frame of several parts")
                    if self._check_frame(frame):
                        frames.append(frame)
                events = int(self._socket.getsockopt(_EVENTS))  # to receive once more, in vain, would take longer
                if not events & _POLLIN:
                    if self._bind:
                        self._check_pair(events)
                    self.ended = self._disconnected
                    self.drained = True
                    break
        if self._descriptors:
            self._flush_descriptors()
        return frames

    def _check_pair(self, events: int) -> None:
        """A bound pair that has its peer takes messages; where it did, and some connection was lost, and it does not any more, it was the peer's."""
        if events & _POLLOUT:
            self._paired = True
        elif self._lost and self._paired:
            self._disconnected = True

    def _check_frame(self, frame: bytes) -> bool:
        """Whether it has records."""
        if len(frame) < _FRAME.size:
            raise WireError(f"a frame of {len(frame)} bytes")
        magic, received, flags = _FRAME.unpack_from(frame)
        confirmed = self._confirmed + ((received - self._confirmed) & 0xFFFF_FFFF)
        if magic != MAGIC or confirmed > self._sent or flags not in (0, _WANT_ACK, _ACK):
            raise WireError(f"frame {magic:#x}, {received} of {self._sent} received, flags {flags:#x}")
        self._confirmed = confirmed
        if flags == _ACK:
            if len(frame) != _FRAME.size:
                raise WireError("records in a confirmation")
            return False
        self._received += 1
        self._paired = True
        self._ack_wanted |= flags == _WANT_ACK
        return True

    def _read_monitor(self) -> None:
        zmq = self._zmq
        while True:
            try:
                event, _value = struct.unpack_from("=hi", self._monitor.recv_multipart(_NOBLOCK)[0])
            except self._again:
                return
            event &= 0xFFFF
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._connected = True
            elif event == zmq.EVENT_DISCONNECTED:
                if self._connected:
                    self._lost = True
                    self._disconnected = self._disconnected or not self._bind
            elif self._final and not self._bind and not self._connected:
                self._failures += 1  # a connection may break in the middle of it for other reasons
                self._disconnected = event == zmq.EVENT_HANDSHAKE_FAILED_AUTH or self._failures >= 3

    def _flush_descriptors(self) -> None:
        while self._descriptors:
            tag, fd = self._descriptors[0]
            try:
                self._send_descriptor(tag, fd)
            except BlockingIOError:
                return
            self._descriptors.popleft()
            os.close(fd)

    def take_descriptor(self, tag: int) -> int:
        """The descriptor that came before the record that names it, close-on-exec; the caller's from now on. Errors: WireError."""
        while tag not in self._arrived:
            try:
                if self.beside is None or len(self._arrived) >= MAX_DESCRIPTORS:
                    raise WireError(f"no descriptor {tag}")
                data, descriptors = receive_packet(self.beside, _TAG.size, 1)
            except OSError as error:
                raise WireError(f"no descriptor {tag}: {error}") from error
            if len(data) != _TAG.size or len(descriptors) != 1:
                close_descriptors(descriptors)
                raise WireError(f"no descriptor {tag}")
            number = _TAG.unpack(data)[0]
            if number in self._arrived:
                os.close(self._arrived.pop(number))
            self._arrived[number] = descriptors[0]
        return self._arrived.pop(tag)

    def close(self, linger_ms: int = _LINGER_MS) -> None:
        """Send what zmq has taken, for at most so long, and close."""
        with self._lock:
            self.ended = True
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close(linger=linger_ms)
        for _, fd in self._descriptors:
            os.close(fd)
        for fd in self._arrived.values():
            os.close(fd)
        self._descriptors.clear()
        self._arrived.clear()
        if self.beside is not None:
            self.beside.close()


FRAME_HEADER_SIZE = _FRAME.size
