"""Several files are written; one that fails does not take the others with it."""

from __future__ import annotations

from collections.abc import Callable


def write_files(error: type[Exception], *writes: Callable[[], None]) -> None:
    """Carry out all ``writes``. Errors: ``error``, with the texts of all that was raised."""
    texts = []
    for write in writes:
        try:
            write()
        except error as raised:
            texts.append(str(raised))
    if texts:
        raise error("; ".join(texts))
