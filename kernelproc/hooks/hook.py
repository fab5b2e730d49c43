"""One hook in force: which calls it takes, and what it does to them."""

from __future__ import annotations

import fnmatch
import inspect
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from polynix.addrspace._usercopy import Fault
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.hooks.call import SystemCall, shape_of
from polynix.kernelproc.signals.send import send_to_group
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.syscalls.types import NO_RETURN
from polynix.kernelproc.uapi.errno import EFAULT, EINTR, EIO
from polynix.kernelproc.uapi.signal import SI_USER
from polynix.kernelproc.uapi.unistd import NR_brk
from polynix.kernelproc.wait_queue import wait

if TYPE_CHECKING:
    from polynix.kernelproc.hook_rule import HookRule
    from polynix.kernelproc.kernel import Kernel

log = logging.getLogger(__name__)

MAX_EVENTS = 10_000  # kept until the owner fetches them; the oldest go first
MAX_ERRORS = 100
Outcome = Any  # int | None | NO_RETURN, or an awaitable of one
Proceed = Callable[[], Outcome]


class Hook:
    """A rule in force. ``matched`` counts the calls that its conditions named, ``hits`` those that it acted on."""

    def __init__(self, kernel: Kernel, rule: HookRule) -> None:
        self.kernel = kernel
        self.rule = rule
        self.matched = 0
        self.hits = 0
        self.errors: list[str] = []  # what the function raised and should not have
        self.events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self.dropped = 0
        self._random = random.Random(rule.seed)
        self._act: Callable[[SystemCall, Proceed], Outcome] = getattr(self, "_" + rule.action)

    def takes(self, call: SystemCall) -> bool:
        """Whether this call is one to act on; counts it."""
        rule = self.rule
        if isinstance(rule.process, int):
            if rule.process not in (call.pid, call.tid):
                return False
        elif rule.process is not None and not fnmatch.fnmatchcase(call.process, rule.process):
            return False
        if rule.path is not None and not any(fnmatch.fnmatchcase(path, rule.path) for path in call.paths):
            return False
        if rule.predicate is not None and not self._agrees(call):
            return False
        self.matched += 1
        if self.matched <= rule.after or (self.matched - rule.after) % rule.every:
            return False
        if rule.times is not None and self.hits >= rule.times:
            return False
        if rule.probability < 1 and self._random.random() >= rule.probability:
            return False
        self.hits += 1
        return True

    def _agrees(self, call: SystemCall) -> bool:
        """What the predicate says; a defective one says no, and is told of in ``errors``."""
        assert self.rule.predicate is not None
        try:
            return bool(self.rule.predicate(call))
        except Exception as error:
            self._defect(error)
            return False

    def act(self, call: SystemCall, proceed: Proceed) -> Outcome:
        """Do it; ``proceed`` carries the call on to the next hook, and at last to the kernel."""
        return self._act(call, proceed)

    def note(self, event: dict[str, Any]) -> None:
        """Keep something for the owner."""
        self.dropped += len(self.events) == MAX_EVENTS
        self.events.append(event)

    # -- actions --------------------------------------------------------------------------------------------------------------------------

    def _fail(self, call: SystemCall, proceed: Proceed) -> Outcome:
        if call.number == NR_brk:  # which never fails on Linux: it answers the old break
            call.arguments[0] = 0
            return proceed()
        return -self.rule.error

    def _delay(self, call: SystemCall, proceed: Proceed) -> Outcome:
        async def later() -> Outcome:
            await wait((), self.kernel.clock.monotonic_ns() + int(self.rule.seconds * 1e9), interruptible=False)
            return await settled(proceed())

        return later()

    def _shorten(self, call: SystemCall, proceed: Proceed) -> Outcome:
        index = shape_of(call.name).byte_count
        if index is not None:
            call.arguments[index] = min(call.arguments[index], self.rule.count)
        return proceed()

    def _kill(self, call: SystemCall, proceed: Proceed) -> Outcome:
        send_to_group(call.task.group, SigInfo(self.rule.signal, SI_USER))
        return -EINTR

    def _observe(self, call: SystemCall, proceed: Proceed) -> Outcome:
        started = self.kernel.clock.monotonic_ns()
        event = {
            "call": call.name, "pid": call.pid, "tid": call.tid, "process": call.process, "path": call.path,
            "arguments": list(call.arguments[: len(shape_of(call.name).names)]), "time_ns": started,
        }  # fmt: skip

        def ended(result: Any) -> None:
            event["result"] = result if type(result) is int else None
            event["duration_ns"] = self.kernel.clock.monotonic_ns() - started
            self.note(event)

        result = proceed()
        if not isinstance(result, Awaitable):
            ended(result)
            return result

        async def observed() -> Outcome:
            outcome = None
            try:
                outcome = await result
                return outcome
            finally:
                ended(outcome)

        return observed()

    def _call(self, call: SystemCall, proceed: Proceed) -> Outcome:
        assert self.rule.function is not None
        call.report = self._report_of(call)
        try:
            answer = self.rule.function(call)
        except Exception as error:
            return self._raised(error)
        if inspect.iscoroutine(answer):
            return self._around(call, answer, proceed)
        return proceed() if answer is None else int(answer)

    async def _around(self, call: SystemCall, coroutine: Any, proceed: Proceed) -> Outcome:
        call._proceed = proceed
        try:
            answer = await coroutine
        except Exception as error:
            return self._raised(error)
        if answer is not None:
            return answer if answer is NO_RETURN else int(answer)
        if call._proceed is None:
            return call.result
        call._proceed = None
        return await settled(proceed())

    def _report_of(self, call: SystemCall) -> Callable[..., None]:
        def report(**fields: Any) -> None:
            self.note({"call": call.name, "pid": call.pid, "tid": call.tid, "process": call.process, **fields})

        return report

    def _raised(self, error: Exception) -> int:
        """An OSError is the call's answer; anything else is a defect of the function: logged, kept for its owner, EIO for the guest."""
        if isinstance(error, Errno | OSError) and error.errno:
            return -int(error.errno)
        if isinstance(error, Fault):
            return -EFAULT
        self._defect(error)
        return -EIO

    def _defect(self, error: Exception) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(f"{type(error).__name__}: {error}")
            log.error("a hook's function failed", exc_info=error)


async def settled(outcome: Outcome) -> Outcome:
    """The value of what may still have to be awaited."""
    return await outcome if isinstance(outcome, Awaitable) else outcome
