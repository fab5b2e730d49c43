"""Keeping all processes of a container from running: by its kernel, or by the host when the kernel doesn't answer."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from polynix.ipc.async_client import Client
from polynix.ipc.fidl import FidlError
from polynix.ipc.objects import ZxStatus
from polynix.ipc.protocols.power import Power, PowerWakeUpRequest

log = logging.getLogger(__name__)

KERNEL_DEADLINE_SECONDS = 3.0  # the kernel itself gives guests a second to come out
_LATE_ANSWER_SECONDS = 1.0  # that a kernel which didn't answer has at the end
_GRACE_SECONDS = 0.1  # between its look at the time and what it does then
_STOP_PAUSE_SECONDS = 0.002
_STOP_DEADLINE_SECONDS = 5.0


class HoldError(Exception):
    """The processes can't be held; nothing is."""


class ProcessHold:
    """One container's. ``power`` leads to its kernel, the process ``kernel_pid``, whose children are the restricted processes."""

    def __init__(self, power: Client[Power], kernel_pid: int, deadline_seconds: float = KERNEL_DEADLINE_SECONDS) -> None:
        self.power = power
        self.kernel_pid = kernel_pid
        self.deadline_seconds = deadline_seconds
        self._stopped: dict[int, int] = {}  # by the host: pid -> pidfd
        self._stopped_since_ns: int | None = None  # all of them; of CLOCK_MONOTONIC

    @property
    def stopped_by_host(self) -> bool:
        """The kernel didn't answer the last :meth:`hold`."""
        return bool(self._stopped)

    async def hold(self) -> None:
        """No process of the container runs guest code once this returns. Errors: HoldError."""
        try:
            await asyncio.wait_for(self.power.proxy.fall_asleep(), self.deadline_seconds)
        except TimeoutError:
            log.warning("kernel process %d does not answer: its processes are stopped by the host", self.kernel_pid)
            try:
                await self._stop_all()
            except BaseException:
                await self.release()
                raise
        except (ZxStatus, FidlError) as error:
            raise HoldError(str(error)) from error

    async def release(self) -> None:
        """They go on. Not being held is no error."""
        stopped, self._stopped = self._stopped, {}
        request = PowerWakeUpRequest()
        if self._stopped_since_ns is not None:
            request.stopped_since_ns, self._stopped_since_ns = self._stopped_since_ns, None
            request.expires_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + round(_LATE_ANSWER_SECONDS * 1e9)
        waking = asyncio.ensure_future(self.power.proxy.wake_up(request))
        waking.add_done_callback(_forget)
        # A kernel that didn't answer may do so now, and sets the clock before its processes go on; or later, and then leaves the clock alone.
        await asyncio.wait([waking], timeout=_LATE_ANSWER_SECONDS + _GRACE_SECONDS if stopped else self.deadline_seconds)
        for descriptor in stopped.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
            os.close(descriptor)

    async def _stop_all(self) -> None:
        """SIGSTOP every restricted process, pass after pass until one finds no new one, and then wait until they stand. Errors: HoldError."""
        while self._stop_new():
            pass
        deadline = asyncio.get_running_loop().time() + _STOP_DEADLINE_SECONDS
        while running := [pid for pid in self._stopped if _is_running(pid)]:
            if asyncio.get_running_loop().time() > deadline:
                raise HoldError(f"processes {running} do not stop")
            await asyncio.sleep(_STOP_PAUSE_SECONDS)
        self._stopped_since_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    def _stop_new(self) -> bool:
        found = False
        for pid in _children(self.kernel_pid):
            if pid in self._stopped:
                continue
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue  # it was dying
            if _status(pid)[1] != str(self.kernel_pid):  # another process of that number by now
                os.close(descriptor)
                continue
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
            self._stopped[pid] = descriptor
            found = True
        return found


def _forget(waking: asyncio.Future[None]) -> None:
    if not waking.cancelled() and waking.exception() is not None:
        log.debug("the kernel was not woken: %s", waking.exception())


def _children(pid: int) -> set[int]:
    """Whichever of its threads made them; from all of /proc, since not every host lists a process's children."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit() and _status(int(name))[1] == str(pid)}


def _status(pid: int) -> tuple[str, str]:
    """State letter and parent of a process, as proc(5) has them; ("X", "") when it is gone."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:2]
    except (OSError, ValueError, IndexError):
        return "X", ""
    return state, parent


def _is_running(pid: int) -> bool:
    return _status(pid)[0] not in "TtZX"
