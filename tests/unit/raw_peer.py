"""A process that speaks to a broker without a session: whatever it likes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
from typing import TYPE_CHECKING

import zmq
from polynix.ipc.channel import RIGHTS, Channel
from polynix.ipc.record import ENTRY, HEADER, Entry, Operation
from polynix.ipc.session import BROKER_SOCKET
from polynix.ipc.status import ZxStatus
from polynix.ipc.wire import MAGIC

if TYPE_CHECKING:
    from realm import Realm


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


def send_random_records(realm: Realm, seed: int) -> None:
    """One peer's life, with a channel and a few descriptors to play with."""
    source = random.Random(seed)
    peer = RawPeer(realm.directory)
    _, root = realm.connected.get(timeout=20)
    try:
        peer.send(record(Operation.CREATE, 2, b"", (Entry(2, int(RIGHTS), 1), Entry(4, int(RIGHTS), 1))))
        for tag in range(source.randrange(3)):
            peer.send_descriptor(2 * tag + 2)
        kept, sent = Channel.create()
        kept.write(b"in it")
        with contextlib.suppress(ZxStatus):
            root.write(b"for you", [sent])
        for _ in range(source.randrange(1, 12)):
            peer.send(random_record(source))
    finally:
        peer.close()
