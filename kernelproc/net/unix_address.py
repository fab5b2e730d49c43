"""Names of AF_UNIX sockets: paths, abstract names, autobind (``man 7 unix``).

An address is what follows ``sun_family``: b"" for none, a path with its final NUL, or a NUL and the abstract name.
"""

from __future__ import annotations

import stat
import struct
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EADDRINUSE, ECONNREFUSED, EEXIST, EINVAL, ENOSPC, EPROTOTYPE
from polynix.kernelproc.uapi.fcntl import AT_FDCWD
from polynix.kernelproc.uapi.socket import AF_UNIX
from polynix.kernelproc.vfs.create import make_node
from polynix.kernelproc.vfs.lookup import lookup, lookup_parent
from polynix.kernelproc.vfs.namespace import NamespaceNode
from polynix.kernelproc.vfs.permissions import MAY_WRITE, check_access

if TYPE_CHECKING:
    from polynix.kernelproc.net.unix_socket import UnixSocket
    from polynix.kernelproc.task.task import Task

PATH_SIZE = 108
_FAMILY = struct.pack("<H", AF_UNIX)
_SLOT = "unix socket"  # of a node: the socket bound to it


class AbstractNames:
    """The abstract namespace of one kernel (in its expando): name, with its leading NUL, and type to socket."""

    def __init__(self) -> None:
        self.sockets: dict[bytes, UnixSocket] = {}
        self._next_autobind = 0

    def autobind(self, socket: UnixSocket) -> None:
        """Give ``socket`` a free name of five hexadecimal digits."""
        for _ in range(1 << 20):
            name = b"\0%05x" % self._next_autobind
            self._next_autobind = (self._next_autobind + 1) & 0xFFFFF
            if name not in self.sockets:
                self.bind(socket, name)
                return
        raise Errno(ENOSPC)

    def bind(self, socket: UnixSocket, name: bytes) -> None:
        """Errors: EADDRINUSE."""
        if name in self.sockets:
            raise Errno(EADDRINUSE)
        self.sockets[name] = socket
        socket.address = name


def check_address(raw: bytes) -> bytes:
    """The address in a ``struct sockaddr_un`` of the guest. Errors: EINVAL."""
    if len(raw) <= 2 or len(raw) > 2 + PATH_SIZE or raw[:2] != _FAMILY:
        raise Errno(EINVAL)
    name = raw[2:]
    return name if name[0] == 0 else name.partition(b"\0")[0] + b"\0"


def sockaddr(address: bytes) -> bytes:
    """The ``struct sockaddr_un`` of an address: only as long as it need be."""
    return _FAMILY + address


def bind_path(task: Task, socket: UnixSocket, address: bytes, mode: int) -> None:
    """Make the socket's node. Errors: EADDRINUSE, and those of mknod."""
    parent, name, slashes = lookup_parent(task, AT_FDCWD, address[:-1])
    try:
        if slashes:
            raise Errno(EEXIST)
        entry = make_node(task, parent, name, stat.S_IFSOCK | mode & 0o777 & ~task.fs.umask)
    except Errno as error:
        raise Errno(EADDRINUSE if error.errno == EEXIST else error.errno) from None
    assert entry.node is not None
    entry.node.slot(_SLOT, lambda: socket)
    socket.address = address
    socket.place = NamespaceNode(parent.mount, entry)


def unbind(socket: UnixSocket) -> None:
    """Forget a closed socket's name; a path stays in its directory, and refuses connections."""
    address = socket.address
    if address[:1] == b"\0":
        names = socket.kernel.expando.get(AbstractNames).sockets
        if names.get(address) is socket:
            del names[address]
    place, socket.place = socket.place, None
    if place is not None and place.node.expando is not None and place.node.expando.get(_SLOT) is socket:
        del place.node.expando[_SLOT]


def find_socket(task: Task, address: bytes, kind: int) -> UnixSocket:
    """The socket of type ``kind`` that is bound to ``address``. Errors: ECONNREFUSED, EPROTOTYPE, EACCES, those of a look-up."""
    found: UnixSocket | None
    if address[:1] == b"\0":
        found = task.kernel.expando.get(AbstractNames).sockets.get(address)
    else:
        node = lookup(task, AT_FDCWD, address[:-1]).node
        check_access(task.credentials, node, MAY_WRITE)
        found = node.expando.get(_SLOT) if stat.S_ISSOCK(node.mode) and node.expando is not None else None
    if found is None:
        raise Errno(ECONNREFUSED)
    if found.type != kind:
        raise Errno(EPROTOTYPE)
    return found
