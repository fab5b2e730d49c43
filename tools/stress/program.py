"""The stress guest, compiled at first use and kept for the next."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from polynix.tools.report.page import ReportError

HERE = Path(__file__).parent
SOURCES = ("stressor.c", "board.h")
FLAGS = ("-O2", "-static", "-Wall")


def cache_directory() -> Path:
    """$XDG_CACHE_HOME/polynix, or ~/.cache/polynix."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "polynix"


def stressor(directory: Path | None = None) -> Path:
    """The program, made if there is none of these sources yet. Errors: ReportError without a C compiler or a place for it."""
    command = shlex.split(os.environ.get("CC", "cc")) or ["cc"]
    digest = hashlib.sha256(" ".join((*command, *FLAGS)).encode())
    for name in SOURCES:
        digest.update((HERE / name).read_bytes())
    directory = directory or cache_directory()
    target = directory / f"stressor-{digest.hexdigest()[:16]}"
    if target.exists():
        return target
    if shutil.which(command[0]) is None:
        raise ReportError(f"stress needs a C compiler to make its guest, and there is no {command[0]!r} (set CC, or install gcc)")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            made = Path(scratch) / "stressor"
            result = subprocess.run([*command, *FLAGS, "-o", made, HERE / "stressor.c", "-lpthread"], capture_output=True, text=True)
            if result.returncode != 0:
                raise ReportError(f"the C compiler could not make the stress guest: {(result.stderr.strip() or 'no reason given').splitlines()[-1]}")
            made.chmod(0o755)
            made.rename(target)
    except OSError as error:
        raise ReportError(f"cannot make the stress guest in {directory}: {error.strerror}") from error
    return target
