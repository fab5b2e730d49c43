"""Writes events as a Perfetto trace (``TrackEvent`` packets), for ui.perfetto.dev and trace_processor: processes and threads as tracks, system calls as
slices with decoded arguments, wake-ups as flows, faults and signals as instants, what the runner did in category ``power``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

from polynix.kernelproc.strace import names as strace_names
from polynix.kernelproc.strace.recorded import RecordedCalls
from polynix.kernelproc.trace_layout import Kind
from polynix.tools.trace.packet_writer import BEGIN, END, INSTANT, PacketWriter, flow
from polynix.tools.trace.reader import CALL, Event, Thread, TraceReader

if TYPE_CHECKING:
    from polynix.runner.trace import TraceEvent

PROCESS_TRACKS = 1 << 32  # a process's track is this plus its pid; a thread's is its tid
RUNNER_TRACKS = 1 << 33
FAULT_WRITE, FAULT_EXEC = 2, 16


def write_perfetto(reader: TraceReader, events: Iterable[Event], runner_events: Iterable[TraceEvent], file: IO[bytes]) -> None:
    """A whole trace: the reader's events, and what the runner noted. Errors: OSError of the file."""
    trace = PerfettoFile(file, reader.threads)
    for event in events:
        trace.write(event)
    trace.write_runner(runner_events)


class PerfettoFile:
    """A trace being written to ``file``. Errors of all methods: OSError of the file."""

    def __init__(self, file: IO[bytes], threads: dict[int, Thread]) -> None:
        self._packets = PacketWriter(file)
        self._calls = RecordedCalls(self._packets.annotation)
        self._threads = threads
        self._begins: dict[int, dict[int, bytes]] = {}  # tid -> number of the call -> head of its slice
        self._ends: dict[int, bytes] = {}  # tid -> head of the end
        self._flows = 0
        self._woken: dict[int, int] = {}  # tid -> flow that ends with its call
        self._described: set[int] = set()
        for thread in sorted(threads.values(), key=lambda thread: thread.tid):
            self._describe(thread)

    def _describe(self, thread: Thread) -> None:
        if thread.pid not in self._described:
            self._described.add(thread.pid)
            packet = self._packets.track()
            packet.track_descriptor.uuid = PROCESS_TRACKS + thread.pid
            packet.track_descriptor.process.pid = thread.pid
            packet.track_descriptor.process.process_name = self._threads.get(thread.pid, thread).name
            self._packets.write(packet)
        packet = self._packets.track()
        descriptor = packet.track_descriptor
        descriptor.uuid = thread.tid
        descriptor.parent_uuid = PROCESS_TRACKS + thread.pid
        descriptor.thread.pid = thread.pid
        descriptor.thread.tid = thread.tid
        descriptor.thread.thread_name = thread.name
        self._packets.write(packet)

    def write(self, event: Event) -> None:
        """One event of the kernel's."""
        if event.kind == CALL:
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
        tid, number = event.tid, event.number
        heads = self._begins.get(tid)
        if heads is None:
            heads = self._begins[tid] = {}
        begin = heads.get(number)
        if begin is None:
            begin = heads[number] = self._packets.head(BEGIN, tid, "syscall", event.name)
        self._packets.event(event.start_ns, begin + b"".join(self._calls.arguments(number, event.arguments, event.memory, event.result)))
        ended = self._woken.pop(tid, None)
        if event.end_ns is None:
            return  # Perfetto shows a slice that did not end
        if ended is not None:
            self._packets.event(event.end_ns, self._packets.head(INSTANT, tid, "wakeup", "woken") + flow(ended, ends=True))
        end = self._ends.get(tid)
        if end is None:
            end = self._ends[tid] = self._packets.head(END, tid)
        self._packets.event(event.end_ns, end + self._calls.result(number, event.result))

    def _wake(self, event: Event) -> None:
        self._flows += 1
        other = event.arguments[0]
        self._woken[other] = self._flows
        head = self._packets.head(INSTANT, event.tid, "wakeup", "wakes")
        self._packets.event(event.start_ns, head + self._packets.annotation("tid", str(other)) + flow(self._flows))

    def _instant(self, event: Event, category: str, name: str, *annotations: tuple[str, str]) -> None:
        head = self._packets.head(INSTANT, event.tid, category, name)
        self._packets.event(event.start_ns, head + b"".join(self._packets.annotation(*each) for each in annotations))

    def write_runner(self, events: Iterable[TraceEvent]) -> None:
        """What the runner noted (suspends, proxies, pagers): durations as slices, the rest as instants, a track for each name."""
        tracks: dict[str, int] = {}
        for event in events:
            track = tracks.get(event.name)
            if track is None:
                track = tracks[event.name] = RUNNER_TRACKS + len(tracks)
                packet = self._packets.track()
                packet.track_descriptor.uuid = track
                packet.track_descriptor.name = f"runner: {event.name}"
                self._packets.write(packet)
            kind = INSTANT if event.duration_ns is None else BEGIN
            self._packets.event(event.start_ns, self._packets.head(kind, track, event.category, event.event))
            if event.duration_ns is not None:
                self._packets.event(event.start_ns + event.duration_ns, self._packets.head(END, track))
