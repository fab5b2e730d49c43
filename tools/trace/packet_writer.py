"""Appends the packets of a Perfetto trace to a file: track descriptors by the library that keeps the format, track events, of which there are a million, by
patterns of bytes made from its schema's field numbers.
"""

from __future__ import annotations

from typing import IO, Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import DebugAnnotation, InternedData, InternedString, Trace, TracePacket, TrackEvent
from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

SEQUENCE = 1
BEGIN, END, INSTANT = TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END, TrackEvent.TYPE_INSTANT
MAX_INTERNED = 1 << 16  # strings; readers keep them all in memory
SHORT = 12  # bytes of a value that is not worth a number

_VARINT, _FIXED64, _BYTES = 0, 1, 2  # wire types of protobuf
_LOW_BITS = 14
_LOW_MASK = (1 << _LOW_BITS) - 1


def varint(number: int) -> bytes:
    """An unsigned number as protobuf writes it."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def tag(field: int, wire_type: int) -> bytes:
    """What stands before a field's value."""
    return varint(field << 3 | wire_type)


_NUMBERS = [varint(number) for number in range(1 << _LOW_BITS)]


def _length(number: int) -> bytes:
    return _NUMBERS[number] if number < len(_NUMBERS) else varint(number)


def _message(field: bytes, content: bytes) -> bytes:
    return field + _length(len(content)) + content


_PACKET = tag(Trace.PACKET_FIELD_NUMBER, _BYTES)
_PACKETS = [_PACKET + number for number in _NUMBERS]  # by their lengths
_LOW = [bytes((number & 0x7F | 0x80, number >> 7 | 0x80)) for number in range(1 << _LOW_BITS)]  # of a number that goes on
_LOWEST = [tag(TracePacket.TIMESTAMP_FIELD_NUMBER, _VARINT) + number for number in _LOW]
_TRACK_EVENT = tag(TracePacket.TRACK_EVENT_FIELD_NUMBER, _BYTES)
_INTERNED = tag(TracePacket.INTERNED_DATA_FIELD_NUMBER, _BYTES)
_OF_SEQUENCE = (
    tag(TracePacket.TRUSTED_PACKET_SEQUENCE_ID_FIELD_NUMBER, _VARINT) + varint(SEQUENCE)
    + tag(TracePacket.SEQUENCE_FLAGS_FIELD_NUMBER, _VARINT) + varint(TracePacket.SEQ_NEEDS_INCREMENTAL_STATE)
)  # fmt: skip
_TYPE = tag(TrackEvent.TYPE_FIELD_NUMBER, _VARINT)
_TRACK = tag(TrackEvent.TRACK_UUID_FIELD_NUMBER, _VARINT)
_CATEGORY = tag(TrackEvent.CATEGORY_IIDS_FIELD_NUMBER, _VARINT)
_NAME = tag(TrackEvent.NAME_IID_FIELD_NUMBER, _VARINT)
_ANNOTATION = tag(TrackEvent.DEBUG_ANNOTATIONS_FIELD_NUMBER, _BYTES)
_LABEL = tag(DebugAnnotation.NAME_IID_FIELD_NUMBER, _VARINT)
_VALUE = tag(DebugAnnotation.STRING_VALUE_FIELD_NUMBER, _BYTES)
_VALUE_NUMBER = tag(DebugAnnotation.STRING_VALUE_IID_FIELD_NUMBER, _VARINT)
_CATEGORIES = tag(InternedData.EVENT_CATEGORIES_FIELD_NUMBER, _BYTES)  # of EventCategory; this and the next two have the numbers of InternedString's fields
_NAMES = tag(InternedData.EVENT_NAMES_FIELD_NUMBER, _BYTES)
_LABELS = tag(InternedData.DEBUG_ANNOTATION_NAMES_FIELD_NUMBER, _BYTES)
_VALUES = tag(InternedData.DEBUG_ANNOTATION_STRING_VALUES_FIELD_NUMBER, _BYTES)
_NUMBER = tag(InternedString.IID_FIELD_NUMBER, _VARINT)
_TEXT = tag(InternedString.STR_FIELD_NUMBER, _BYTES)


class PacketWriter:
    """One sequence of packets in ``file``. Strings are interned: they would be most of it. Errors of all methods: OSError of the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._write = file.write
        self._builder: Any = StreamingTraceProtoBuilder(file)
        self._numbers: dict[tuple[bytes, str], bytes] = {}
        self._new = b""  # interned strings that the next event brings along
        self._time = -1  # the high bits of the last event's timestamp
        self._high = b""
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = SEQUENCE
        packet.sequence_flags = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        packet.first_packet_on_sequence = True
        self._builder.write_packet(packet)

    def track(self) -> Any:
        """A packet with an empty ``track_descriptor``, to be filled and given to :meth:`write`."""
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = SEQUENCE
        return packet

    def write(self, packet: Any) -> None:
        """Append a packet of the library's."""
        self._builder.write_packet(packet)

    def event(self, timestamp_ns: int, event: bytes) -> None:
        """Append a track event, made of what the functions below return: a head, annotations, flows."""
        time = timestamp_ns >> 2 * _LOW_BITS
        if time != self._time:  # a quarter of a second; events are nearly in order
            self._time = time
            self._high = varint(time) + _TRACK_EVENT
        try:
            length = _NUMBERS[len(event)]
        except IndexError:
            length = varint(len(event))
        packet = b"".join((_LOWEST[timestamp_ns & _LOW_MASK], _LOW[timestamp_ns >> _LOW_BITS & _LOW_MASK], self._high, length, event, _OF_SEQUENCE))
        if self._new:
            packet += _message(_INTERNED, self._new)
            self._new = b""
        try:
            self._write(_PACKETS[len(packet)] + packet)
        except IndexError:
            self._write(_message(_PACKET, packet))

    def head(self, kind: int, track: int, category: str = "", name: str = "") -> bytes:
        """The beginning of an event; the end of a slice has no name. May be used again."""
        head = _TYPE + varint(kind) + _TRACK + varint(track)
        return head + _CATEGORY + self._interned(_CATEGORIES, category) + _NAME + self._interned(_NAMES, name) if name else head

    def annotation(self, name: str, value: str) -> bytes:
        """One argument of an event. May be used again."""
        if len(value) > SHORT and (len(self._numbers) < MAX_INTERNED or (_VALUES, value) in self._numbers):
            content = _VALUE_NUMBER + self._interned(_VALUES, value)
        else:
            content = _message(_VALUE, value.encode(errors="backslashreplace"))
        return _message(_ANNOTATION, _LABEL + self._interned(_LABELS, name) + content)

    def _interned(self, table: bytes, text: str) -> bytes:
        """The number of a string; the event that is written next brings it along if it is new."""
        key = table, text
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = varint(len(self._numbers) + 1)
            self._new += _message(table, _NUMBER + number + _message(_TEXT, text.encode(errors="backslashreplace")))
        return number


def flow(number: int, *, ends: bool = False) -> bytes:
    """An arrow begins at an event, or ends there."""
    field = TrackEvent.TERMINATING_FLOW_IDS_FIELD_NUMBER if ends else TrackEvent.FLOW_IDS_FIELD_NUMBER
    return tag(field, _FIXED64) + number.to_bytes(8, "little")


def whole_packets(file: IO[bytes]) -> int:
    """How far a trace goes in whole packets."""
    data = file.read()
    end = place = 0
    while place < len(data):
        end, place = place, place + len(_PACKET)
        length = shift = 0
        while place < len(data) and data[place] > 0x7F:
            length |= (data[place] & 0x7F) << shift
            shift += 7
            place += 1
        place += 1 + length + ((data[place] << shift) if place < len(data) else 0)
    return place if place == len(data) else end
