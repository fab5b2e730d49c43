"""The FIDL wire format, version 2: types, encoder, decoder and message headers.

What it models: ``docs/reference/fidl/language/wire-format`` of Fuchsia with RFC-0029, RFC-0114 and RFC-0138. Invariants: encoding
is canonical; decoding checks every byte and every handle, and raises nothing but :class:`DecodeError`, having closed the message's
handles. Handles are any objects with ``close()``; nothing here knows channels.
"""

from __future__ import annotations

from polynix.ipc.fidl.coding import FidlType, close_handles, decode, encode
from polynix.ipc.fidl.containers import STRING, ArrayType, BoxType, StringType, VectorType, type_of
from polynix.ipc.fidl.errors import DecodeError, EncodeError, FidlError
from polynix.ipc.fidl.message import (
    EPITAPH_ORDINAL,
    Epitaph,
    MessageHeader,
    Result,
    TransportError,
    decode_body,
    decode_epitaph,
    encode_epitaph,
    encode_message,
    method_ordinal,
    result_type,
)
from polynix.ipc.fidl.primitives import (
    BOOL,
    FLOAT32,
    FLOAT64,
    INT8,
    INT16,
    INT32,
    INT64,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    BitsType,
    EnumType,
    HandleType,
)
from polynix.ipc.fidl.records import Empty, StructType, TableType, UnionType, UnknownVariant, member, struct, table, union

__all__ = [
    "BOOL",
    "EPITAPH_ORDINAL",
    "FLOAT32",
    "FLOAT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "STRING",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "ArrayType",
    "BitsType",
    "BoxType",
    "DecodeError",
    "Empty",
    "EncodeError",
    "EnumType",
    "Epitaph",
    "FidlError",
    "FidlType",
    "HandleType",
    "MessageHeader",
    "Result",
    "StringType",
    "StructType",
    "TableType",
    "TransportError",
    "UnionType",
    "UnknownVariant",
    "VectorType",
    "close_handles",
    "decode",
    "decode_body",
    "decode_epitaph",
    "encode",
    "encode_epitaph",
    "encode_message",
    "member",
    "method_ordinal",
    "result_type",
    "struct",
    "table",
    "type_of",
    "union",
]
