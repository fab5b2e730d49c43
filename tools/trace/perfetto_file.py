"""Writes events as a Perfetto trace (``TrackEvent`` packets), for ui.perfetto.dev and trace_processor: processes and threads as tracks, system calls as
slices with decoded arguments, wake-ups as flows, faults and signals as instants, what the runner did in category ``power``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket, TrackEvent
from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder
from polynix.kernelproc.strace import names as strace_names
from polynix.kernelproc.trace_layout import Kind
from polynix.tools.trace.reader import Event, Thread, decoded_arguments, decoded_result

if TYPE_CHECKING:
    from polynix.runner.trace import TraceEvent

SEQUENCE = 1
PROCESS_TRACKS = 1 << 32  # a process's track is this plus its pid; a thread's is its tid
RUNNER_TRACKS = 1 << 33
BEGIN, END, INSTANT = TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END, TrackEvent.TYPE_INSTANT
FAULT_WRITE, FAULT_EXEC = 2, 16


class PerfettoFile:
    """A trace being written to ``file``. Names are interned: they would be most of it. Errors of all methods: OSError of the file."""

    def __init__(self, file: IO[bytes], threads: dict[int, Thread]) -> None:
        self._builder: Any = StreamingTraceProtoBuilder(file)
        self._interned: dict[tuple[str, str], int] = {}
        self._threads = threads
        self._first = True
        self._flows = 0
        self._woken: dict[int, int] = {}  # tid -> flow that ends with its call
        self._described: set[int] = set()
        for thread in sorted(threads.values(), key=lambda thread: thread.tid):
            self._describe(thread)

    # -- packets --------------------------------------------------------------------------------------------------------------------------

    def _packet(self) -> Any:
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = SEQUENCE
        packet.sequence_flags = TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        if self._first:
            self._first = False
            packet.first_packet_on_sequence = True
            packet.sequence_flags = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        return packet

    def _intern(self, packet: Any, kind: str, name: str) -> int:
        """The number of a name; the packet that uses it first brings it along."""
        key = (kind, name)
        number = self._interned.get(key)
        if number is None:
            number = self._interned[key] = len(self._interned) + 1
            getattr(packet.interned_data, kind).add(iid=number, name=name)
        return number

    def _describe(self, thread: Thread) -> None:
        if thread.pid not in self._described:
            self._described.add(thread.pid)
            packet = self._packet()
            packet.track_descriptor.uuid = PROCESS_TRACKS + thread.pid
            packet.track_descriptor.process.pid = thread.pid
            packet.track_descriptor.process.process_name = self._threads.get(thread.pid, thread).name
            self._builder.write_packet(packet)
        packet = self._packet()
        descriptor = packet.track_descriptor
        descriptor.uuid = thread.tid
        descriptor.parent_uuid = PROCESS_TRACKS + thread.pid
        descriptor.thread.pid = thread.pid
        descriptor.thread.tid = thread.tid
        descriptor.thread.thread_name = thread.name
        self._builder.write_packet(packet)

    def _event(self, kind: Any, timestamp: int, track: int, category: str = "", name: str = "", annotations: Iterable[tuple[str, str]] = ()) -> Any:
        packet = self._packet()
        packet.timestamp = timestamp
        event = packet.track_event
        event.type = kind
        event.track_uuid = track
        if category:
            event.category_iids.append(self._intern(packet, "event_categories", category))
            event.name_iid = self._intern(packet, "event_names", name)
        for label, value in annotations:
            annotation = event.debug_annotations.add()
            annotation.name_iid = self._intern(packet, "debug_annotation_names", label)
            annotation.string_value = value
        return packet

    # -- events ---------------------------------------------------------------------------------------------------------------------------

    def write(self, event: Event) -> None:
        """One event of the kernel's."""
        if event.kind == Kind.CALL:
            self._call(event)
        elif event.kind == Kind.WAKE:
            self._wake(event)
        elif event.kind == Kind.SIGNAL:
            self._instant(event, "signal", strace_names.signal_name(event.number))
        elif event.kind == Kind.FAULT:
            address, error = event.arguments[:2]
            access = "exec" if error & FAULT_EXEC else "write" if error & FAULT_WRITE else "read"
            self._instant(event, "fault", "page fault", ("address", f"{address:#x}"), ("access", access))
        elif event.kind == Kind.EXIT:
            status = event.result or 0
            how = ("signal", strace_names.signal_name(status & 0x7F)) if status & 0x7F else ("status", str(status >> 8))
            self._instant(event, "task", "exit", how)

    def _call(self, event: Event) -> None:
        self._builder.write_packet(self._event(BEGIN, event.start_ns, event.tid, "syscall", event.name, decoded_arguments(event)))
        flow = self._woken.pop(event.tid, None)
        if event.end_ns is None:
            return  # Perfetto shows a slice that did not end
        if flow is not None:
            woken = self._event(INSTANT, event.end_ns, event.tid, "wakeup", "woken")
            woken.track_event.terminating_flow_ids.append(flow)
            self._builder.write_packet(woken)
        self._builder.write_packet(self._event(END, event.end_ns, event.tid, annotations=(("result", decoded_result(event)),)))

    def _wake(self, event: Event) -> None:
        self._flows += 1
        self._woken[event.arguments[0]] = self._flows
        packet = self._event(INSTANT, event.start_ns, event.tid, "wakeup", "wakes", (("tid", str(event.arguments[0])),))
        packet.track_event.flow_ids.append(self._flows)
        self._builder.write_packet(packet)

    def _instant(self, event: Event, category: str, name: str, *annotations: tuple[str, str]) -> None:
        self._builder.write_packet(self._event(INSTANT, event.start_ns, event.tid, category, name, annotations))

    def write_runner(self, events: Iterable[TraceEvent]) -> None:
        """What the runner noted (suspends, proxies, pagers): durations as slices, the rest as instants, a track for each name."""
        tracks: dict[str, int] = {}
        for event in events:
            track = tracks.get(event.name)
            if track is None:
                track = tracks[event.name] = RUNNER_TRACKS + len(tracks)
                packet = self._packet()
                packet.track_descriptor.uuid = track
                packet.track_descriptor.name = f"runner: {event.name}"
                self._builder.write_packet(packet)
            kind = INSTANT if event.duration_ns is None else BEGIN
            self._builder.write_packet(self._event(kind, event.start_ns, track, event.category, event.event))
            if event.duration_ns is not None:
                self._builder.write_packet(self._event(END, event.start_ns + event.duration_ns, track))
