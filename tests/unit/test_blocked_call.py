"""A blocked call without a coroutine: tries again when woken, and ends by result, signal, kill or error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from event_world import Running, new_kernel, settle
from polynix.kernelproc.blocked_call import BlockedCall
from polynix.kernelproc.engine import Interrupted, Killed
from polynix.kernelproc.wait_queue import WaitQueue

IN, OUT = 1, 4
kernel = new_kernel()


class Scripted(BlockedCall):
    """Gives the results of a list, one an attempt; an exception among them is raised."""

    __slots__ = ("ended", "results")
    mask = IN

    def __init__(self, queue: WaitQueue, *results: Any) -> None:
        super().__init__(queue)
        self.results = list(results)
        self.ended = 0

    def attempt(self) -> int | Awaitable[int] | None:
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[no-any-return]

    def go_on(self, result: Awaitable[int]) -> Coroutine[Any, Any, int]:
        async def rest() -> int:
            return 100 + await result

        return rest()

    def end(self) -> None:
        self.ended += 1


class Owner:
    """A task with a signal that came before the wait."""

    attention = True

    def interrupt_pending(self) -> bool:
        return True


def start(*results: Any, owner: Any = None) -> tuple[WaitQueue, Scripted, Running]:
    queue = WaitQueue()
    call = Scripted(queue, *results)
    return queue, call, Running(kernel, call, owner)  # type: ignore[arg-type]


def test_waits_until_an_attempt_has_a_result() -> None:
    queue, call, running = start(None, None, 7)
    for left in (2, 1, 0):
        assert not running.done
        assert len(queue) == 1
        assert queue.notify(OUT) == 0, "not what it waits for"
        assert queue.notify(IN) == 1
        assert queue.notify(IN) == 0, "woken already"
        settle(kernel)
        assert len(call.results) == left
    assert (running.result(), call.ended, len(queue)) == (7, 1, 0)


def test_goes_behind_the_others_when_it_was_in_vain() -> None:
    queue, _, first = start(None, 1)
    second_call = Scripted(queue, 2)
    second = Running(kernel, second_call)  # type: ignore[arg-type]
    assert queue.notify(IN, 1) == 1
    settle(kernel)
    assert queue.notify(IN, 1) == 1
    settle(kernel)
    assert (first.done, second.done) == (False, True)
    queue.notify()
    assert first.result() == 1


def test_an_error_of_an_attempt_is_the_call_s() -> None:
    queue, call, running = start(ValueError("no"))
    queue.notify()
    with pytest.raises(ValueError, match="no"):
        running.result()
    assert (call.ended, len(queue)) == (1, 0)


@pytest.mark.parametrize(("end", "error"), [(kernel.engine.interrupt, Interrupted), (kernel.engine.kill, Killed)])
@pytest.mark.parametrize("woken", [False, True])
def test_ends_early(end: Callable[[Any], Any], error: type[BaseException], woken: bool) -> None:
    queue, call, running = start(3)
    if woken:
        queue.notify()
    end(running.routine)
    settle(kernel)
    assert running.done
    if woken and error is Interrupted:
        assert running.value == 3, "what had been woken tries first"
    else:
        assert isinstance(running.error, error)
    assert (call.ended, len(queue)) == (1, 0)


def test_a_signal_from_before_is_not_lost() -> None:
    queue, call, running = start(1, owner=Owner())
    with pytest.raises(Interrupted):
        running.result()
    assert (call.ended, len(queue)) == (1, 0)


def test_an_attempt_may_become_longer() -> None:
    gate = WaitQueue()

    async def longer() -> int:
        await gate.wait()
        return 5

    queue, call, running = start(longer())
    queue.notify()
    settle(kernel)
    assert not running.done
    assert (call.ended, len(queue)) == (1, 0)
    gate.notify()
    assert running.result() == 105
    assert call.ended == 1
