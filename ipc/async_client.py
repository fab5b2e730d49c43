"""The client's end of a protocol in asyncio. (Apart from ``client``: a process that has no asyncio loop saves its import, 40 ms.)"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar, cast

from polynix.ipc.bindings import FidlProtocol, Method, MethodKind
from polynix.ipc.channel import Channel
from polynix.ipc.client import Finish, PendingCalls
from polynix.ipc.fidl.errors import DecodeError
from polynix.ipc.signals import Signals
from polynix.ipc.status import Status, ZxStatus

P = TypeVar("P", bound=FidlProtocol)

log = logging.getLogger(__name__)


class Client(Generic[P]):
    """Calls over one channel, which is the client's from now on: ``await client.proxy.method(request)``.

    ``events`` is an object of the protocol whose event methods are called as events come.
    """

    def __init__(self, protocol: type[P], channel: Channel, events: P | None = None) -> None:
        self.channel = channel
        self.events = events
        self.proxy: P = make_proxy(protocol, self._call)
        self._calls = PendingCalls(protocol, channel)
        self._reader: asyncio.Task[None] | None = None

    @property
    def error(self) -> Exception | None:
        """Why the channel is closed."""
        return self._calls.error

    async def _call(self, method: Method, payload: Any = None) -> Any:
        self.start()
        if method.kind is not MethodKind.TWO_WAY:
            await self._send(method, payload, None)
            return None
        future = asyncio.get_running_loop().create_future()

        def finish(reply: Any, error: Exception | None) -> bool:
            if future.done():
                return False
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(reply)
            return True

        await self._send(method, payload, finish)
        return await future  # if canceled, its entry waits for the reply that will come

    async def _send(self, method: Method, payload: Any, finish: Finish | None) -> None:
        while True:
            try:
                return self._calls.send(method, payload, finish)
            except ZxStatus as error:
                if error.status != Status.SHOULD_WAIT:
                    raise
            await self.channel.on_signals(Signals.WRITABLE | Signals.PEER_CLOSED)

    def start(self) -> None:
        """Listen for replies and events. The first call does it by itself."""
        if self._reader is None and self.error is None:
            self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        error: Exception
        try:
            while True:
                event = self._calls.receive(*await self.channel.read_async())
                if event is not None and self.events is not None:
                    method, payload = event
                    function = getattr(self.events, method.attribute)
                    await (function() if method.request is None else function(payload))
        except (DecodeError, ZxStatus) as failure:
            error = failure
        except Exception as failure:
            log.exception("%s: an event failed", self._calls.info.name)
            error = failure
        self._calls.end(error)

    async def on_closed(self) -> Exception:
        """Wait until the channel is closed; returns why."""
        self.start()
        if self._reader is not None:
            await asyncio.wait([self._reader])
        assert self.error is not None
        return self.error

    def close(self) -> None:
        """Close the channel; calls that wait get CANCELED."""
        self._calls.end(self.error or ZxStatus(Status.CANCELED, "the client is closed"))


def make_proxy(protocol: type[P], call: Callable[..., Coroutine[Any, Any, Any]]) -> P:
    """An object of ``protocol`` whose methods do ``call(method, payload)``."""
    methods = {name: functools.partial(call, method) for name, method in protocol.__fidl_protocol__.by_attribute.items()}
    proxy = type(f"{protocol.__name__}Proxy", (protocol,), {name: staticmethod(function) for name, function in methods.items()})
    return cast(P, proxy())
