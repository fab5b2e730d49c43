"""What a command of ``polynix`` ends with. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Callable
from typing import Any

EXIT_ERROR = 125
"""polynix's own errors."""
EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 126, 127
"""PROGRAM cannot be executed or found, as env(1) and docker say it."""
_INTERRUPTED = 130


def tell_error(message: str) -> int:
    """One line for people; returns the exit status."""
    print("polynix: " + " ".join(message.split()), file=sys.stderr)
    return EXIT_ERROR


def status_of(command: Callable[[], Any]) -> int:
    """Carry a command out, and write what it printed; returns the exit status, which is its result if that is a number."""
    try:
        result = command()
        sys.stdout.flush()  # here, where what fails is said
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        return EXIT_ERROR
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        with contextlib.suppress(OSError):  # standard error may be on the same disk
            return tell_error(f"cannot write: {error.strerror}")
        return EXIT_ERROR
    return result if isinstance(result, int) else 0
