"""Counter: a signed 64-bit number whose sign is a signal."""

from __future__ import annotations

from typing import ClassVar, cast

from polynix.ipc.handle import Handle, KernelObject
from polynix.ipc.signals import Rights, Signals
from polynix.ipc.status import Status, ZxStatus

RIGHTS = Rights.BASIC | Rights.IO | Rights.SIGNAL
MINIMUM, MAXIMUM = -(1 << 63), (1 << 63) - 1


class CounterObject(KernelObject):
    """The number."""

    user_signals: ClassVar[Signals] = Signals.USER_ALL | Signals.COUNTER_SIGNALED

    def __init__(self) -> None:
        super().__init__(pending=Signals.COUNTER_NON_POSITIVE)
        self.value = 0

    def add(self, amount: int) -> None:
        with self.lock:
            self.store(self.value + amount)

    def load(self) -> int:
        return self.value

    def store(self, value: int) -> None:
        if not MINIMUM <= value <= MAXIMUM:
            raise ZxStatus(Status.OUT_OF_RANGE, f"counter of {value}")
        with self.lock:
            self.value = value
            if value > 0:
                self.update_signals(Signals.COUNTER_NON_POSITIVE, Signals.COUNTER_POSITIVE)
            else:
                self.update_signals(Signals.COUNTER_POSITIVE, Signals.COUNTER_NON_POSITIVE)


class Counter(Handle):
    """A handle to a counter."""

    @classmethod
    def create(cls) -> Counter:
        """A counter of 0."""
        return cls(CounterObject(), RIGHTS)

    def add(self, amount: int) -> None:
        """Errors: OUT_OF_RANGE, and nothing changes."""
        cast(CounterObject, self._require(Rights.IO)).add(amount)

    def read(self) -> int:
        return cast(CounterObject, self._require(Rights.READ)).load()

    def write(self, value: int) -> None:
        """Errors: OUT_OF_RANGE."""
        cast(CounterObject, self._require(Rights.WRITE)).store(value)
