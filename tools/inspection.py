"""Asks a running kernel what its shared region has no room for: the client of ``kernelproc.inspector``."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
from typing import Any

from polynix.kernelproc.region_layout import INSPECTOR_PREFIX
from polynix.tools.selection import NoKernel

PATIENCE_SECONDS = 10.0  # a kernel that answers nothing for so long is given up
UCRED = struct.Struct("3i")


class InspectionError(Exception):
    """The kernel refused the question; the text is one line."""


class Inspection:
    """A connection to one kernel's inspector; a context manager. Errors: NoKernel when there is no such kernel, or it does not answer."""

    def __init__(self, kernel_pid: int) -> None:
        self.kernel_pid = kernel_pid
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(f"\0{INSPECTOR_PREFIX}{kernel_pid}")
            self._socket.settimeout(PATIENCE_SECONDS)
            pid, uid, _ = UCRED.unpack(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
        except OSError as error:
            self._socket.close()
            raise NoKernel(f"no polynix kernel with pid {kernel_pid}") from error
        if pid not in (kernel_pid, 0) or (os.geteuid() not in (0, uid)):  # 0: a process of another pid namespace
            self._socket.close()
            raise NoKernel(f"process {pid} poses as kernel {kernel_pid}")

    def request(self, name: str, **arguments: Any) -> Any:
        """The answer to one question. Errors: InspectionError, NoKernel when the kernel is gone."""
        try:
            self._socket.send(json.dumps({"request": name, **arguments}).encode())
            data, descriptors, _, _ = socket.recv_fds(self._socket, 64, 1)
        except OSError as error:
            raise NoKernel(f"kernel {self.kernel_pid} does not answer") from error
        if not data or not descriptors:
            raise NoKernel(f"kernel {self.kernel_pid} ended")
        with os.fdopen(descriptors[0], "rb") as file:
            file.seek(0)
            answer = json.loads(file.read())
        if "error" in answer:
            raise InspectionError(answer["error"])
        return answer["result"]

    def wait_for_end(self, seconds: float | None) -> None:
        """Return when the kernel ends, or the time is over; None: whenever."""
        watch = select.poll()
        watch.register(self._socket, 0)  # hang-ups only
        watch.poll(None if seconds is None else seconds * 1000)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Inspection:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def ask(kernel_pid: int, name: str, **arguments: Any) -> Any:
    """One question to one kernel. Errors: InspectionError, NoKernel."""
    with Inspection(kernel_pid) as inspection:
        return inspection.request(name, **arguments)
