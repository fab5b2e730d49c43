"""Type-keyed slots for state that modules keep on the kernel (Starnix's ``kernel.expando``)."""

from __future__ import annotations

from typing import TypeVar, cast

T = TypeVar("T")


class Expando:
    """Lazily made objects, one per type; a module's state needs no field on the Kernel and costs nothing while unused."""

    def __init__(self) -> None:
        self._slots: dict[type, object] = {}

    def get(self, slot_type: type[T]) -> T:
        """The object of ``slot_type``, made with no arguments at first use. A failing constructor leaves the slot empty."""
        slot = self._slots.get(slot_type)
        if slot is None:
            slot = self._slots.setdefault(slot_type, slot_type())
        return cast(T, slot)

    def peek(self, slot_type: type[T]) -> T | None:
        """The object of ``slot_type`` if it was made."""
        return cast("T | None", self._slots.get(slot_type))

    def remove(self, slot_type: type[T]) -> T | None:
        """Forget and return the object of ``slot_type``."""
        return cast("T | None", self._slots.pop(slot_type, None))
