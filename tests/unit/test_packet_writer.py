"""The lean writer of track events says what the library's reader of the format reads."""

from __future__ import annotations

import io

from hypothesis import given, settings
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TracePacket, TrackEvent
from polynix.tools.trace.packet_writer import BEGIN, END, INSTANT, MAX_INTERNED, PacketWriter, flow

texts = st.one_of(st.text(max_size=40), st.builds("x".__mul__, st.integers(16_300, 16_400)))  # around where a length takes three bytes
numbers = st.integers(0, (1 << 64) - 1)
events = st.tuples(
    numbers,
    st.sampled_from([BEGIN, END, INSTANT]),
    numbers,
    st.sampled_from(["", "read", "openat"]),
    st.lists(st.tuples(texts, texts), max_size=3),
    st.booleans(),
)  # time, kind, track, name, annotations, whether an arrow ends there


def read(data: bytes) -> list[tuple[int, int, int, str, list[tuple[str, str]], list[int]]]:
    """What the library finds, interned strings looked up."""
    trace = Trace()
    trace.ParseFromString(data)
    assert trace.packet[0].sequence_flags == TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    names: dict[int, str] = {}
    found = []
    for packet in trace.packet[1:]:
        assert packet.trusted_packet_sequence_id == trace.packet[0].trusted_packet_sequence_id
        assert packet.sequence_flags == TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        tables = packet.interned_data
        for entry in (*tables.event_categories, *tables.event_names, *tables.debug_annotation_names):
            names[entry.iid] = entry.name
        names.update({entry.iid: entry.str.decode() for entry in tables.debug_annotation_string_values})
        event: TrackEvent = packet.track_event
        notes = [
            (names[each.name_iid], names[each.string_value_iid] if each.HasField("string_value_iid") else each.string_value) for each in event.debug_annotations
        ]
        assert [names[number] for number in event.category_iids] == (["syscall"] if event.name_iid else [])
        name = names[event.name_iid] if event.name_iid else ""
        found.append((packet.timestamp, event.type, event.track_uuid, name, notes, list(event.terminating_flow_ids)))
    return found


@settings(deadline=None)
@given(st.lists(events, max_size=8))
def test_the_library_reads_what_is_written(made: list[tuple[int, int, int, str, list[tuple[str, str]], bool]]) -> None:
    file = io.BytesIO()
    writer = PacketWriter(file)
    for time, kind, track, name, notes, arrow in made:
        event = writer.head(kind, track, "syscall", name) + b"".join(writer.annotation(*each) for each in notes)
        writer.event(time, event + (flow(track, ends=True) if arrow else b""))
    expected = [(time, kind, track, name, notes, [track] if arrow else []) for time, kind, track, name, notes, arrow in made]
    assert read(file.getvalue()) == expected


def test_pieces_may_be_used_again() -> None:
    file = io.BytesIO()
    writer = PacketWriter(file)
    head, annotation = writer.head(BEGIN, 1, "syscall", "openat"), writer.annotation("flags", "O_RDONLY|O_CLOEXEC")
    for time in range(3):
        writer.event(time, head + annotation)
    assert read(file.getvalue()) == [(time, BEGIN, 1, "openat", [("flags", "O_RDONLY|O_CLOEXEC")], []) for time in range(3)]


def test_readers_keep_no_more_strings_than_the_bound() -> None:
    file = io.BytesIO()
    writer = PacketWriter(file)
    values = [f"/a/rather/long/path/{number}" for number in range(MAX_INTERNED + 100)]
    for value in (*values, values[0]):
        writer.event(0, writer.head(END, 1) + writer.annotation("path", value))
    trace = Trace()
    trace.ParseFromString(file.getvalue())
    assert sum(len(packet.interned_data.debug_annotation_string_values) for packet in trace.packet) < MAX_INTERNED
    assert [notes for *_, notes, _ in read(file.getvalue())] == [[("path", value)] for value in (*values, values[0])]
