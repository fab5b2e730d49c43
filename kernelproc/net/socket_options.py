"""SOL_SOCKET options (``man 7 socket``)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.net.messages import Credentials
from polynix.kernelproc.net.socket import MAX_BUFFER, MIN_RECEIVE_BUFFER, MIN_SEND_BUFFER, OUT, Socket
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.capability import CAP_NET_ADMIN
from polynix.kernelproc.uapi.errno import EDOM, EINVAL, ENODATA, ENOPROTOOPT, EOPNOTSUPP, EPERM, ERANGE
from polynix.kernelproc.uapi.socket import (
    SO_ACCEPTCONN,
    SO_BINDTODEVICE,
    SO_BPF_EXTENSIONS,
    SO_BROADCAST,
    SO_BSDCOMPAT,
    SO_BUSY_POLL,
    SO_COOKIE,
    SO_DEBUG,
    SO_DOMAIN,
    SO_DONTROUTE,
    SO_ERROR,
    SO_INCOMING_CPU,
    SO_INCOMING_NAPI_ID,
    SO_KEEPALIVE,
    SO_LINGER,
    SO_LOCK_FILTER,
    SO_MARK,
    SO_MAX_PACING_RATE,
    SO_NO_CHECK,
    SO_NOFCS,
    SO_OOBINLINE,
    SO_PASSCRED,
    SO_PASSSEC,
    SO_PEEK_OFF,
    SO_PEERCRED,
    SO_PEERGROUPS,
    SO_PEERNAME,
    SO_PEERSEC,
    SO_PRIORITY,
    SO_PROTOCOL,
    SO_RCVBUF,
    SO_RCVBUFFORCE,
    SO_RCVLOWAT,
    SO_RCVTIMEO_NEW,
    SO_RCVTIMEO_OLD,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SO_RXQ_OVFL,
    SO_SELECT_ERR_QUEUE,
    SO_SNDBUF,
    SO_SNDBUFFORCE,
    SO_SNDLOWAT,
    SO_SNDTIMEO_NEW,
    SO_SNDTIMEO_OLD,
    SO_TIMESTAMP_NEW,
    SO_TIMESTAMP_OLD,
    SO_TIMESTAMPING_OLD,
    SO_TIMESTAMPNS_NEW,
    SO_TIMESTAMPNS_OLD,
    SO_TYPE,
    SO_WIFI_STATUS,
    SOL_SOCKET,
)

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

_INT = struct.Struct("<i")
_TIMEVAL = struct.Struct("<qq")
_UCRED = struct.Struct("<iII")
_NO_PEER: Credentials = (0, 0xFFFFFFFF, 0xFFFFFFFF)
_MICROSECONDS = 1_000_000

# Options that are 0 or 1 and change nothing for a local socket.
_SWITCHES = {
    SO_DEBUG,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SO_KEEPALIVE,
    SO_DONTROUTE,
    SO_BROADCAST,
    SO_OOBINLINE,
    SO_NO_CHECK,
    SO_PASSSEC,
    SO_RXQ_OVFL,
    SO_TIMESTAMP_OLD,
    SO_TIMESTAMP_NEW,
    SO_TIMESTAMPNS_OLD,
    SO_TIMESTAMPNS_NEW,
    SO_WIFI_STATUS,
    SO_NOFCS,
    SO_SELECT_ERR_QUEUE,
}
_NUMBERS = {SO_PRIORITY, SO_MARK, SO_BUSY_POLL}


def get_option(socket: Socket, level: int, name: int, room: int) -> bytes:
    """The option's value, at most ``room`` bytes. Errors: EOPNOTSUPP (level), ENOPROTOOPT."""
    if level != SOL_SOCKET:
        return socket.get_option(level, name, room)
    if name in _INTEGERS:
        return _INT.pack(_INTEGERS[name](socket))[:room]
    if name in _SWITCHES or name in _NUMBERS:
        return _INT.pack(socket.options.get(name, 0))[:room]
    if name == SO_LINGER:
        return struct.pack("<ii", *divmod(socket.options.get(SO_LINGER, 0), 1 << 31))[:room]
    if name in (SO_RCVTIMEO_OLD, SO_RCVTIMEO_NEW):
        return _pack_timeout(socket.receive_timeout_ns)[:room]
    if name in (SO_SNDTIMEO_OLD, SO_SNDTIMEO_NEW):
        return _pack_timeout(socket.send_timeout_ns)[:room]
    if name == SO_PEERCRED:
        return _UCRED.pack(*(socket.peer_credentials or _NO_PEER))[:room]
    if name == SO_PEERGROUPS:
        if socket.peer_credentials is None:
            raise Errno(ENODATA)
        groups = struct.pack(f"<{len(socket.peer_groups)}I", *socket.peer_groups)
        if len(groups) > room:
            raise Errno(ERANGE)
        return groups
    if name == SO_PEERNAME:
        return socket.peer_name()[:room]
    if name == SO_BINDTODEVICE:
        return b""
    if name == SO_COOKIE:
        return struct.pack("<Q", id(socket) >> 4)[:room]
    if name != SO_PEERSEC:
        track_stub("getsockopt", name)
    raise Errno(ENOPROTOOPT)


_INTEGERS: dict[int, Callable[[Socket], int]] = {
    SO_TYPE: lambda socket: socket.type,
    SO_DOMAIN: lambda socket: socket.family,
    SO_PROTOCOL: lambda socket: socket.protocol,
    SO_ERROR: lambda socket: socket.take_error(),
    SO_ACCEPTCONN: lambda socket: int(socket.listening),
    SO_SNDBUF: lambda socket: socket.send_buffer,
    SO_RCVBUF: lambda socket: socket.receive_buffer,
    SO_RCVLOWAT: lambda socket: socket.low_water,
    SO_SNDLOWAT: lambda socket: 1,
    SO_PASSCRED: lambda socket: int(socket.pass_credentials),
    SO_INCOMING_CPU: lambda socket: -1,
    SO_INCOMING_NAPI_ID: lambda socket: 0,
    SO_BSDCOMPAT: lambda socket: 0,
    SO_LOCK_FILTER: lambda socket: 0,
    SO_PEEK_OFF: lambda socket: _peek_offset(socket),
    SO_MAX_PACING_RATE: lambda socket: -1,
    SO_BPF_EXTENSIONS: lambda socket: 64,
    SO_TIMESTAMPING_OLD: lambda socket: 0,
}


def _peek_offset(socket: Socket) -> int:
    if not socket.peeks_at_offset:
        raise Errno(EOPNOTSUPP)
    return socket.peek_offset


def set_option(task: Task, socket: Socket, level: int, name: int, value: bytes) -> None:
    """Errors: EOPNOTSUPP (level), EINVAL (size), EDOM, EPERM, ENOPROTOOPT."""
    if level != SOL_SOCKET:
        socket.set_option(level, name, value)
        return
    if len(value) < _INT.size:
        raise Errno(EINVAL)
    number: int = _INT.unpack_from(value)[0]
    if name == SO_PASSCRED:
        socket.pass_credentials = bool(number)
    elif name in _SWITCHES:
        socket.options[name] = int(bool(number))
    elif name in (SO_SNDBUF, SO_SNDBUFFORCE):
        _check_force(task, name == SO_SNDBUFFORCE)
        socket.send_buffer = max(_buffer_size(number, name == SO_SNDBUF), MIN_SEND_BUFFER)
        socket.queue.notify(OUT)
    elif name in (SO_RCVBUF, SO_RCVBUFFORCE):
        _check_force(task, name == SO_RCVBUFFORCE)
        socket.receive_buffer = max(_buffer_size(number, name == SO_RCVBUF), MIN_RECEIVE_BUFFER)
    elif name == SO_PEEK_OFF:
        if not socket.peeks_at_offset:
            raise Errno(EOPNOTSUPP)
        socket.peek_offset = number
    elif name == SO_RCVLOWAT:
        socket.low_water = (number if number >= 0 else 0x7FFFFFFF) or 1
    elif name in (SO_RCVTIMEO_OLD, SO_RCVTIMEO_NEW):
        socket.receive_timeout_ns = _unpack_timeout(value)
    elif name in (SO_SNDTIMEO_OLD, SO_SNDTIMEO_NEW):
        socket.send_timeout_ns = _unpack_timeout(value)
    elif name == SO_LINGER:
        if len(value) < 8:
            raise Errno(EINVAL)
        on, seconds = struct.unpack_from("<ii", value)
        socket.options[SO_LINGER] = (int(bool(on)) << 31) | (seconds & 0x7FFFFFFF)
    elif name in _NUMBERS:
        needs_capability = name == SO_MARK or (name == SO_PRIORITY and not 0 <= number <= 6)
        if needs_capability and not task.credentials.has_capability(CAP_NET_ADMIN):
            raise Errno(EPERM)
        socket.options[name] = number
    else:
        if name not in (SO_TYPE, SO_DOMAIN, SO_PROTOCOL, SO_ERROR, SO_ACCEPTCONN, SO_SNDLOWAT, SO_PEERCRED):
            track_stub("setsockopt", name)
        raise Errno(ENOPROTOOPT)


def _check_force(task: Task, force: bool) -> None:
    if force and not task.credentials.has_capability(CAP_NET_ADMIN):
        raise Errno(EPERM)


def _buffer_size(value: int, limited: bool) -> int:
    """Linux doubles what it is given, for its own overhead."""
    if limited:
        value = min(value & 0xFFFFFFFF, MAX_BUFFER)
    return 2 * min(max(value, 0), 0x3FFFFFFF)


def _pack_timeout(timeout_ns: int | None) -> bytes:
    return _TIMEVAL.pack(*divmod((timeout_ns or 0) // 1000, _MICROSECONDS))


def _unpack_timeout(value: bytes) -> int | None:
    """None, for ever, is 0. Errors: EINVAL, EDOM."""
    if len(value) < _TIMEVAL.size:
        raise Errno(EINVAL)
    seconds, microseconds = _TIMEVAL.unpack_from(value)
    if not 0 <= microseconds < _MICROSECONDS:
        raise Errno(EDOM)
    if seconds < 0:
        return 0
    return (seconds * _MICROSECONDS + microseconds) * 1000 or None
