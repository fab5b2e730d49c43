"""What can travel between processes: each kind of handle, its object, and the most rights that its maker has."""

from __future__ import annotations

from typing import NamedTuple

from polynix.ipc import channel, counter, event, host_file, job, vmo
from polynix.ipc.handle import Handle, KernelObject
from polynix.ipc.record import Kind
from polynix.ipc.status import Status, ZxStatus


class KindOfHandle(NamedTuple):
    kind: Kind
    handle: type[Handle]
    rights: int


KINDS = {
    Kind.CHANNEL: KindOfHandle(Kind.CHANNEL, channel.Channel, int(channel.RIGHTS)),
    Kind.COUNTER: KindOfHandle(Kind.COUNTER, counter.Counter, int(counter.RIGHTS)),
    Kind.EVENT: KindOfHandle(Kind.EVENT, event.Event, int(event.EVENT_RIGHTS)),
    Kind.EVENT_PAIR: KindOfHandle(Kind.EVENT_PAIR, event.EventPair, int(event.EVENTPAIR_RIGHTS)),
    Kind.VMO: KindOfHandle(Kind.VMO, vmo.Vmo, int(vmo.RIGHTS)),
    Kind.HOST_FILE: KindOfHandle(Kind.HOST_FILE, host_file.HostFile, int(host_file.RIGHTS)),
    Kind.JOB: KindOfHandle(Kind.JOB, job.Job, int(job.RIGHTS)),
}
_BY_OBJECT: dict[type[KernelObject], KindOfHandle] = {
    channel.ChannelEnd: KINDS[Kind.CHANNEL],
    counter.CounterObject: KINDS[Kind.COUNTER],
    event.EventObject: KINDS[Kind.EVENT],
    event.EventPairEnd: KINDS[Kind.EVENT_PAIR],
    vmo.VmoObject: KINDS[Kind.VMO],
    host_file.HostFileObject: KINDS[Kind.HOST_FILE],
    job.JobObject: KINDS[Kind.JOB],
}


def kind_of(object_: KernelObject) -> KindOfHandle:
    """Errors: NOT_SUPPORTED for what can't travel."""
    kind = next((_BY_OBJECT[type_] for type_ in type(object_).__mro__ if type_ in _BY_OBJECT), None)
    if kind is None:
        raise ZxStatus(Status.NOT_SUPPORTED, f"{type(object_).__name__} cannot be sent to another process")
    return kind


def descriptor_of(object_: KernelObject) -> int:
    """The descriptor that travels beside the handle; -1 for none."""
    return object_.fd if isinstance(object_, vmo.VmoObject | host_file.HostFileObject) else -1
