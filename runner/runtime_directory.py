"""Where runners and their clients meet: the user's runtime directory, and the service in it."""

from __future__ import annotations

import os


def parent_directory() -> str:
    """$XDG_RUNTIME_DIR when it is usable, else the temporary directory."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK | os.X_OK):
        return runtime
    import tempfile  # brings shutil and its compressions along, which few clients need

    return tempfile.gettempdir()


def service_path() -> str:
    """Where a user's runner serves: $XDG_RUNTIME_DIR/polynix, else a directory of his own in the temporary directory."""
    parent = parent_directory()
    return os.path.join(parent, "polynix") if parent == os.environ.get("XDG_RUNTIME_DIR") else os.path.join(parent, f"polynix-{os.getuid()}")
