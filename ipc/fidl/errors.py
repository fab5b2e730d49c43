"""What encoding and decoding raise, and nothing else."""

from __future__ import annotations


class FidlError(Exception):
    """A value or a message that the FIDL wire format doesn't allow."""


class EncodeError(FidlError):
    """The caller's value doesn't fit its type."""


class DecodeError(FidlError):
    """The bytes or handles of a message break a rule of the wire format; the channel that brought them should be closed."""
