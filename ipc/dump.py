"""Any message in words, for logs and traces: ``Manager.SuspendContainer#1(ManagerSuspendContainerRequest(...))``.

Looking takes nothing: handles are shown, never closed or moved, whatever the bytes are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from polynix.ipc.bindings import FidlProtocol, Method, MethodKind
from polynix.ipc.fidl.errors import DecodeError
from polynix.ipc.fidl.message import EPITAPH_ORDINAL, MessageHeader, decode_body, decode_epitaph
from polynix.ipc.status import ZxStatus


class _Shown:
    """Stands in for a handle: has its class, as far as isinstance goes, and its looks, and nothing else."""

    def __init__(self, handle: Any) -> None:
        self._shown = handle

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._shown)

    def __repr__(self) -> str:
        return repr(self._shown)

    def close(self) -> None:
        pass


def describe_message(protocols: Iterable[type[FidlProtocol]], data: bytes, handles: Sequence[Any] = (), *, reply: bool = False) -> str:
    """``data`` as a message of one of ``protocols``: a request or an event, or a reply. Never fails."""
    shown = [_Shown(handle) for handle in handles]
    try:
        header = MessageHeader.decode(data)
        if header.ordinal == EPITAPH_ORDINAL:
            return f"epitaph {ZxStatus(decode_epitaph(header, data, shown))}"
        for protocol in protocols:
            method = protocol.__fidl_protocol__.by_ordinal.get(header.ordinal)
            if method is not None:
                return _describe(method, header, data, shown, reply)
    except DecodeError as error:
        return f"malformed message of {len(data)} bytes, {len(handles)} handles: {error}"
    kind = "flexible" if header.flexible else "strict"
    return f"unknown {kind} method {header.ordinal:#x}#{header.txid}, {len(data)} bytes, {len(handles)} handles"


def _describe(method: Method, header: MessageHeader, data: bytes, handles: list[Any], reply: bool) -> str:
    name = f"{method.protocol}.{method.name}" + (f"#{header.txid}" if header.txid else "")
    if not reply:
        payload = decode_body(method.request, data, handles)
        return f"{name}({'' if method.request is None else method.request.describe(payload)})"
    if method.kind is not MethodKind.TWO_WAY:
        raise DecodeError(f"reply to {method.kind.value} {method.name}")
    body = decode_body(method.reply, data, handles)
    if method.has_result:
        if body.error is not None:
            assert method.error is not None
            return f"{name} -> error {method.error.describe(body.error)}"
        if body.transport_error is not None:
            return f"{name} -> unknown method"
        body = body.response
    return f"{name} -> {'()' if method.response is None else method.response.describe(body)}"
