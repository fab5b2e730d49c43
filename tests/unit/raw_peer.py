"""A process that speaks to a broker without a session: whatever it likes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct

import zmq
from polynix.ipc.record import ENTRY, HEADER, Entry, Operation
from polynix.ipc.session import BROKER_SOCKET
from polynix.ipc.wire import MAGIC


class RawPeer:
    """Connected, and greeted."""

    def __init__(self, directory: str) -> None:
        self.beside = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.beside.connect(f"{directory}/{BROKER_SOCKET}")
        data, (arena,), _, _ = socket.recv_fds(self.beside, 4096, 1)
        os.close(arena)
        self.hello = json.loads(data)
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PAIR)
        self.socket.linger = 200
        self.socket.connect(f"ipc://{directory}/{self.hello['endpoint']}")

    def send(self, *records: bytes, received: int = 0, flags: int = 0, magic: int = MAGIC) -> None:
        self.socket.send(struct.pack("<III", magic, received, flags) + b"".join(records))

    def send_raw(self, *parts: bytes) -> None:
        self.socket.send_multipart(parts)

    def send_descriptor(self, tag: int, fd: int = 0) -> None:
        with contextlib.suppress(OSError):
            socket.send_fds(self.beside, [struct.pack("<I", tag)], [fd], socket.MSG_DONTWAIT)

    def close(self) -> None:
        self.socket.close()
        self.context.term()
        self.beside.close()


def record(operation: int, number: int, data: bytes = b"", entries: tuple[Entry, ...] = (), size: int | None = None, count: int | None = None) -> bytes:
    """A record, its counts as told."""
    header = HEADER.pack(operation, 0, len(entries) if count is None else count, number, len(data) if size is None else size)
    return header + b"".join(ENTRY.pack(*entry) for entry in entries) + data


def word(value: int) -> bytes:
    return struct.pack("<I", value)


def random_record(source: random.Random) -> bytes:
    """Something like a record: the numbers are often ones that exist, or nearly."""

    def number() -> int:
        return source.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 0xFFFF_FFFF])

    def entry() -> Entry:
        rights = source.choice([0, 2, 0xD00E, 0x700F, 0xF00D, 0xFFFF_FFFF, source.getrandbits(20)])
        extra = source.choice([0, 0, 0, 1, 5, 1 << 20, 0xFFFF_FFFF])
        kind = source.choice([0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8])
        return Entry(number(), rights, kind, source.choice([0, 0, 1, 2]), source.getrandbits(8), extra, number(), number())

    operation = source.choice([*Operation, Operation.CREATE, Operation.CREATE, Operation.WRITE, Operation.WRITE, 0, 99])
    data = source.choice([b"", b"data", word(0), word(1), word(number()), struct.pack("<II", 1 << 24, 0), source.randbytes(8), bytes(65537)])
    entries = tuple(entry() for _ in range(source.choice([0, 0, 1, 1, 2, 2, 3, 65])))
    if source.random() < 0.05:
        return record(operation, number(), data, entries, size=source.choice([0, 1, 0xFFFF_FFFF]))
    return record(operation, number(), data, entries)
