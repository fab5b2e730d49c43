"""All kernel objects under one name, in Zircon's terms."""

from __future__ import annotations

from polynix.ipc.channel import MAX_BYTES, MAX_HANDLES, Channel, Message
from polynix.ipc.counter import Counter
from polynix.ipc.event import Event, EventPair
from polynix.ipc.handle import INFINITE, Handle, Observer, wait_many
from polynix.ipc.host_file import HostFile
from polynix.ipc.job import Job
from polynix.ipc.signals import Rights, Signals
from polynix.ipc.status import Status, ZxStatus
from polynix.ipc.vmo import Vmo

__all__ = [
    "INFINITE",
    "MAX_BYTES",
    "MAX_HANDLES",
    "Channel",
    "Counter",
    "Event",
    "EventPair",
    "Handle",
    "HostFile",
    "Job",
    "Message",
    "Observer",
    "Rights",
    "Signals",
    "Status",
    "Vmo",
    "ZxStatus",
    "wait_many",
]
