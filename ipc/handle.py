"""Kernel objects and the handles that reach them: koids, rights, signals, waits.

A :class:`KernelObject` lives while a handle refers to it, a handle in a queued message included. A :class:`Handle` is owned: it is
closed, or moved into a message, once. All of it may be used from any thread. Source: Zircon's ``docs/concepts/kernel``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, Self

from polynix.ipc.object_lock import OBJECTS
from polynix.ipc.service import Sleeper, sleep_until
from polynix.ipc.signals import Rights, Signals, signals_of
from polynix.ipc.status import Status, ZxStatus

if TYPE_CHECKING:
    import asyncio  # 40 ms, which a process without a loop of it saves

INFINITE = (1 << 63) - 1  # a deadline, in nanoseconds of CLOCK_MONOTONIC
MAX_WAIT_ITEMS = 64


class _Koids:
    """Where the koids of this process come from: its pid, and a count that starts anywhere."""

    @classmethod
    def start(cls) -> None:
        cls.numbers = itertools.count((os.getpid() << 40) + int.from_bytes(os.urandom(4)))

    numbers: ClassVar[itertools.count[int]]


_Koids.start()
os.register_at_fork(after_in_child=_Koids.start)


def next_koid() -> int:
    """A number that no other object has, here or in another process."""
    return next(_Koids.numbers)


class Registration(Protocol):
    """What another process knows of an object of this one."""

    def released(self) -> None:
        """The last handle is gone; called with the lock held."""


class Observer:
    """Someone who waits, once, for one of ``signals``; called with OK and what is pending, or with CANCELED."""

    __slots__ = ("bits", "callback", "handle")

    def __init__(self, handle: Handle, signals: Signals, callback: Callable[[Status, Signals], None]) -> None:
        self.handle = handle
        self.bits = int(signals)
        self.callback = callback


class KernelObject:
    """The state behind handles. Subclasses keep ``lock`` while they change it."""

    lock = OBJECTS
    user_signals: ClassVar[Signals] = Signals.USER_ALL  # what a holder may set and clear
    registration: Registration | None = None

    def __init__(self, pending: Signals = Signals.NONE) -> None:
        self.koid = next_koid()
        self._pending = int(pending)  # plain numbers: flags are ten times as slow
        self._observers: list[Observer] = []
        self._handles = 0

    @property
    def pending(self) -> Signals:
        """The signals that are set now."""
        return signals_of(self.bits)

    @property
    def bits(self) -> int:
        """:attr:`pending` as a plain number: flags are ten times as slow."""
        return self._pending

    @property
    def related_koid(self) -> int:
        """The koid of the other end of a pair, 0 otherwise."""
        return 0

    @property
    def is_held(self) -> bool:
        """Whether a handle refers to it."""
        return self._handles > 0

    def add_handle(self) -> None:
        with self.lock:
            self._handles += 1

    def drop_handle(self, handle: Handle | None) -> None:
        """``handle`` is gone; the last one takes the object along."""
        with self.lock:
            if handle is not None:
                self.cancel_waits(handle)
            self._handles -= 1
            if self._handles == 0:
                if self.registration is not None:
                    self.registration.released()
                self.on_zero_handles()

    def cancel_waits(self, handle: Handle) -> None:
        """Those who wait on ``handle`` wait no longer: it is closed, or belongs to another."""
        with self.lock:
            if not self._observers:
                return
            canceled = [observer for observer in self._observers if observer.handle is handle]
            self._observers = [observer for observer in self._observers if observer.handle is not handle]
            for observer in canceled:
                self._notify(observer, Status.CANCELED)

    def on_zero_handles(self) -> None:
        """Nobody can reach the object any more."""

    def update_signals(self, clear: Signals, set_: Signals) -> None:
        with self.lock:
            before = self._pending
            self._pending = (before & ~int(clear)) | int(set_)
            if self._pending & ~before:
                self.tell_observers()

    def tell_observers(self) -> None:
        """Call those whose signals are set, with the lock held."""
        if self._observers:
            bits = self.bits
            told = [observer for observer in self._observers if observer.bits & bits]
            if told:
                self._observers = [observer for observer in self._observers if not observer.bits & bits]
                for observer in told:
                    self._notify(observer, Status.OK)

    def _notify(self, observer: Observer, status: Status) -> None:
        self.lock.after(partial(observer.callback, status, self.pending))

    def observe(self, observer: Observer) -> None:
        with self.lock:
            if observer.bits & self.bits:
                self._notify(observer, Status.OK)
            else:
                self._observers.append(observer)

    def forget(self, observer: Observer) -> None:
        with self.lock, contextlib.suppress(ValueError):
            self._observers.remove(observer)


class Transfer(NamedTuple):
    """A handle on its way: it keeps its object alive, and nobody can use it."""

    kind: type[Handle]
    object: KernelObject
    rights: Rights
    number: int = 0
    """Its number in the process's handle table, if it came through a session."""

    def arrive(self) -> Handle:
        """The handle at its new owner."""
        return self.kind._adopt(self.object, self.rights)

    def close(self) -> None:
        """It arrives nowhere."""
        self.object.drop_handle(None)


class Handle:
    """An owned reference to a kernel object. Errors are :class:`ZxStatus`; BAD_HANDLE after it was closed or moved."""

    _object: KernelObject | None = None

    def __init__(self, object_: KernelObject, rights: Rights) -> None:
        object_.add_handle()
        self._object = object_
        self.rights = rights
        self._rights = int(rights)  # a plain number: flags are ten times as slow

    @classmethod
    def _adopt(cls, object_: KernelObject, rights: Rights) -> Self:
        """A handle for a reference that is counted already."""
        handle = cls.__new__(cls)
        handle._object = object_
        handle.rights = rights
        handle._rights = int(rights)
        return handle

    def _require(self, rights: Rights = Rights.NONE) -> KernelObject:
        object_ = self._object
        if object_ is None:
            raise ZxStatus(Status.BAD_HANDLE)
        if rights._value_ & ~self._rights:
            raise ZxStatus(Status.ACCESS_DENIED, str(rights & ~self.rights))
        return object_

    # -- identity ----------------------------------------------------------------------------------------------------------------

    @property
    def koid(self) -> int:
        return self._require().koid

    @property
    def related_koid(self) -> int:
        """The koid of the peer, 0 for objects without one."""
        return self._require().related_koid

    @property
    def is_valid(self) -> bool:
        return self._object is not None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._object is None else self._object.koid}>"

    # -- ownership ---------------------------------------------------------------------------------------------------------------

    def duplicate(self, rights: Rights = Rights.SAME_RIGHTS) -> Self:
        """Another handle to the same object, with fewer rights if told so. Errors: ACCESS_DENIED, INVALID_ARGS."""
        object_ = self._require(Rights.DUPLICATE)
        return type(self)(object_, self._restrict(rights))

    def replace(self, rights: Rights) -> Self:
        """This handle with other rights; this one is gone then, on failure too. Errors: INVALID_ARGS."""
        self._require()
        try:
            rights = self._restrict(rights)
        except ZxStatus:
            self.close()
            raise
        return type(self)._adopt(self._move().object, rights)

    def _restrict(self, rights: Rights) -> Rights:
        if rights == Rights.SAME_RIGHTS:
            return self.rights
        if rights & ~self.rights:
            raise ZxStatus(Status.INVALID_ARGS, f"rights that the handle lacks: {rights & ~self.rights}")
        return rights

    def _move(self) -> Transfer:
        """Take the handle out of its owner's hands."""
        object_ = self._require()
        self._object = None
        object_.cancel_waits(self)
        return Transfer(type(self), object_, self.rights)

    def close(self) -> None:
        """Give the handle up. Closing again does nothing."""
        object_, self._object = self._object, None
        if object_ is not None:
            object_.drop_handle(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        object_, self._object = self._object, None
        if object_ is not None:
            OBJECTS.finalise(partial(object_.drop_handle, None))

    # -- signals -----------------------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> Signals:
        """The signals that are set now."""
        return self._require(Rights.WAIT).pending

    def has(self, signals: Signals) -> bool:
        """Whether one of ``signals`` is set now."""
        return bool(self._require(Rights.WAIT).bits & signals._value_)

    def signal(self, clear: Signals, set_: Signals) -> None:
        """Clear and set signals on the object itself. Errors: INVALID_ARGS for signals that only the object sets."""
        object_ = self._require(Rights.SIGNAL)
        if (clear | set_) & ~object_.user_signals:
            raise ZxStatus(Status.INVALID_ARGS, "not user signals")
        object_.update_signals(clear, set_)

    def wait_async(self, signals: Signals, callback: Callable[[Status, Signals], None]) -> Observer:
        """Have ``callback`` called once, from whatever thread, when one of ``signals`` is set or the handle is closed."""
        object_ = self._require(Rights.WAIT)
        observer = Observer(self, signals, callback)
        object_.observe(observer)
        return observer

    def cancel(self, observer: Observer) -> None:
        """Withdraw a :meth:`wait_async`; no call starts after this returns, unless one was on its way."""
        if self._object is not None:
            self._object.forget(observer)

    def wait(self, signals: Signals, deadline_ns: int = INFINITE) -> Signals:
        """Block until one of ``signals`` is set; returns all that are. ``deadline_ns`` is absolute, on CLOCK_MONOTONIC.
        Errors: TIMED_OUT, CANCELED when the handle is closed meanwhile.
        """
        object_ = self._require(Rights.WAIT)
        bits = signals._value_
        if not object_.bits & bits:
            sleeper = Sleeper()
            told: list[tuple[Status, Signals]] = []

            def notice(status: Status, pending: Signals) -> None:
                told.append((status, pending))
                sleeper.wake()

            observer = self.wait_async(signals, notice)
            try:
                if not sleep_until(sleeper, None if deadline_ns >= INFINITE else deadline_ns / 1e9):
                    raise ZxStatus(Status.TIMED_OUT)
            finally:
                if not told:
                    object_.forget(observer)
            status, pending = told[0]
            if status != Status.OK:
                raise ZxStatus(status)
            return pending
        return object_.pending

    async def on_signals(self, signals: Signals) -> Signals:
        """Wait in an asyncio loop. Errors: CANCELED."""
        import asyncio

        object_ = self._require(Rights.WAIT)
        if object_.pending & signals:
            return object_.pending
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Status, Signals]] = loop.create_future()

        def finish(status: Status, pending: Signals) -> None:
            if not future.done():
                future.set_result((status, pending))

        def notice(status: Status, pending: Signals) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish, status, pending)

        observer = self.wait_async(signals, notice)
        try:
            status, pending = await future
        finally:
            object_.forget(observer)
        if status != Status.OK:
            raise ZxStatus(status)
        return pending


def wait_many(items: Sequence[tuple[Handle, Signals]], deadline_ns: int = INFINITE) -> list[Signals]:
    """Block until one of the handles has one of its signals; returns what is pending on each.
    Errors: TIMED_OUT, CANCELED, OUT_OF_RANGE for more than 64 items.
    """
    if len(items) > MAX_WAIT_ITEMS:
        raise ZxStatus(Status.OUT_OF_RANGE, f"{len(items)} items to wait for")
    objects = [handle._require(Rights.WAIT) for handle, _ in items]
    for object_, (_, signals) in zip(objects, items, strict=True):
        if object_.bits & int(signals):
            return [other.pending for other in objects]
    sleeper = Sleeper()
    told: dict[int, tuple[Status, Signals]] = {}

    def notice(index: int, status: Status, pending: Signals) -> None:
        told[index] = status, pending
        sleeper.wake()

    observers = [handle.wait_async(signals, partial(notice, index)) for index, (handle, signals) in enumerate(items)]
    try:
        if not sleep_until(sleeper, None if deadline_ns >= INFINITE else deadline_ns / 1e9):
            raise ZxStatus(Status.TIMED_OUT)
    finally:
        for object_, observer in zip(objects, observers, strict=True):
            object_.forget(observer)
    if any(status == Status.CANCELED for status, _ in told.values()):
        raise ZxStatus(Status.CANCELED)
    return [told[index][1] if index in told else object_.pending for index, object_ in enumerate(objects)]
