"""Buckets of HDR histograms with two significant digits, as the kernel counts latencies: an index a value, nothing else.

The layout is HdrHistogram's for a lowest value of 1 ns and two digits, so the tools turn the counts into histograms of the well-kept library, which gives
percentiles and the interchange format; the kernel itself only needs this one function and a dict.
"""

from __future__ import annotations

LOWEST_NS = 1
HIGHEST_NS = 3_600_000_000_000  # an hour
SIGNIFICANT_DIGITS = 2
_HALF_BITS = 7  # 2 * 10**2 rounds up to 256 sub-buckets, of which each further bucket uses the upper half
_MASK = (2 << _HALF_BITS) - 1


def bucket_index(nanoseconds: int) -> int:
    """The index of the bucket that counts ``nanoseconds``; what is longer than an hour counts as an hour."""
    value = min(nanoseconds, HIGHEST_NS)
    shift = (value | _MASK).bit_length() - _HALF_BITS - 1
    return ((shift + 1) << _HALF_BITS) + (value >> shift) - (1 << _HALF_BITS)


def bucket_value(index: int) -> int:
    """The lowest value that ``bucket_index`` maps to ``index``, in nanoseconds."""
    bucket = (index >> _HALF_BITS) - 1
    position = (index & ((1 << _HALF_BITS) - 1)) + (1 << _HALF_BITS)
    if bucket < 0:
        return index
    return position << bucket
