"""Suspending a container of 50 processes, and waking it by a message: the runner's own code in this process, with a real kernel and real guests."""

from __future__ import annotations

import asyncio
import mmap
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from polynix.ipc.async_client import Client
from polynix.ipc.objects import Channel, Counter, EventPair, Job
from polynix.ipc.protocols.manager import ManagerSuspendContainerRequest
from polynix.ipc.protocols.power import Power
from polynix.runner.async_channel import Receiver, Sender, unbounded
from polynix.runner.broker import Broker
from polynix.runner.member import Peer
from polynix.runner.process_hold import ProcessHold
from polynix.runner.proxy import ChannelProxy, NewProxy, run_proxy_thread
from polynix.runner.suspend import SuspendContext
from polynix.runner.wake_sources import WakeSource, new_wake_sources

PROCESSES = 50
START_SECONDS = 30.0
POLL_SECONDS = 20e-6


class NoLease:
    """Nothing else depends on the container's being awake."""

    def acquire(self) -> None: ...
    def drop(self) -> None: ...


class Guests:
    """What the guests share with us: their counters."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(4096))
        path.chmod(0o666)
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 4096)

    def word(self) -> bytes:
        """The first counter."""
        return self.map[:8]

    def wait_until_running(self, since: bytes) -> float:
        """When a guest was first seen to run (time.perf_counter)."""
        while self.map[:8] == since:
            time.sleep(POLL_SECONDS)
        return time.perf_counter()


def measure(polynix_run: Sequence[str], program: Path, repeat: int) -> tuple[float, float]:
    """Median milliseconds to suspend, and from a message's write to the first guest instruction. Errors: RuntimeError, TimeoutError."""
    with tempfile.TemporaryDirectory(prefix="polynix-bench-") as folder:
        directory = Path(folder)
        directory.chmod(0o755)
        (directory / "realm").mkdir(mode=0o700)
        shared = directory / "shared"
        shared.mkdir(mode=0o755)
        return asyncio.run(_measure(polynix_run, program, repeat, directory / "realm", shared))


async def _measure(polynix_run: Sequence[str], program: Path, repeat: int, realm: Path, shared: Path) -> tuple[float, float]:
    guests = Guests(shared / "counters")
    loop = asyncio.get_running_loop()
    roots: asyncio.Queue[Channel] = asyncio.Queue()

    def connected(_peer: Peer, root: Channel) -> None:
        loop.call_soon_threadsafe(roots.put_nowait, root)

    broker = Broker(str(realm), connected)
    flags = ["--feature", f"power_link:{realm}", "--bind", f"{shared}:/mnt"]
    before = guests.word()
    process = subprocess.Popen(
        [*polynix_run, *flags, "--", str(program), "/mnt/counters", str(PROCESSES)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        root = await asyncio.wait_for(roots.get(), START_SECONDS)
        pid, (power, _manager, job) = await root.read_async()
        assert isinstance(power, Channel) and isinstance(job, Job)
        await asyncio.to_thread(guests.wait_until_running, before)
        await asyncio.sleep(1.0)  # until all have forked
        return await _measure_container(Client(Power, power), job, int(pid), guests, repeat)
    finally:
        process.kill()
        process.wait()
        broker.close()


async def _measure_container(power: Client[Power], job: Job, kernel_pid: int, guests: Guests, repeat: int) -> tuple[float, float]:
    sources = new_wake_sources()
    watchers: list[EventPair] = []
    context = SuspendContext("bench", job, ProcessHold(power, kernel_pid), NoLease(), sources, watchers)
    remote, remote_end = Channel.create()
    container, container_end = Channel.create()
    counter = Counter.create()
    unhandled = counter.duplicate()
    new_proxies: tuple[Sender[NewProxy], Receiver[NewProxy]] = unbounded()
    sender, receiver = new_proxies
    thread = run_proxy_thread(receiver)
    with sources.lock() as known:
        known[counter.koid] = WakeSource.from_counter(counter.duplicate(), "bench")
    sender.send((ChannelProxy(container_end, remote_end, counter, "bench"), sources))
    to_sleep: list[float] = []
    to_wake: list[float] = []

    def wake() -> float:
        asleep = guests.word()
        begin = time.perf_counter()
        remote.write(b"wake up")
        return guests.wait_until_running(asleep) - begin

    try:
        for _ in range(repeat):
            begin = time.perf_counter()
            suspending = asyncio.create_task(context.suspend_container(ManagerSuspendContainerRequest(container_job=job.duplicate())))
            while not context.asleep and not suspending.done():
                await asyncio.sleep(0)
            to_sleep.append(time.perf_counter() - begin)
            await asyncio.sleep(0.02)
            to_wake.append(await asyncio.to_thread(wake))
            await suspending
            container.read()
            unhandled.write(0)
            await asyncio.sleep(0.05)
    finally:
        sender.close()
        with suppress(RuntimeError):
            await asyncio.to_thread(thread.join)
        context.close()
    return statistics.median(to_sleep) * 1e3, statistics.median(to_wake) * 1e3
