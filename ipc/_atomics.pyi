"""Atomic words of shared memory. Offsets are in bytes; a wrong one is an IndexError."""

from mmap import mmap

class Words:
    """The words of ``buffer``, which stays mapped as long as this lives."""

    def __init__(self, buffer: mmap | bytearray, /) -> None: ...
    def load(self, offset: int, /) -> int:
        """32 bits, unsigned."""
    def load_long(self, offset: int, /) -> int:
        """64 bits, signed."""
    def exchange(self, offset: int, value: int, /) -> int:
        """Store 32 bits; returns what was there."""
    def exchange_long(self, offset: int, value: int, /) -> int:
        """Store 64 bits, signed; returns what was there."""
    def update(self, offset: int, clear: int, set_: int, /) -> int:
        """Clear and set bits of a 32-bit word; returns what was there."""
    def add(self, offset: int, amount: int, /) -> int:
        """Add to a signed 64-bit word; returns the sum. Errors: OverflowError, and nothing changes."""
    def claim(self, offset: int, stride: int, count: int, value: int, /) -> int:
        """Turn the first of ``count`` words that is 0 into ``value``; returns which, or -1."""
    def set_bit(self, offset: int, bit: int, on: bool, /) -> None:
        """Set or clear one bit of a 64-bit word."""
    def ring(self, mask: int, count: int, bells: int, except_: int, /) -> None:
        """For each bit of the ``count`` 64-bit words at ``mask``, except one: change the word ``bells + 4 * bit``, and wake who waits for it."""
    def wake(self, offset: int, /) -> None:
        """Change a 32-bit word, and wake who waits for it."""
    def wait(self, offset: int, expected: int, /) -> None:
        """Sleep while a 32-bit word is ``expected``, without the GIL. May return early."""
    def wait_still(self, offset: int, nanoseconds: int, /) -> None:
        """Sleep until a 32-bit word is even and has not changed for so long, without the GIL. Who makes it even calls :meth:`wake`."""
