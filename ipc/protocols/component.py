"""fuchsia.component.runner: how a runner is asked to start a component, and how the component is stopped and its end is told.

A component is a container here. What it offers and what it is given are directories of protocols, opened by name (:class:`Directory`); Fuchsia's are
``fuchsia.io.Directory``, of which only that much is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum

from polynix.ipc.bindings import FidlProtocol, Openness, event, one_way, protocol
from polynix.ipc.fidl import INT32, INT64, STRING, UINT32, HandleType, StringType, UnknownVariant, VectorType, member, struct, table, union
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.objects import Channel, Event, Handle

MAX_NAME = 255
PA_FD = 0x30  # zircon/processargs.h: a descriptor

DIRECTORY = "."  # a directory itself, opened once more
RUNNER_PROTOCOL = "fuchsia.component.runner.ComponentRunner"
CONTAINER_RUNNER_PROTOCOL = "fuchsia.starnix.container.Runner"  # what a kernel calls its ComponentRunner


def descriptor_id(fd: int) -> int:
    """The id of descriptor ``fd`` among numbered handles."""
    return PA_FD | fd << 16


class ComponentError(IntEnum):
    """fuchsia.component.Error: what epitaphs of a ComponentController say."""

    INTERNAL = 1
    INVALID_ARGUMENTS = 2
    INSTANCE_NOT_FOUND = 5
    INSTANCE_ALREADY_EXISTS = 6
    INSTANCE_CANNOT_START = 7
    RESOURCE_UNAVAILABLE = 10
    INSTANCE_DIED = 11


@union()
@dataclass(frozen=True, kw_only=True)
class DictionaryValue:
    text: str | None = member(1, STRING)
    texts: list[str] | None = member(2, VectorType(STRING))
    unknown: UnknownVariant | None = None


@struct
@dataclass(frozen=True)
class DictionaryEntry:
    key: str = member(STRING)
    value: DictionaryValue = member(DictionaryValue)


@table
@dataclass(kw_only=True)
class Dictionary:
    """The ``program`` of a component: texts, and lists of texts, by name."""

    entries: list[DictionaryEntry] | None = member(1, VectorType(DictionaryEntry))

    @classmethod
    def of(cls, values: Mapping[str, str | list[str]]) -> Dictionary:
        return cls(
            entries=[
                DictionaryEntry(key, DictionaryValue(text=value) if isinstance(value, str) else DictionaryValue(texts=value)) for key, value in values.items()
            ]
        )

    def text(self, key: str, default: str = "") -> str:
        """The text under ``key``."""
        for entry in self.entries or ():
            if entry.key == key and entry.value.text is not None:
                return entry.value.text
        return default


@struct
@dataclass(frozen=True)
class HandleInfo:
    """A handle, and what it is for (:func:`descriptor_id`)."""

    handle: Handle = member(HandleType(Handle))
    id: int = member(UINT32)


@table
@dataclass(kw_only=True)
class ComponentNamespaceEntry:
    """A directory of protocols that the component is given, such as ``/svc``."""

    path: str | None = member(1, STRING)
    directory: Channel | None = member(2, HandleType(Channel))


@table
@dataclass(kw_only=True)
class ComponentStartInfo:
    """What a container is started with; its ordinals are Fuchsia's, of which some are left out."""

    resolved_url: str | None = member(1, STRING)
    program: Dictionary | None = member(2, Dictionary)
    ns: list[ComponentNamespaceEntry] | None = member(3, VectorType(ComponentNamespaceEntry))
    outgoing_dir: Channel | None = member(4, HandleType(Channel))
    """The server's end of the directory of what the container offers."""
    numbered_handles: list[HandleInfo] | None = member(6, VectorType(HandleInfo))
    component_instance: Event | None = member(9, HandleType(Event))
    """A token that stands for the component."""


def descriptors_of(handles: Iterable[HandleInfo]) -> dict[int, Handle]:
    """The handles that are descriptors, by number; the others are closed."""
    found: dict[int, Handle] = {}
    for info in handles:
        fd = info.id >> 16
        if info.id & 0xFFFF == PA_FD and fd not in found:
            found[fd] = info.handle
        else:
            info.handle.close()
    return found


@struct
@dataclass(frozen=True)
class ComponentRunnerStartRequest:
    start_info: ComponentStartInfo = member(ComponentStartInfo)
    controller: Channel = member(HandleType(Channel))
    """The server's end of a ComponentController."""


@protocol(RUNNER_PROTOCOL)
class ComponentRunner(FidlProtocol):
    """Who can start a component."""

    @one_way()
    async def start(self, request: ComponentRunnerStartRequest) -> None:
        """Start it; the controller's channel tells how that went on."""
        raise NotImplementedError


@table
@dataclass(kw_only=True)
class ComponentStopInfo:
    """How a component ended."""

    termination_status: int | None = member(1, INT32)
    """OK after an ordinary end; else a Zircon status, or a :class:`ComponentError`."""
    exit_code: int | None = member(2, INT64)
    """The wait status of pid 1, if it ended."""
    message: str | None = member(3, STRING)
    """Why it could not start or go on, in one line for people; ours, not Fuchsia's."""


@protocol("fuchsia.component.runner.ComponentController", openness=Openness.OPEN)
class ComponentController(FidlProtocol):
    """One component. An epitaph follows the event: OK, or INSTANCE_DIED."""

    @one_way()
    async def stop(self) -> None:
        """End it in an orderly way."""
        raise NotImplementedError

    @one_way()
    async def kill(self) -> None:
        """End it now."""
        raise NotImplementedError

    @event()
    async def on_stop(self, payload: ComponentStopInfo) -> None:
        raise NotImplementedError


@table
@dataclass(kw_only=True)
class DirectoryOpenRequest:
    name: str | None = member(1, StringType(MAX_NAME))
    channel: Channel | None = member(2, HandleType(Channel))
    """The server's end of the protocol."""


@protocol("polynix.component.Directory", openness=Openness.OPEN)
class Directory(FidlProtocol):
    """Protocols by name."""

    @one_way()
    async def open(self, request: DirectoryOpenRequest) -> None:
        """Connect ``channel`` to the protocol; the epitaph NOT_FOUND tells that there is none of that name."""
        raise NotImplementedError
