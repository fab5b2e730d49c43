"""Counter: a signed 64-bit number whose sign is a signal."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from polynix.ipc.handle import Handle
from polynix.ipc.shareable import ShareableObject
from polynix.ipc.shared_arena import Slot
from polynix.ipc.signals import Rights, Signals
from polynix.ipc.status import Status, ZxStatus

RIGHTS = Rights.BASIC | Rights.IO | Rights.SIGNAL
MINIMUM, MAXIMUM = -(1 << 63), (1 << 63) - 1
_IO = Rights.IO  # a member of an enumeration takes long to find
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
        if (value > 0) != (value - amount > 0):
            self._sign_changed()

    def store(self, value: int) -> None:
        if not MINIMUM <= value <= MAXIMUM:
            raise ZxStatus(Status.OUT_OF_RANGE, f"counter of {value}")
        with self.lock:
            if self.slot is not None:
                before = self.slot.exchange_value(value)
            else:
                before, self._value = self._value, value
            if (value > 0) != (before > 0):
                self._sign_changed()

    def _sign_changed(self) -> None:
        """Signals change with the sign; then, and only then, others are told."""
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

    if TYPE_CHECKING:

        def _require(self, rights: Rights = Rights.NONE) -> CounterObject: ...

    @classmethod
    def create(cls) -> Counter:
        """A counter of 0."""
        return cls(CounterObject(), RIGHTS)

    def add(self, amount: int) -> None:
        """Errors: OUT_OF_RANGE, and nothing changes."""
        self._require(_IO).add(amount)

    def read(self) -> int:
        return self._require(Rights.READ).load()

    def write(self, value: int) -> None:
        """Errors: OUT_OF_RANGE."""
        self._require(Rights.WRITE).store(value)
