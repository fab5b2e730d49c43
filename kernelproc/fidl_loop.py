"""Protocols in the kernel's own loop: servers and clients whose methods run as routines of the engine, beside the guests' blocked calls.

What the rules of a protocol are, ``polynix.ipc`` knows (:class:`ServerEnd`, :class:`PendingCalls`); here a channel is waited for and read. Whatever
thread delivers a message, its handling happens in the loop. A method may await wait queues and :meth:`EngineClient.call`; requests start in the order in
which they came, and a reply waits for a client that is behind.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from polynix.ipc.bindings import FidlProtocol, Method, MethodKind, method_of
from polynix.ipc.client import PendingCalls
from polynix.ipc.fidl import FidlError, close_handles
from polynix.ipc.objects import Channel, Signals, Status, ZxStatus
from polynix.ipc.server import MAX_REQUESTS, ServerEnd
from polynix.kernelproc.engine import Engine, Routine, park

P = TypeVar("P", bound=FidlProtocol)
Payload = TypeVar("Payload")
Reply = TypeVar("Reply")

log = logging.getLogger(__name__)

_TURN = 64  # messages of one channel before the others' turn
_ROOM = Signals.CHANNEL_WRITABLE | Signals.CHANNEL_PEER_CLOSED
_WANTED = Signals.CHANNEL_READABLE | Signals.CHANNEL_PEER_CLOSED


class ChannelReader:
    """Calls ``take`` in the loop with each message of a channel, then ``end`` once with what ended it: a ZxStatus, or what ``take`` raised."""

    def __init__(self, engine: Engine, channel: Channel, take: Callable[[bytes, list[Any]], object], end: Callable[[Exception], None]) -> None:
        self.engine = engine
        self.channel = channel
        self._take = take
        self._end: Callable[[Exception], None] | None = end
        self.held = False
        self._watch()

    def _watch(self) -> None:
        try:
            self.channel.wait_async(_WANTED, lambda _status, _pending: self.engine.call_from_thread(self._read))
        except ZxStatus as error:
            self._finish(error)

    def _read(self) -> None:
        try:
            for _ in range(_TURN):
                if self.held:
                    return
                self._take(*self.channel.read())
        except ZxStatus as error:
            if error.status != Status.SHOULD_WAIT:
                self._finish(error)
                return
        except Exception as error:
            self._finish(error)
            return
        self._watch()

    def hold(self) -> None:
        """Take no more messages until :meth:`release`; they stay in the channel."""
        self.held = True

    def release(self) -> None:
        if self.held:
            self.held = False
            self.engine.call_soon(self._read)

    def _finish(self, error: Exception) -> None:
        end, self._end = self._end, None
        if end is not None:
            end(error)


class EngineServer(ServerEnd[P]):
    """Serves one client in the kernel's loop from now on. ``on_closed`` is called when the channel is closed, whoever did it."""

    def __init__(self, engine: Engine, protocol: type[P], implementation: P, channel: Channel, on_closed: Callable[[], None] | None = None) -> None:
        super().__init__(protocol, implementation, channel)
        self.engine = engine
        self._on_closed = on_closed
        self._replying = 0
        self._reader = ChannelReader(engine, channel, self._handle, self._closed)

    def _handle(self, data: bytes, handles: list[Any]) -> None:
        request = self._decoder.decode(data, handles)
        method = request.method
        if method is not None and method.kind is MethodKind.ONE_WAY:
            self.engine.spawn(self.notify(method, request.payload), f"{method.protocol}.{method.name}", done=self._notified)
            return
        self._replying += 1
        if self._replying >= MAX_REQUESTS:
            self._reader.hold()
        if method is None:
            self.engine.spawn(self.answer_unknown(request.header), "unknown method", done=self._replied)
        else:
            self.engine.spawn(self.reply(method, request), f"{method.protocol}.{method.name}", done=self._replied)

    def _notified(self, _routine: Routine, _value: Any, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            self.close_after(error)

    def _replied(self, routine: Routine, value: Any, error: BaseException | None) -> None:
        self._notified(routine, value, error)
        self._replying -= 1
        self._reader.release()

    async def write(self, data: bytes, handles: list[Any]) -> None:
        while self.channel.is_valid:
            try:
                return self.channel.write(data, handles)
            except ZxStatus as error:
                if error.status != Status.SHOULD_WAIT:
                    raise
            await self._room()
        close_handles(handles)  # it was closed here meanwhile

    async def _room(self) -> None:
        """Wait until the client has read some, or is gone, or the channel is closed here."""
        routine = self.engine.current
        told = False

        def wake() -> None:
            nonlocal told
            told = True
            self.engine.wake(routine)

        self.channel.wait_async(_ROOM, lambda _status, _pending: self.engine.call_from_thread(wake))
        while not told:
            await park(False)

    def _closed(self, error: Exception) -> None:
        self.close_after(error)
        if self._on_closed is not None:
            self._on_closed()


class EngineClient:
    """Calls over one channel from routines: ``await client.call(Manager.suspend_container, request)``. ``on_event(method, payload)`` hears of events."""

    def __init__(self, engine: Engine, protocol: type[FidlProtocol], channel: Channel, on_event: Callable[[Method, Any], None] | None = None) -> None:
        self.engine = engine
        self.protocol = protocol
        self._calls = PendingCalls(protocol, channel)
        self._on_event = on_event
        ChannelReader(engine, channel, self._receive, self._calls.end)

    def _receive(self, data: bytes, handles: list[Any]) -> None:
        event = self._calls.receive(data, handles)
        if event is not None and self._on_event is not None:
            self._on_event(*event)

    @overload
    def send(self, method: Callable[[P, Payload], Awaitable[None]], request: Payload) -> None: ...
    @overload
    def send(self, method: Callable[[P], Awaitable[None]]) -> None: ...
    def send(self, method: Any, request: Any = None) -> None:
        """A one-way method. Errors: EncodeError, ZxStatus, why the channel is closed."""
        self._calls.send(method_of(self.protocol, method), request, None)

    @overload
    async def call(self, method: Callable[[P, Payload], Awaitable[Reply]], request: Payload, *, interruptible: bool = True) -> Reply: ...
    @overload
    async def call(self, method: Callable[[P], Awaitable[Reply]], *, interruptible: bool = True) -> Reply: ...
    async def call(self, method: Any, request: Any = None, *, interruptible: bool = True) -> Any:
        """Call, and park until the reply. Errors: MethodError, UnknownMethodError, EncodeError, DecodeError, ZxStatus; Interrupted, and the reply is
        dropped.
        """
        routine = self.engine.current
        outcome: list[tuple[Any, Exception | None]] = []
        gone = False

        def finish(reply: Any, error: Exception | None) -> bool:
            outcome.append((reply, error))
            self.engine.wake(routine)
            return not gone

        self._calls.send(method_of(self.protocol, method), request, finish)
        try:
            while not outcome:
                await park(interruptible)
        finally:
            gone = True
        reply, error = outcome[0]
        if error is not None:
            raise error
        return reply

    def call_now(self, method: Any, request: Any, wait: Callable[[], None]) -> Any:
        """Call from the loop itself, where nothing else can run until the reply is there; ``wait`` blocks until something may have come.
        Errors: those of :meth:`call`, and of ``wait``.
        """
        outcome: list[tuple[Any, Exception | None]] = []

        def finish(reply: Any, error: Exception | None) -> bool:
            outcome.append((reply, error))
            return True

        self._calls.send(method_of(self.protocol, method), request, finish)
        while not outcome:
            try:
                self._receive(*self._calls.channel.read())
            except ZxStatus as error:
                if error.status == Status.SHOULD_WAIT:
                    wait()
                else:
                    self._calls.end(error)
            except FidlError as error:
                self._calls.end(error)
        reply, failure = outcome[0]
        if failure is not None:
            raise failure
        return reply

    def close(self) -> None:
        """Close the channel; calls that wait get CANCELED."""
        self._calls.end(self._calls.error or ZxStatus(Status.CANCELED, "the client is closed"))
