"""Counter: a signed 64-bit number whose sign is a signal."""

from __future__ import annotations

from typing import ClassVar, cast

from polynix.ipc.handle import Handle
from polynix.ipc.shareable import ShareableObject
from polynix.ipc.shared_arena import Slot
from polynix.ipc.signals import Rights, Signals
from polynix.ipc.status import Status, ZxStatus

RIGHTS = Rights.BASIC | Rights.IO | Rights.SIGNAL
MINIMUM, MAXIMUM = -(1 << 63), (1 << 63) - 1
_POSITIVE, _NON_POSITIVE = int(Signals.COUNTER_POSITIVE), int(Signals.COUNTER_NON_POSITIVE)


class CounterObject(ShareableObject):
    """The number."""

    user_signals: ClassVar[Signals] = Signals.USER_ALL | Signals.COUNTER_SIGNALED

    def __init__(self) -> None:
        super().__init__()
        self._value = 0

    @property
    def bits(self) -> int:
        slot = self.slot
        signals = self._pending if slot is None else slot.signals(0)
        return signals | (_POSITIVE if self.load() > 0 else _NON_POSITIVE)

    def load(self) -> int:
        return self._value if self.slot is None else self.slot.load_value()

    def add(self, amount: int) -> None:
        slot = self.slot
        if slot is None:
            with self.lock:
                self.store(self.load() + amount)
            return
        try:
            value = slot.add_value(amount)
        except OverflowError:
            raise ZxStatus(Status.OUT_OF_RANGE, f"counter of {self.load() + amount}") from None
        self._changed(value - amount, value)

    def store(self, value: int) -> None:
        if not MINIMUM <= value <= MAXIMUM:
            raise ZxStatus(Status.OUT_OF_RANGE, f"counter of {value}")
        with self.lock:
            if self.slot is not None:
                before = self.slot.exchange_value(value)
            else:
                before, self._value = self._value, value
            self._changed(before, value)

    def _changed(self, before: int, after: int) -> None:
        """Signals change with the sign; then, and only then, others are told."""
        if (before > 0) != (after > 0):
            if self.slot is not None:
                self.slot.ring()
            if self._observers:
                with self.lock:
                    self.tell_observers()

    def settle(self, slot: Slot) -> None:
        slot.exchange_value(self._value)
        super().settle(slot)


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
