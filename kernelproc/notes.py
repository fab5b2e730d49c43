"""Keeps the shared region's notes up to date: which stubs guests met, and what modules count. Written at most ten times a second, and at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from polynix.kernelproc import track_stub

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel

INTERVAL_NS = 100_000_000


class Notes:
    """The kernel's publisher; in ``kernel.expando``. ``sections`` maps a name to what makes its JSON value."""

    def __init__(self) -> None:
        self.kernel: Kernel | None = None
        self.sections: dict[str, Callable[[], Any]] = {"stubs": track_stub.summary}
        self._due = False

    def attach(self, kernel: Kernel) -> None:
        """Start publishing for ``kernel``."""
        self.kernel = kernel
        track_stub.listeners.append(self.changed)

    def changed(self) -> None:
        """Something to publish; costs nothing when a publication is due already."""
        if self._due or self.kernel is None:
            return
        self._due = True
        self.kernel.engine.call_later(INTERVAL_NS, self.publish)

    def publish(self) -> None:
        """Write the notes now."""
        self._due = False
        if self.kernel is not None and self.kernel.region is not None:
            self.kernel.region.set_notes({name: make() for name, make in self.sections.items()})
