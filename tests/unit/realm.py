"""A broker and its processes, for tests."""

from __future__ import annotations

import queue
import subprocess
import sys
from pathlib import Path

from polynix.ipc.channel import Channel
from polynix.runner.broker import Broker
from polynix.runner.member import Peer

PEER = Path(__file__).with_name("session_peer.py")


class Realm:
    """A broker in a directory, and :meth:`start` for processes that connect with it."""

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o700)
        self.directory = str(directory)
        self.connected: queue.Queue[tuple[Peer, Channel]] = queue.Queue()
        self.broker = Broker(self.directory, lambda peer, root: self.connected.put((peer, root)))
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, action: str) -> tuple[subprocess.Popen[bytes], Channel]:
        """A process, and the broker's end of its first channel."""
        process = subprocess.Popen([sys.executable, str(PEER), action, self.directory], stdout=subprocess.PIPE)
        self.processes.append(process)
        peer, root = self.connected.get(timeout=20)
        assert peer.pid == process.pid
        return process, root

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self.broker.close()
