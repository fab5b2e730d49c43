"""The other process of test_zmq_link: ``link_peer.py ACTION ADDRESS [PUBLIC SECRET PEER]``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

from deadline import soon
from polynix.ipc.async_server import Server
from polynix.ipc.objects import ZxStatus
from polynix.ipc.protocols.manager import Manager, ManagerSuspendContainerRequest, ManagerSuspendContainerResponse
from polynix.ipc.zmq_link import CurveKeys, connect


class SleepyManager(Manager):
    async def suspend_container(self, request: ManagerSuspendContainerRequest) -> ManagerSuspendContainerResponse:
        return ManagerSuspendContainerResponse(suspend_time=1, resume_reason="link")


def main() -> None:
    action, address, *keys = sys.argv[1:]
    channel = connect(address, CurveKeys(*[key.encode() for key in keys]) if keys else None)
    if action == "echo":
        try:
            while True:
                channel.write(*channel.read_blocking(soon()))
        except ZxStatus:
            return
    elif action == "burst_and_die":
        for number in range(1000):
            channel.write(number.to_bytes(4, "little"))
        channel.read_blocking()  # the reader has begun: all that was written before has gone
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "say_and_exit":
        for number in range(1000):
            channel.write_blocking(number.to_bytes(4, "little") * 1000)
    elif action == "flood":
        for number in range(20_000):
            channel.write_blocking(number.to_bytes(4, "little"))
        channel.read_blocking(soon(60))
    elif action == "stream":
        number = 0
        while True:
            channel.write_blocking(number.to_bytes(4, "little") + bytes(number % 5000))
            number += 1
            if number % 100 == 0:
                time.sleep(0.001)
    elif action == "manager":
        asyncio.run(Server(Manager, SleepyManager(), channel).serve())


main()
