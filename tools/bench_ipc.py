"""What proxied channels cost beside bare zmq: rate, latency, and 500 of them that idle; over real processes.

The yardstick is the plainest forwarder that can be written with zmq in Python: ``while True: there.send(here.recv())`` between two PAIR sockets, with a
process that sends and one that receives on either side. A proxied channel does the same work and more: the peer's process, the runner's broker and proxy
thread, which raises the counter for each message before it writes it, and the container's process, which lowers it again.
``python -m polynix.tools.bench_ipc`` prints the rows alone; ``make bench`` has them too.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from polynix.ipc.objects import Signals, ZxStatus

MESSAGE = bytes(64)
MESSAGES = 100_000
PINGS = 2000
IDLE_PROXIES = 500
IDLE_SECONDS = 10.0
_START = b"start"


class Rates(NamedTuple):
    """Messages a second."""

    forwarder: float
    proxy: float


class Latencies(NamedTuple):
    """Medians of one way, microseconds."""

    hop: float
    """From a zmq socket to the next, without a forwarder."""
    channel: float
    """Through a channel between two processes, without a proxy."""
    proxy: float

    @property
    def added(self) -> float:
        """What the proxy adds to a channel."""
        return self.proxy - self.channel


# -- the processes ---------------------------------------------------------------------------------------------------------------


def _bare_socket(address: str, bind: bool) -> Any:
    import zmq

    socket = zmq.Context().socket(zmq.PAIR)
    socket.bind(address) if bind else socket.connect(address)
    return socket


def _ping(send: Callable[[], object], receive: Callable[[], object]) -> None:
    """Print how long one way takes, in seconds: half the median round trip."""
    trips = []
    for _ in range(PINGS):
        start = time.perf_counter()
        send()
        receive()
        trips.append(time.perf_counter() - start)
    print(json.dumps(statistics.median(trips) / 2), flush=True)


def bare_send(directory: str) -> None:
    socket = _bare_socket(f"ipc://{directory}/first", False)
    socket.recv()
    for _ in range(MESSAGES):
        socket.send(MESSAGE)
    socket.recv()


def bare_forward(directory: str) -> None:
    here, there = _bare_socket(f"ipc://{directory}/first", True), _bare_socket(f"ipc://{directory}/second", True)
    here.send(there.recv())
    while True:
        there.send(here.recv())


def bare_receive(directory: str) -> None:
    socket = _bare_socket(f"ipc://{directory}/second", False)
    socket.send(_START)
    socket.recv()
    start = time.perf_counter()
    for _ in range(MESSAGES - 1):
        socket.recv()
    print(json.dumps((MESSAGES - 1) / (time.perf_counter() - start)), flush=True)


def bare_echo(directory: str) -> None:
    socket = _bare_socket(f"ipc://{directory}/first", True)
    while True:
        socket.send(socket.recv())


def bare_ping(directory: str) -> None:
    socket = _bare_socket(f"ipc://{directory}/first", False)
    _ping(lambda: socket.send(MESSAGE), socket.recv)


def runner(directory: str) -> None:
    """A broker, and a proxy thread; the first process to connect is the container, the second its peer. ``proxied`` tells whether proxies lie between."""
    import queue

    from polynix.ipc.objects import Channel, Counter
    from polynix.runner.async_channel import Receiver, Sender, unbounded
    from polynix.runner.broker import Broker
    from polynix.runner.proxy import ChannelProxy, NewProxy, run_proxy_thread
    from polynix.runner.wake_sources import new_wake_sources

    count = int(os.environ["PROXIES"])
    connected: queue.Queue[tuple[Any, Channel]] = queue.Queue()
    broker = Broker(directory, lambda peer, root: connected.put((peer, root)))
    pair: tuple[Sender[NewProxy], Receiver[NewProxy]] = unbounded()
    sending, receiving = pair
    run_proxy_thread(receiving)
    print(json.dumps("listening"), flush=True)
    first, second = connected.get()[1], connected.get()[1]
    roles = {root.read_blocking()[0]: root for root in (first, second)}
    container_root, peer_root = roles[b"container"], roles[b"peer"]
    for _ in range(count):
        container, container_channel = Channel.create()
        remote, remote_channel = Channel.create()
        counter = Counter.create()
        container_root.write(b"", [container, counter.duplicate()])
        peer_root.write(b"", [remote])
        sending.send((ChannelProxy(container_channel, remote_channel, counter, "bench"), new_wake_sources()))
    if not count:
        container, remote = Channel.create()
        container_root.write(b"", [container, Counter.create()])
        peer_root.write(b"", [remote])
    peer_root.write(b"all")
    threading.Event().wait()
    broker.close()


def _channel(directory: str, role: bytes) -> list[Any]:
    from polynix.ipc.session import Session

    session = Session.connect(directory)
    session.root.write(role)
    return [session.root.read_blocking()[1], session]


def proxied_send(directory: str) -> None:
    (channel,), session = _channel(directory, b"peer")
    session.root.read_blocking()
    channel.read_blocking()
    for _ in range(MESSAGES):
        channel.write_blocking(MESSAGE)
    channel.wait(Signals.PEER_CLOSED)


def proxied_receive(directory: str) -> None:
    (channel, counter), _session = _channel(directory, b"container")
    channel.write(_START)
    channel.read_blocking()
    counter.add(-1)
    start = time.perf_counter()
    for _ in range(MESSAGES - 1):
        channel.read_blocking()
        counter.add(-1)
    print(json.dumps((MESSAGES - 1) / (time.perf_counter() - start)), flush=True)


def proxied_echo(directory: str) -> None:
    (channel, counter), _session = _channel(directory, b"container")
    with contextlib.suppress(ZxStatus):
        while True:
            data, _ = channel.read_blocking()
            counter.add(-1)
            channel.write(data)


def proxied_ping(directory: str) -> None:
    (channel,), _session = _channel(directory, b"peer")
    _ping(lambda: channel.write(MESSAGE), channel.read_blocking)


def hold(directory: str, role: bytes) -> None:
    """Have the channels, and do nothing."""
    _, session = _channel(directory, role)
    with contextlib.suppress(ZxStatus):
        while True:
            if session.root.read_blocking()[0] == b"all":
                print(json.dumps("ready"), flush=True)


ROLES: dict[str, Callable[[str], None]] = {
    "bare_send": bare_send,
    "bare_forward": bare_forward,
    "bare_receive": bare_receive,
    "bare_echo": bare_echo,
    "bare_ping": bare_ping,
    "runner": runner,
    "proxied_send": proxied_send,
    "proxied_receive": proxied_receive,
    "proxied_echo": proxied_echo,
    "proxied_ping": proxied_ping,
    "hold_container": lambda directory: hold(directory, b"container"),
    "hold_peer": lambda directory: hold(directory, b"peer"),
}


# -- the measurements ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _processes(*roles: str, proxies: int = 1) -> Iterator[list[subprocess.Popen[str]]]:
    """One process for each role, in a directory of their own. A runner is waited for before the next one starts."""
    with tempfile.TemporaryDirectory(prefix="polynix-bench-") as directory:
        processes = []
        try:
            for role in roles:
                command = [sys.executable, "-m", "polynix.tools.bench_ipc", role, directory]
                environment = {**os.environ, "PROXIES": str(proxies)}
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment)
                processes.append(process)
                if role == "runner":
                    _said(process)
            yield processes
        finally:
            for process in processes:
                process.send_signal(signal.SIGKILL)
                process.wait()


def _said(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def _rate_of_forwarder() -> float:
    with _processes("bare_forward", "bare_send", "bare_receive") as processes:
        return float(_said(processes[2]))


def _rate_of_proxy() -> float:
    with _processes("runner", "proxied_send", "proxied_receive") as processes:
        return float(_said(processes[2]))


def rates(repeat: int) -> Rates:
    """The best of each, taken in turn."""
    pairs = [(_rate_of_forwarder(), _rate_of_proxy()) for _ in range(repeat)]
    return Rates(max(pair[0] for pair in pairs), max(pair[1] for pair in pairs))


def _latency(*roles: str, proxies: int = 1) -> float:
    with _processes(*roles, proxies=proxies) as processes:
        return float(_said(processes[-1])) * 1e6


def latencies(repeat: int) -> Latencies:
    """The medians of each one's medians, taken in turn: a round in which the host has put two processes on one CPU can take half as long."""
    rounds = [
        (
            _latency("bare_echo", "bare_ping"),
            _latency("runner", "proxied_echo", "proxied_ping", proxies=0),
            _latency("runner", "proxied_echo", "proxied_ping"),
        )
        for _ in range(repeat)
    ]
    return Latencies(*map(statistics.median, zip(*rounds, strict=True)))


def idle_cpu_of_proxies() -> float:
    """Percent of one CPU that the runner uses, with 500 proxies that nobody uses."""
    with _processes("runner", "hold_container", "hold_peer", proxies=IDLE_PROXIES) as processes:
        _said(processes[2])
        time.sleep(1)
        before = _cpu_seconds(processes[0].pid)
        time.sleep(IDLE_SECONDS)
        return 100 * (_cpu_seconds(processes[0].pid) - before) / IDLE_SECONDS


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/schedstat") as file:
        main = int(file.read().split()[0])
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(file.read().split()[0])
    return max(main, total) / 1e9


def main(arguments: list[str]) -> int:
    if arguments:
        ROLES[arguments[0]](arguments[1])
        return 0
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    rate = rates(3)
    print(f"messages a second: bare forwarder {rate.forwarder:.0f}, proxy {rate.proxy:.0f}: {rate.proxy / rate.forwarder:.2f} of it (goal 0.4)")
    latency = latencies(5)
    line = f"one way: zmq hop {latency.hop:.0f} µs, channel {latency.channel:.0f} µs, proxied {latency.proxy:.0f} µs"
    print(f"{line}: the proxy adds {latency.added / latency.hop:.2f} hops (goal 2)")
    print(f"{IDLE_PROXIES} idle proxies: {idle_cpu_of_proxies():.2f} % CPU (goal 1)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
