"""Latency histograms: what the kernel counts by bucket becomes histograms of the HdrHistogram library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hdrh.histogram import HdrHistogram
from polynix.kernelproc.latency_buckets import HIGHEST_NS, LOWEST_NS, SIGNIFICANT_DIGITS, bucket_value

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def new_histogram() -> HdrHistogram:
    """An empty histogram of nanoseconds."""
    return HdrHistogram(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)


def histogram_of(buckets: Iterable[tuple[int, int]]) -> HdrHistogram:
    """``buckets`` are (index, count) as ``latency_buckets`` numbers them."""
    histogram = new_histogram()
    for index, count in buckets:
        histogram.record_value(min(bucket_value(index), HIGHEST_NS), count)
    return histogram


def merged(buckets: Iterable[Iterable[tuple[int, int]]]) -> dict[int, int]:
    """One histogram's buckets from several."""
    total: dict[int, int] = {}
    for one in buckets:
        for index, count in one:
            total[index] = total.get(index, 0) + count
    return total


def summary(buckets: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """Count, mean and percentiles in ns, and the histogram itself in HdrHistogram's interchange format."""
    histogram = histogram_of(buckets)
    count = histogram.get_total_count()
    if not count:
        return {"count": 0, "mean_ns": 0.0, "max_ns": 0, "hdr": "", **{percentile_name(each): 0 for each in PERCENTILES}}
    return {
        "count": count,
        "mean_ns": histogram.get_mean_value(),
        "max_ns": histogram.get_max_value(),
        "hdr": histogram.encode().decode(),
        **{percentile_name(each): histogram.get_value_at_percentile(each) for each in PERCENTILES},
    }


def percentile_name(percentile: float) -> str:
    """``p50_ns``, ``p99_9_ns``."""
    return f"p{percentile:g}_ns".replace(".", "_")
