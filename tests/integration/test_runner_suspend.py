"""The runner's part of a suspend, against real kernels: its order, who is told, what wakes, what fails, and a kernel that doesn't answer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from integration.audit import Audit, build
from integration.held import Held, children
from polynix.ipc.async_client import Client
from polynix.ipc.async_server import Server
from polynix.ipc.bindings import MethodError
from polynix.ipc.objects import Channel, Counter, Event, EventPair, Job, Signals
from polynix.ipc.protocols.manager import (
    ASLEEP_SIGNAL,
    AWAKE_SIGNAL,
    Manager,
    ManagerAddWakeSourceRequest,
    ManagerSuspendContainerRequest,
    ManagerSuspendContainerResponse,
    SuspendError,
)
from polynix.ipc.protocols.power import Power
from polynix.kernelproc.clock import TICK_NS
from polynix.runner.async_channel import unbounded
from polynix.runner.broker import Broker
from polynix.runner.process_hold import ProcessHold
from polynix.runner.proxy import ChannelProxy, run_proxy_thread
from polynix.runner.suspend import SuspendContext
from polynix.runner.trace import TraceEvent, set_listener
from polynix.runner.wake_sources import WakeSource, new_wake_sources


class Lease:
    def __init__(self, journal: list[str]) -> None:
        self.journal = journal

    def acquire(self) -> None:
        self.journal.append("acquire")

    def drop(self) -> None:
        self.journal.append("drop")


class ManagerServer(Manager):
    """As much of the runner's Manager as suspends need."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def suspend_container(self, request: ManagerSuspendContainerRequest) -> ManagerSuspendContainerResponse:
        return await self.world.context.suspend_container(request)

    async def add_wake_source(self, request: ManagerAddWakeSourceRequest) -> None:
        assert request.handle is not None and request.name is not None and request.signals is not None
        if self.world.takes_sources:
            self.world.add_source(WakeSource(request.handle, request.name, Signals(request.signals)))


class World:
    """A container, and the runner's side of its power management in this process."""

    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self.sources = new_wake_sources()
        self.watchers: list[EventPair] = []
        self.journal: list[str] = []
        self.takes_sources = True  # the kernel's own among them
        self.context: SuspendContext = None  # type: ignore[assignment]
        self.held: Held = None  # type: ignore[assignment]
        self.processes: ProcessHold = None  # type: ignore[assignment]

    def add_source(self, source: WakeSource) -> None:
        with self.sources.lock() as sources:
            sources[source.handle.koid] = source
        if self.context is not None:
            self.context.sources_changed()

    def event(self, name: str) -> Event:
        """A new wake source."""
        event = Event.create()
        self.add_source(WakeSource.from_handle(event.duplicate(), name, Signals.EVENT_SIGNALED))
        return event

    @asynccontextmanager
    async def started(self, argv: list[str], *flags: str) -> AsyncIterator[World]:
        loop = asyncio.get_running_loop()
        roots: asyncio.Queue[Channel] = asyncio.Queue()
        directory = self.audit.directory / "realm"
        directory.mkdir(mode=0o700)
        broker = Broker(str(directory), lambda _peer, root: loop.call_soon_threadsafe(roots.put_nowait, root))
        starting = asyncio.create_task(asyncio.to_thread(Held, self.audit, argv, "--feature", f"power_link:{directory}", *flags))
        root = await roots.get()
        pid, handles = await root.read_async()
        power, manager, job = handles
        assert isinstance(power, Channel) and isinstance(manager, Channel) and isinstance(job, Job)
        self.held = await starting
        client = Client(Power, power)
        self.processes = ProcessHold(client, int(pid), deadline_seconds=1.5)
        self.context = SuspendContext("test", job, self.processes, Lease(self.journal), self.sources, self.watchers)
        serving = asyncio.create_task(Server(Manager, ManagerServer(self), manager).serve())
        self.event("never")
        try:
            yield self
        finally:
            self.context.close()
            client.close()
            serving.cancel()
            self.held.close()
            broker.close()

    async def wait_for_progress(self, count: int = 1, since: list[int] | None = None) -> None:
        await asyncio.to_thread(self.held.wait_for_progress, count, since)

    def request(self, wake_locks: EventPair | None = None) -> ManagerSuspendContainerRequest:
        return ManagerSuspendContainerRequest(container_job=self.context.job.duplicate(), wake_locks=wake_locks)

    async def until_asleep(self) -> None:
        while not self.context.asleep:
            await asyncio.sleep(0.005)


# Counts as word 2, and keeps there how far CLOCK_MONOTONIC is behind CLOCK_BOOTTIME, and whether it was ever seen to go back.
LAG, WENT_BACK = 10, 11
CLOCK_READER = """
import mmap, time
file = open("/mnt/counters", "r+b")
words = memoryview(mmap.mmap(file.fileno(), 4096)).cast("Q")
last, start = 0, time.clock_gettime_ns(7) - time.monotonic_ns()
while True:
    now = time.monotonic_ns()
    words[11] += now < last
    last = now
    words[10] = max(0, time.clock_gettime_ns(7) - now - start)
    words[2] += 1
"""


def runs(scenario: Callable[[World], Awaitable[None]]) -> Callable[[Audit], None]:
    """A test that runs in an event loop."""

    def test(audit: Audit) -> None:
        asyncio.run(asyncio.wait_for(scenario(World(audit)), 60))

    test.__name__ = scenario.__name__
    return test


def counting(threads: int = 1) -> list[str]:
    return [build("progress"), "/mnt/counters", str(threads), "1"]


@runs
async def test_a_wake_source_wakes(world: World) -> None:
    async with world.started(counting(3)):
        await world.wait_for_progress(3)
        event = world.event("event")
        for _ in range(3):
            event.signal(Signals.EVENT_SIGNALED, Signals.NONE)
            suspending = asyncio.create_task(world.context.suspend_container(world.request()))
            await world.until_asleep()
            before = world.held.words[:3].tolist()
            await asyncio.sleep(0.2)
            assert world.held.words[:3].tolist() == before
            assert not suspending.done()
            event.signal(Signals.NONE, Signals.EVENT_SIGNALED)
            response = await suspending
            assert response.resume_reason == "event"
            assert response.suspend_time is not None and response.suspend_time >= 200_000_000
            await world.wait_for_progress(3, before)
        assert world.context.statistics.inspect()["suspend_successes"] == 3
        assert sum(world.context.statistics.durations) == 3


@runs
async def test_all_that_are_signalled_are_the_reason(world: World) -> None:
    async with world.started(["sleep", "100"]):
        for name in ("one", "two"):
            world.event(name).signal(Signals.NONE, Signals.EVENT_SIGNALED)
        world.event("three")
        assert (await world.context.suspend_container(world.request())).resume_reason == "one,two"


@runs
async def test_without_a_source_there_is_nothing_to_wait_for(world: World) -> None:
    async with world.started(counting()):
        world.takes_sources = False
        with world.sources.lock() as sources:
            sources.clear()
        response = await world.context.suspend_container(world.request())
        assert response.resume_reason is None
        await world.wait_for_progress(1, [world.held.words[0]])


@runs
async def test_nine_seconds_at_most(world: World) -> None:
    async with world.started(["sleep", "100"]):
        response = await world.context.suspend_container(world.request())
        assert response.resume_reason == "starnix-container-timeout"
        assert response.suspend_time is not None and response.suspend_time >= 9_000_000_000


@runs
async def test_a_wrong_job_is_a_failure(world: World) -> None:
    async with world.started(counting()):
        for job in (None, Job.create()):
            with pytest.raises(MethodError) as failure:
                await world.context.suspend_container(ManagerSuspendContainerRequest(container_job=job))
            assert failure.value.error == SuspendError.SUSPEND_FAILURE
        assert world.context.statistics.inspect()["suspend_failures"] == 2
        await world.wait_for_progress(1, [world.held.words[0]])


@runs
async def test_wake_locks_end_it_before_anybody_is_told(world: World) -> None:
    async with world.started(counting()):
        ours, theirs = EventPair.create()
        ours.signal_peer(Signals.NONE, Signals.EVENT_SIGNALED)
        watcher, watched = EventPair.create()
        world.watchers.append(watcher)
        with pytest.raises(MethodError) as failure:
            await world.context.suspend_container(world.request(theirs))
        assert failure.value.error == SuspendError.WAKE_LOCKS_EXIST
        assert not watched.pending & ASLEEP_SIGNAL
        assert world.journal == []
        await world.wait_for_progress(1, [world.held.words[0]])


@runs
async def test_watchers_see_it_sleep_and_wake(world: World) -> None:
    async with world.started(["sleep", "100"]):
        (alive, watched), (gone, closed) = EventPair.create(), EventPair.create()
        world.watchers += [gone, alive]
        closed.close()
        suspending = asyncio.create_task(world.context.suspend_container(world.request()))
        await watched.on_signals(ASLEEP_SIGNAL)
        assert not watched.pending & AWAKE_SIGNAL
        assert world.watchers == [alive]
        assert world.journal == ["drop"]
        world.event("event").signal(Signals.NONE, Signals.EVENT_SIGNALED)  # also a source that comes later counts
        assert (await suspending).resume_reason == "event"
        assert watched.pending & AWAKE_SIGNAL and not watched.pending & ASLEEP_SIGNAL
        assert world.journal == ["drop", "acquire"]


@runs
async def test_a_message_through_a_proxy_wakes(world: World) -> None:
    async with world.started(counting()):
        await world.wait_for_progress()
        container, container_end = Channel.create()
        remote, remote_end = Channel.create()
        counter = Counter.create()
        unhandled = counter.duplicate()
        sender, receiver = unbounded()
        thread = run_proxy_thread(receiver)
        world.add_source(WakeSource.from_counter(counter.duplicate(), "proxied"))
        sender.send((ChannelProxy(container_end, remote_end, counter, "proxied"), world.sources))
        suspending = asyncio.create_task(world.context.suspend_container(world.request()))
        await world.until_asleep()
        before = world.held.words[0]
        remote.write(b"wake up")
        assert (await suspending).resume_reason == "proxied"
        assert unhandled.read() == 1
        assert (await container.read_async())[0] == b"wake up"
        await world.wait_for_progress(1, [before])
        assert (await world.context.suspend_container(world.request())).resume_reason == "proxied"  # at once: it is still unhandled
        sender.close()
        await asyncio.to_thread(thread.join)


@runs
async def test_users_suspend_and_resume(world: World) -> None:
    async with world.started(counting()):
        await world.wait_for_progress()
        await world.context.resume()  # not asleep: not kept for later
        suspending = asyncio.create_task(world.context.suspend_until_woken())
        await world.until_asleep()
        before = world.held.words[0]
        await asyncio.sleep(0.1)
        assert world.held.words[0] == before
        await world.context.resume()
        assert (await suspending).resume_reason == "resume"
        await world.wait_for_progress(1, [before])


@runs
async def test_suspends_take_turns(world: World) -> None:
    async with world.started(counting()):
        order: list[int] = []

        async def suspend(number: int) -> None:
            await world.context.suspend_container(world.request())
            order.append(number)

        waiting = [asyncio.create_task(suspend(number)) for number in range(3)]
        for done in range(3):
            await world.until_asleep()
            assert len(order) == done
            await world.context.resume()
            await waiting[done]
        assert order == [0, 1, 2]


@runs
async def test_a_guest_suspends_by_way_of_the_runner(world: World) -> None:
    script = "echo mem > /sys/power/state; cat /sys/kernel/wakeup_reasons/last_resume_reason /sys/power/suspend_stats/success > /mnt/counters"
    async with world.started(["sh", "-c", script]):
        await world.until_asleep()
        world.event("door").signal(Signals.NONE, Signals.EVENT_SIGNALED)
        assert await asyncio.to_thread(world.held.process.wait, 30) == 0
        assert (world.held.directory / "counters").read_bytes().startswith(b"0 door\n1\n")
        assert world.journal == ["drop", "acquire"]


@runs
async def test_an_alarm_wakes_by_way_of_the_runner(world: World) -> None:
    from integration.test_suspend import ALARM

    async with world.started(["python3", "-c", ALARM + "alarm(0.3); suspend(); open('/mnt/counters', 'w').write(reason())"]):
        assert await asyncio.to_thread(world.held.process.wait, 30) == 0
        assert (world.held.directory / "counters").read_text() == "0 [alarm]"


@runs
async def test_an_idle_container_suspends_itself_by_way_of_the_runner(world: World) -> None:
    async with world.started(["sleep", "100"], "--suspend-after", "0.2"):
        event = world.event("event")
        for count in range(1, 4):
            await asyncio.wait_for(world.until_asleep(), 20)
            event.signal(Signals.NONE, Signals.EVENT_SIGNALED)
            while world.context.statistics.successes < count:
                await asyncio.sleep(0.005)
            event.signal(Signals.EVENT_SIGNALED, Signals.NONE)


@runs
async def test_a_kernel_that_does_not_answer(world: World) -> None:
    """The host stops all restricted processes in its stead; afterwards everything goes on as before."""
    storm = "while :; do /bin/true; done"
    async with world.started(["bash", "-c", f"{' '.join(counting(2))} & ({storm}) & ({storm}) & wait"]):
        await world.wait_for_progress(2)
        kernel = world.processes.kernel_pid
        event = world.event("event")
        os.kill(kernel, signal.SIGSTOP)
        try:
            suspending = asyncio.create_task(world.context.suspend_container(world.request()))
            await world.until_asleep()
            assert world.processes.stopped_by_host
            before = world.held.words[:2].tolist()
            await asyncio.sleep(0.3)
            assert world.held.words[:2].tolist() == before
            assert all(state(pid) in "TtZ" for pid in children(kernel))
            event.signal(Signals.NONE, Signals.EVENT_SIGNALED)
            assert (await suspending).resume_reason == "event"
        finally:
            os.kill(kernel, signal.SIGCONT)
        await world.wait_for_progress(2, before)
        event.signal(Signals.EVENT_SIGNALED, Signals.NONE)
        suspending = asyncio.create_task(world.context.suspend_container(world.request()))
        await world.until_asleep()
        assert not world.processes.stopped_by_host
        before = world.held.words[:2].tolist()
        await world.context.resume()
        await suspending
        await world.wait_for_progress(2, before)


@runs
async def test_a_kernel_that_answers_again_while_its_processes_are_stopped(world: World) -> None:
    """They stay where they are; and their clock, which the kernel could not stop, has stood still all the same when they go on."""
    async with world.started(["bash", "-c", f"{' '.join(counting(2))} & exec python3 -c '{CLOCK_READER}'"]):
        await world.wait_for_progress(3)
        kernel = world.processes.kernel_pid
        os.kill(kernel, signal.SIGSTOP)
        suspending = asyncio.create_task(world.context.suspend_until_woken())
        await world.until_asleep()
        asleep = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        await asyncio.sleep(0.5)
        os.kill(kernel, signal.SIGCONT)
        before = world.held.words[:3].tolist()
        await asyncio.sleep(2.5)  # its own patience with them ends
        assert world.held.words[:3].tolist() == before
        asleep = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - asleep
        await world.context.resume()
        await suspending
        await world.wait_for_progress(3, before)
        assert world.held.words[LAG] >= asleep - TICK_NS
        assert world.held.words[WENT_BACK] == 0


@runs
async def test_a_kernel_that_answers_when_it_is_over(world: World) -> None:
    """Guests have run by then: their clock does not go back."""
    async with world.started(["bash", "-c", f"{' '.join(counting(2))} & exec python3 -c '{CLOCK_READER}'"]):
        await world.wait_for_progress(3)
        kernel = world.processes.kernel_pid
        os.kill(kernel, signal.SIGSTOP)
        suspending = asyncio.create_task(world.context.suspend_until_woken())
        await world.until_asleep()
        await asyncio.sleep(0.5)
        before = world.held.words[:2].tolist()
        await world.context.resume()
        await suspending
        await asyncio.sleep(0.5)
        os.kill(kernel, signal.SIGCONT)
        await world.wait_for_progress(2, before)
        now = world.held.words[2]
        await world.wait_for_progress(3, [*before, now + 100])
        assert world.held.words[WENT_BACK] == 0 and world.held.words[LAG] < 400_000_000


@runs
async def test_a_container_killed_asleep_is_a_failure(world: World) -> None:
    async with world.started(counting()):
        suspending = asyncio.create_task(world.context.suspend_until_woken())
        await world.until_asleep()
        world.held.process.kill()
        world.context.close()  # as the manager does when the kernel is gone
        with pytest.raises(MethodError) as failure:
            await suspending
        assert failure.value.error == SuspendError.SUSPEND_FAILURE
        assert not world.context.asleep


@runs
async def test_a_runner_that_goes_away_leaves_nobody_asleep(world: World) -> None:
    async with world.started(counting()):
        await world.wait_for_progress()
        await world.processes.hold()
        before = world.held.words[0]
        await asyncio.sleep(0.1)
        assert world.held.words[0] == before
        world.processes.power.close()
        await world.wait_for_progress(1, [before])


@runs
async def test_the_inspector_tells(world: World) -> None:
    async with world.started(["sh", "-c", "echo lock > /sys/power/wake_lock; echo mem > /sys/power/state; echo > /mnt/done; sleep 100"]):
        while not (world.held.directory / "done").exists():
            await asyncio.sleep(0.01)
        text = (await world.processes.power.proxy.inspect()).json
        assert text is not None
        assert '"lock": {"active": true, "active_count": 1' in text
        assert '"fail_count": 1' in text and "Abort: lock" in text


def test_what_is_traced(audit: Audit) -> None:
    events: list[TraceEvent] = []

    async def scenario(world: World) -> None:
        async with world.started(["sleep", "100"]):
            world.event("event").signal(Signals.NONE, Signals.EVENT_SIGNALED)
            await world.context.suspend_container(world.request())

    set_listener(events.append)
    try:
        asyncio.run(asyncio.wait_for(scenario(World(audit)), 60))
    finally:
        set_listener(None)
    names = [event.event.partition(":")[2] for event in events if event.name == "test"]
    assert names == ["drop-application-activity-lease", "waiting-on-container-wake", "acquire-application-activity-lease", "suspending-container"]
    assert {event.category for event in events} == {"power"}


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"
