"""A proxy and its two peers, for tests."""

from __future__ import annotations

import time

from polynix.ipc.objects import Channel, Counter
from polynix.runner.async_channel import Sender
from polynix.runner.proxy import ChannelProxy, NewProxy
from polynix.runner.wake_sources import WakeSource, new_wake_sources


class Proxied:
    """A proxy for the thread behind ``proxies``, the ends that its peers have, and its counter."""

    def __init__(self, proxies: Sender[NewProxy], name: str = "test") -> None:
        self.container, container_channel = Channel.create()
        self.remote, remote_channel = Channel.create()
        counter = Counter.create()
        self.counter = counter.duplicate()
        self.wake_sources = new_wake_sources()
        with self.wake_sources.lock() as sources:
            sources[counter.koid] = WakeSource.from_counter(counter.duplicate(), name)
        self.start = lambda: proxies.send((ChannelProxy(container_channel, remote_channel, counter, name), self.wake_sources))

    def wait_until_removed(self) -> None:
        """Until the proxy has ended and taken its wake source along."""
        deadline = time.monotonic() + 20
        while True:
            with self.wake_sources.lock() as sources:
                if not sources:
                    return
            assert time.monotonic() < deadline
            time.sleep(0.01)
