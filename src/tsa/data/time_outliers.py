"""Find when a log begins and ends, ignoring single payments with a wrong clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.encoding.exact_sums import quantile_of
from tsa.times import DAY_SECONDS

PIECE_TIMES = 2**21
"""Gaps that are in memory together."""
TIMES_PER_OUTLIER, GAP_SECONDS, GAP_TIMES, MIN_TIMES = 1000, 2 * DAY_SECONDS, 20, 20
"""Which times are ignored: see `valid_end`. With fewer times than the last value, none are."""


def valid_end(time_seconds: NDArray[Any], now_seconds: float) -> float:
    """The last of n ascending times that is not a clock error: one payment dated far ahead does not end the log.

    Times after now are ignored, unless all are. So are the last times (up to one in
    `TIMES_PER_OUTLIER`, one in a short log) after a gap that is longer than `GAP_SECONDS` and `GAP_TIMES` the usual gaps.
    """
    times = np.asarray(time_seconds, np.float64)
    past = int(np.searchsorted(times, now_seconds, side="right"))
    times = times[:past] if past else times
    if len(times) < MIN_TIMES:
        return float(times[-1])
    count = max(1, len(times) // TIMES_PER_OUTLIER)
    long = _long_gaps(np.diff(times[-count - 1 :]), times)
    return float(times[len(times) - 1 - count + long[0]]) if len(long) else float(times[-1])


def valid_span(time_seconds: NDArray[Any], now_seconds: float) -> tuple[float, float]:
    """The first and last times that are not clock errors. The same rule on gaps applies at the start."""
    last = valid_end(time_seconds, now_seconds)
    times = np.asarray(time_seconds, np.float64)
    times = times[: np.searchsorted(times, last, side="right")]
    if len(times) < MIN_TIMES:
        return float(times[0]), last
    long = _long_gaps(np.diff(times[: max(1, len(times) // TIMES_PER_OUTLIER) + 1]), times)
    return float(times[long[-1] + 1] if len(long) else times[0]), last


def _long_gaps(few: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which of a few gaps are so long that times before or after them are ignored.

    The usual gaps are only read if one may be, in pieces: a log may be long.
    """
    if few.max() <= GAP_SECONDS:
        return np.empty(0, np.int64)

    def gaps() -> Iterator[NDArray[np.float64]]:
        for first in range(0, len(times) - 1, PIECE_TIMES):
            yield np.diff(times[first : first + PIECE_TIMES + 1])

    return np.flatnonzero(few > max(GAP_SECONDS, GAP_TIMES * quantile_of(gaps, len(times) - 1, 0.99)))
