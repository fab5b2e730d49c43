"""The FIDL wire format: byte examples, and one hostile message for each rule."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any

import pytest
from polynix.ipc import fidl
from polynix.ipc.fidl import MessageHeader, TransportError, member
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.objects import Counter, EventPair, Rights, Signals

ALL_ONES = "ffffffffffffffff"


def data(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", "").replace("|", ""))


class Token:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class SuspendError(IntEnum):
    WAKE_LOCKS_EXIST = 1
    SUSPEND_FAILURE = 2


@fidl.table
@dataclass(kw_only=True)
class SuspendRequest:
    container_job: Any = member(1, fidl.HandleType())
    wake_locks: Any = member(2, fidl.HandleType())
    suspend_debounce_duration: int | None = member(3, fidl.INT64)


@fidl.table
@dataclass(kw_only=True)
class SuspendResponse:
    suspend_time: int | None = member(1, fidl.INT64)
    resume_reason: str | None = member(2, fidl.StringType(1024))


SUSPEND = fidl.method_ordinal("fuchsia.starnix.runner/Manager.SuspendContainer")
SUSPEND_RESULT = fidl.result_type(SuspendResponse, fidl.EnumType(SuspendError))


def test_ordinals() -> None:
    assert fidl.method_ordinal("fuchsia.unknown/Queryable.Query") == 0x2658EDEE9DECFC06
    assert fidl.method_ordinal("fuchsia.unknown/Cloneable.Clone") == 0x20D8A7ABA2168A79
    assert fidl.method_ordinal("fuchsia.io/Node.Close") == 0x5AC5D459AD7F657E
    assert SUSPEND == 0x0928527927C9F2A7


def test_suspend_request_bytes() -> None:
    job, wake_locks = Token(), Token()
    request = SuspendRequest(container_job=job, wake_locks=wake_locks, suspend_debounce_duration=5_000_000)
    kind = fidl.type_of(SuspendRequest)
    message, handles = fidl.encode_message(MessageHeader(1, SUSPEND, flexible=True), kind, request)
    assert message == data(
        "01000000 0200 80 01 | a7f2c92779522809 | 0300000000000000 ffffffffffffffff | ffffffff 0100 0100 |"
        "ffffffff 0100 0100 | 08000000 0000 0000 | 404b4c0000000000"
    )
    assert len(message) == 64
    assert handles == [job, wake_locks]
    assert MessageHeader.decode(message) == MessageHeader(1, SUSPEND, True)
    assert fidl.decode_body(kind, message, handles) == request


def test_result_bytes() -> None:
    refused = fidl.Result(error=SuspendError.WAKE_LOCKS_EXIST)
    message, _ = fidl.encode_message(MessageHeader(1, SUSPEND, flexible=True), SUSPEND_RESULT, refused)
    assert message[16:] == data("0200000000000000 | 01000000 0000 0100")
    assert len(message) == 32
    assert fidl.decode_body(SUSPEND_RESULT, message, []) == refused
    done, _ = fidl.encode(fidl.result_type(fidl.Empty), fidl.Result(response=fidl.Empty()))
    assert done == data("0100000000000000 | 00000000 0000 0100")
    unknown, _ = fidl.encode(SUSPEND_RESULT, fidl.Result(transport_error=TransportError.UNKNOWN_METHOD))
    assert unknown == data("0300000000000000 | feffffff 0000 0100")
    success = fidl.Result(response=SuspendResponse(suspend_time=7, resume_reason="timer"))
    assert fidl.decode(SUSPEND_RESULT, *fidl.encode(SUSPEND_RESULT, success)) == success


def test_epitaph_bytes() -> None:
    message = fidl.encode_epitaph(-24)
    assert message == data("00000000 0200 00 01 | ffffffffffffffff | e8ffffff 00000000")
    header = MessageHeader.decode(message)
    assert header.ordinal == fidl.EPITAPH_ORDINAL
    assert fidl.decode_epitaph(header, message, []) == -24


@pytest.mark.parametrize(
    "text",
    [
        "",
        "01000000 0200 80 01 a7f2c927795228",
        "01000000 0200 80 02 a7f2c92779522809",  # magic
        "01000000 0000 80 01 a7f2c92779522809",  # wire format v1
        "01000000 0201 80 01 a7f2c92779522809",
        "01000000 0200 81 01 a7f2c92779522809",
        "01000000 0200 80 01 0000000000000000",  # ordinal 0
        "01000000 0200 80 01 a7f2c92779522889",  # control bit
    ],
)
def test_bad_headers(text: str) -> None:
    with pytest.raises(fidl.DecodeError):
        MessageHeader.decode(data(text))


# -- one type each ---------------------------------------------------------------------------------------------------------------


class Colour(IntEnum):
    RED = 1
    BLUE = 7


class Mode(IntFlag):
    READ = 1
    WRITE = 4


@fidl.struct
@dataclass(frozen=True)
class Point:
    x: int = member(fidl.UINT8)
    y: int = member(fidl.INT32)
    z: int = member(fidl.UINT16)


@fidl.struct
@dataclass(frozen=True)
class Node:
    value: int = member(fidl.UINT64)
    next: Node | None = member(fidl.BoxType(lambda: Node))


@fidl.union(strict=True)
@dataclass(frozen=True, kw_only=True)
class Strict:
    number: int | None = member(1, fidl.UINT8)
    text: str | None = member(2, fidl.STRING)


@fidl.union()
@dataclass(frozen=True, kw_only=True)
class Flexible:
    number: int | None = member(1, fidl.UINT8)
    text: str | None = member(2, fidl.STRING)
    token: Any = member(3, fidl.HandleType())
    unknown: fidl.UnknownVariant | None = None


EXAMPLES: list[tuple[Any, Any, str]] = [
    (fidl.BOOL, True, "01 00000000000000"),
    (fidl.INT16, -2, "feff 000000000000"),
    (fidl.FLOAT32, 1.0, "0000803f 00000000"),
    (fidl.EnumType(Colour), Colour.BLUE, "07000000 00000000"),
    (fidl.EnumType(Colour), 9, "09000000 00000000"),
    (fidl.BitsType(Mode, fidl.UINT8), Mode.READ | Mode.WRITE, "05 00000000000000"),
    (fidl.BitsType(Mode), Mode(8), "08000000 00000000"),
    (fidl.STRING, "hé", "0300000000000000 ffffffffffffffff 68c3a90000000000"),
    (fidl.STRING, "", "0000000000000000 ffffffffffffffff"),
    (fidl.StringType(nullable=True), None, "0000000000000000 0000000000000000"),
    (fidl.VectorType(fidl.UINT16), [1, 2, 3], "0300000000000000 ffffffffffffffff 0100 0200 0300 0000"),
    (fidl.VectorType(fidl.UINT8), b"ab", "0200000000000000 ffffffffffffffff 6162000000000000"),
    (fidl.VectorType(fidl.BOOL, nullable=True), None, "0000000000000000 0000000000000000"),
    (fidl.ArrayType(fidl.UINT32, 3), [1, 2, 3], "01000000 02000000 03000000 00000000"),
    (
        fidl.VectorType(fidl.STRING),
        ["a", "b"],
        "0200000000000000 ffffffffffffffff 0100000000000000 ffffffffffffffff 0100000000000000 ffffffffffffffff 6100000000000000 6200000000000000",
    ),
    (fidl.type_of(Point), Point(1, -1, 2), "01 000000 ffffffff 0200 0000 00000000"),
    (fidl.type_of(fidl.Empty), fidl.Empty(), "00 00000000000000"),
    (fidl.BoxType(Point), None, "0000000000000000"),
    (fidl.BoxType(Point), Point(1, 2, 3), "ffffffffffffffff 01 000000 02000000 0300 0000 00000000"),
    (fidl.type_of(Node), Node(1, Node(2, None)), "0100000000000000 ffffffffffffffff 0200000000000000 0000000000000000"),
    (fidl.type_of(SuspendResponse), SuspendResponse(), "0000000000000000 ffffffffffffffff"),
    (
        fidl.type_of(SuspendResponse),
        SuspendResponse(resume_reason="x"),
        "0200000000000000 ffffffffffffffff 0000000000000000 18000000 0000 0000 0100000000000000 ffffffffffffffff 7800000000000000",
    ),
    (fidl.type_of(Strict), Strict(number=3), "0100000000000000 03000000 0000 0100"),
    (fidl.type_of(Strict), Strict(text=""), "0200000000000000 10000000 0000 0000 0000000000000000 ffffffffffffffff"),
    (fidl.type_of(Flexible), Flexible(unknown=fidl.UnknownVariant(9, b"abcd")), "0900000000000000 61626364 0000 0100"),
    (fidl.type_of(Flexible), Flexible(unknown=fidl.UnknownVariant(9, b"abcdefgh")), "0900000000000000 08000000 0000 0000 6162636465666768"),
]


@pytest.mark.parametrize(("kind", "value", "text"), EXAMPLES)
def test_examples(kind: Any, value: Any, text: str) -> None:
    assert fidl.encode(kind, value) == (data(text), [])
    assert fidl.decode(kind, data(text)) == value
    kind.describe(value)


POINT = fidl.type_of(Point)
TABLE = fidl.type_of(SuspendResponse)
STRICT = fidl.type_of(Strict)
HOSTILE: list[tuple[Any, str]] = [
    (fidl.BOOL, "02 00000000000000"),
    (fidl.BOOL, "01 00000000000001"),  # padding of the primary object
    (fidl.BOOL, "01"),  # not padded
    (fidl.BOOL, "01 00000000000000 0000000000000000"),  # leftovers
    (fidl.EnumType(Colour, strict=True), "09000000 00000000"),
    (fidl.BitsType(Mode, strict=True), "08000000 00000000"),
    (fidl.STRING, "0000000000000000 0000000000000000"),  # required
    (fidl.StringType(nullable=True), "0100000000000000 0000000000000000"),  # absent, with a count
    (fidl.STRING, "0000000000000000 0100000000000000"),  # presence word
    (fidl.STRING, "0200000000000000 ffffffffffffffff c328000000000000"),  # not UTF-8
    (fidl.STRING, "0300000000000000 ffffffffffffffff eda0800000000000"),  # a surrogate
    (fidl.STRING, "0100000000000000 ffffffffffffffff 6100000000000001"),  # padding
    (fidl.STRING, "ffffffffffffffff ffffffffffffffff"),
    (fidl.StringType(1), "0200000000000000 ffffffffffffffff 6161000000000000"),
    (fidl.VectorType(fidl.UINT64), "0000000001000000 ffffffffffffffff"),  # 2^32 elements
    (fidl.VectorType(fidl.UINT64), "ffffff0f00000000 ffffffffffffffff"),  # more than the message
    (POINT, "01 000001 ffffffff 0200 0000 00000000"),  # padding between members
    (POINT, "01 000000 ffffffff 0200 0001 00000000"),  # padding at the end
    (fidl.type_of(fidl.Empty), "01 00000000000000"),
    (fidl.BoxType(Point), "0100000000000000"),
    (TABLE, "0000000000000000 0000000000000000"),  # a table is never absent
    (TABLE, "0100000000000000 ffffffffffffffff 0000000000000000"),  # not canonical
    (TABLE, "0100000000000000 ffffffffffffffff 01000000 0000 0100"),  # int64 inline
    (TABLE, "0100000000000000 ffffffffffffffff 08000000 0000 0200 0000000000000000"),  # flags
    (TABLE, "0100000000000000 ffffffffffffffff 10000000 0000 0000 0000000000000000 0000000000000000"),  # num_bytes
    (TABLE, "0100000000000000 ffffffffffffffff 08000000 0100 0000 0000000000000000"),  # num_handles
    (TABLE, "0300000000000000 ffffffffffffffff 0000000000000000 0000000000000000 07000000 0000 0000"),  # unknown, odd length
    (TABLE, "0300000000000000 ffffffffffffffff 0000000000000000 0000000000000000 f8ffffff 0000 0000"),  # unknown, too long
    (STRICT, "0000000000000000 0000000000000000"),
    (STRICT, "0300000000000000 00000000 0000 0100"),
    (STRICT, "0100000000000000 0000000000000000"),  # an ordinal and no content
    (STRICT, "0100000000000000 00010000 0000 0100"),  # padding in an envelope
    (STRICT, "0100000000000000 08000000 0000 0000 0100000000000000"),  # uint8 out of line
    (fidl.type_of(Strict).optional(), "0000000000000000 00000000 0000 0100"),
    (fidl.HandleType(), "ffffffff 00000000"),  # no handle came
    (fidl.HandleType(), "00000000 00000000"),
    (fidl.HandleType(nullable=True), "01000000 00000000"),
]


@pytest.mark.parametrize(("kind", "text"), HOSTILE)
def test_hostile(kind: Any, text: str) -> None:
    with pytest.raises(fidl.DecodeError):
        fidl.decode(kind, data(text))


def test_rights_of_handles() -> None:
    reader = fidl.HandleType(Counter, rights=Rights.READ | Rights.WAIT)
    counter = Counter.create()
    koid = counter.koid
    arrived = fidl.decode(reader, *fidl.encode(reader, counter))
    assert arrived.koid == koid
    assert arrived.rights == Rights.READ | Rights.WAIT  # what it had more is gone
    with pytest.raises(fidl.EncodeError):
        fidl.encode(fidl.HandleType(Counter, rights=Rights.WRITE), arrived)
    with pytest.raises(fidl.DecodeError):
        fidl.decode(fidl.HandleType(Counter, rights=Rights.WRITE), data("ffffffff 00000000"), [arrived])
    assert not arrived.is_valid
    first, second = EventPair.create()
    with pytest.raises(fidl.DecodeError):
        fidl.decode(fidl.HandleType(EventPair, rights=Rights.WAIT), data("ffffffff 00000000 0000000000000000"), [second])
    assert first.pending & Signals.PEER_CLOSED  # the narrower handle was closed too


def test_handles_close_on_errors_and_in_unknown_members() -> None:
    tokens = [Token(), Token()]
    with pytest.raises(fidl.DecodeError):
        fidl.decode(fidl.HandleType(), data("ffffffff 00000000"), tokens)  # one left over
    assert all(token.closed for token in tokens)
    token = Token()
    with pytest.raises(fidl.DecodeError):
        fidl.decode(fidl.HandleType(int), data("ffffffff 00000000"), [token])  # another class
    assert token.closed
    token = Token()
    newer = data("0300000000000000 ffffffffffffffff 0000000000000000 0000000000000000 ffffffff 0100 0100")
    assert fidl.decode(TABLE, newer, [token]) == SuspendResponse()
    assert token.closed
    token = Token()
    value = fidl.decode(fidl.type_of(Flexible), data("0900000000000000 ffffffff 0100 0100"), [token])
    assert value.unknown.handles == (token,)
    assert not token.closed


def test_depth() -> None:
    def chain(length: int) -> Node:
        node = None
        for value in range(length):
            node = Node(value, node)
        assert node is not None
        return node

    kind = fidl.type_of(Node)
    assert fidl.decode(kind, *fidl.encode(kind, chain(33))) == chain(33)
    with pytest.raises(fidl.EncodeError):
        fidl.encode(kind, chain(34))
    with pytest.raises(fidl.DecodeError):
        fidl.decode(kind, data(f"0000000000000000 {ALL_ONES}" * 33 + "00" * 16))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (fidl.UINT8, 256),
        (fidl.UINT8, None),
        (fidl.BOOL, 1),
        (fidl.STRING, None),
        (fidl.STRING, "\ud800"),
        (fidl.StringType(2), "abc"),
        (fidl.VectorType(fidl.UINT8, 1), b"ab"),
        (fidl.VectorType(fidl.UINT16), b"ab"),
        (fidl.ArrayType(fidl.UINT8, 2), b"abc"),
        (fidl.EnumType(Colour, strict=True), 9),
        (fidl.BitsType(Mode, strict=True), 8),
        (POINT, "point"),
        (POINT, Point(256, 0, 0)),
        (STRICT, None),
        (STRICT, Strict()),
        (STRICT, Strict(number=1, text="")),
        (fidl.HandleType(), None),
        (fidl.HandleType(int), "text"),
    ],
)
def test_values_that_do_not_fit(kind: Any, value: Any) -> None:
    with pytest.raises(fidl.EncodeError):
        fidl.encode(kind, value)
