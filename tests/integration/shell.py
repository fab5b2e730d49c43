"""Shell scripts in a container."""

from __future__ import annotations

import polynix


def output(container: polynix.Container, script: str) -> str:
    """What ``script`` writes to its standard output, and then what to its standard error."""
    done = container.run(["sh", "-c", script], capture_output=True, text=True, timeout=60)
    return str(done.stdout + done.stderr)
