"""The server's end of a protocol in asyncio. (Apart from ``server``: a process that has no asyncio loop saves its import, 40 ms.)"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from polynix.ipc.bindings import FidlProtocol, MethodKind
from polynix.ipc.channel import Channel
from polynix.ipc.server import MAX_REQUESTS, Request, ServerEnd

P = TypeVar("P", bound=FidlProtocol)


class Server(ServerEnd[P]):
    """Serves one client in asyncio."""

    def __init__(self, protocol: type[P], implementation: P, channel: Channel) -> None:
        super().__init__(protocol, implementation, channel)
        self._replying: set[asyncio.Task[None]] = set()

    async def write(self, data: bytes, handles: list[Any]) -> None:
        await self.channel.write_async(data, handles)

    async def serve(self) -> None:
        """Serve until either side closes. What is being worked on then is finished, though nobody will read the reply."""
        try:
            while True:
                data, handles = await self.channel.read_async()
                await self._handle(self._decoder.decode(data, handles))
                while len(self._replying) >= MAX_REQUESTS:
                    await asyncio.wait(self._replying, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            for task in self._replying:
                task.cancel()
            raise
        except Exception as error:
            self.close_after(error)
        finally:
            self.channel.close()
            if self._replying:
                await asyncio.wait(self._replying)

    async def _handle(self, request: Request) -> None:
        method = request.method
        if method is None:
            await self.answer_unknown(request.header)
        elif method.kind is MethodKind.ONE_WAY:
            await self.notify(method, request.payload)
        else:
            task = asyncio.create_task(self.reply(method, request))
            self._replying.add(task)
            task.add_done_callback(self._replying.discard)
            await asyncio.sleep(0)  # it starts before the next request
