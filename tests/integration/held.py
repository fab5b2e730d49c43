"""A container whose processes tests hold and kill from outside, through a kernel module (holding.py)."""

from __future__ import annotations

import contextlib
import json
import mmap
import socket
import time
from pathlib import Path
from typing import Any

from integration.audit import Audit

MODULE = Path(__file__).with_name("holding.py")


class Held:
    """A container whose processes can be held, and a file of counters that they share with us."""

    def __init__(self, audit: Audit, argv: list[str], *flags: str) -> None:
        self.directory = audit.directory
        path = self.directory / "counters"
        path.write_bytes(bytes(4096))
        path.chmod(0o666)
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 4096)
        self.words = memoryview(self.map).cast("Q")
        self.process = audit.popen(argv, "--bind", f"{self.directory}:/mnt", "--feature", f"{MODULE}:{self.directory}/holding", *flags)
        self.socket = self._connect()
        self.kernel = self.ask("tasks")["kernel"]

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(30)
        for _ in range(1000):
            try:
                connection.connect(str(self.directory / "holding"))
                return connection
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None
                time.sleep(0.01)
        raise TimeoutError

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        self.socket.send(json.dumps({"op": op, **fields}).encode())
        answer: dict[str, Any] = json.loads(self.socket.recv(65536))
        return answer

    def wait_for_progress(self, count: int = 1, since: list[int] | None = None) -> None:
        """Until the first ``count`` counters have moved."""
        since = since or [0] * count
        deadline = time.monotonic() + 60
        while not all(self.words[index] > since[index] for index in range(count)):
            assert time.monotonic() < deadline, list(self.words[:count])
            time.sleep(0.002)

    def cpu_ticks(self) -> int:
        """User and system time of the kernel process and all restricted processes."""
        total = 0
        for pid in [self.kernel, *children(self.kernel)]:
            with contextlib.suppress(FileNotFoundError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
        return total

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()
        self.words.release()
        self.map.close()


def children(pid: int) -> set[int]:
    return {int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()}
