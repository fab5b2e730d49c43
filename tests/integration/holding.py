"""A kernel module for tests: hold and release processes on request, over a unix socket on the host.

``--feature holding.py:SOCKET``; a request is a packet of JSON, ``{"op": "hold", "program": COMM}`` (without it: all) or
``{"op": "release", "hold": N}``, and so is its answer.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from typing import Any

from polynix.kernelproc.kernel import Kernel
from polynix.kernelproc.power.hold import Hold
from polynix.kernelproc.registry import modules
from polynix.kernelproc.signals.send import send_to_group
from polynix.kernelproc.signals.siginfo import SigInfo


class Holding:
    def __init__(self, kernel: Kernel, path: str) -> None:
        self.kernel = kernel
        self.holds: list[Hold] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(path)
        self.listener.listen()
        kernel.engine.watch(self.listener.fileno(), select.EPOLLIN, self.accept)

    def accept(self, _events: int) -> None:
        connection, _ = self.listener.accept()

        def receive(_events: int) -> None:
            data = connection.recv(65536)
            if data:
                self.kernel.engine.spawn(self.answer(connection, json.loads(data)), "holding")
            else:
                self.kernel.engine.unwatch(connection.fileno(), token)
                connection.close()

        token = self.kernel.engine.watch(connection.fileno(), select.EPOLLIN, receive)

    async def answer(self, connection: socket.socket, request: dict[str, Any]) -> None:
        result = await getattr(self, request.pop("op"))(**request)
        connection.send(json.dumps(result).encode())

    async def hold(self, program: str | None = None) -> dict[str, Any]:
        groups = self.kernel.pids.thread_groups.values()
        begin = time.monotonic()
        hold = self.kernel.holds.hold(None if program is None else [group for group in groups if group.leader.comm == program.encode()])
        self.holds.append(hold)
        await hold.complete()
        return {"hold": len(self.holds) - 1, "seconds": time.monotonic() - begin, "running": self.kernel.monitor.running}

    async def release(self, hold: int) -> dict[str, Any]:
        self.holds[hold].release()
        return {}

    async def kill(self, pid: int) -> dict[str, Any]:
        send_to_group(self.kernel.pids.thread_groups[pid], SigInfo(9))
        return {}

    async def tasks(self) -> dict[str, Any]:
        groups = self.kernel.pids.thread_groups.values()
        return {
            "kernel": os.getpid(),
            "programs": {group.leader.comm.decode(): group.pid for group in groups if not group.is_kernel},
            "asleep": self.kernel.power.asleep,
            "tasks": len(self.kernel.pids.tasks),
        }


@modules.module("holding")
def initialise(kernel: Kernel, arguments: str) -> None:
    Holding(kernel, arguments)
