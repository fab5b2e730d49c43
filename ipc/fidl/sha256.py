"""SHA-256 by the interpreter's own module, where it has one (random.py does the same): ``hashlib`` loads OpenSSL, which takes longer than all protocols."""

from __future__ import annotations

try:
    from _sha2 import sha256  # type: ignore[import-not-found]  # Python 3.12 and newer
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256

__all__ = ["sha256"]
