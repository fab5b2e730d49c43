"""Where a trace goes whose reader asks for its end only."""

from __future__ import annotations

import io
from collections import deque


class LastLines(io.TextIOBase):
    """Keeps the last lines that are written; in ``kernel.expando``."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=1)
        self._beginning = ""

    def keep(self, count: int) -> LastLines:
        """Keep ``count`` lines."""
        self.lines = deque(self.lines, maxlen=count)
        return self

    def write(self, text: str) -> int:
        *whole, rest = text.split("\n")
        for line in whole:
            self.lines.append(self._beginning + line)
            self._beginning = ""
        self._beginning += rest
        return len(text)

    def last(self) -> list[str]:
        """The lines, oldest first, the unfinished one included."""
        return [*self.lines, self._beginning] if self._beginning else list(self.lines)
