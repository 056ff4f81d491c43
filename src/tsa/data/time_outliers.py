"""Find when a log begins and ends, ignoring single payments with a wrong clock."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.times import DAY_SECONDS

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
    gaps = np.diff(times)
    tail = gaps[-max(1, len(times) // TIMES_PER_OUTLIER) :]
    tail, first = tail.copy(), len(gaps) - len(tail)
    usual = float(np.quantile(gaps, 0.99, overwrite_input=True))  # no copy: a log may be long
    long = np.flatnonzero(tail > max(GAP_SECONDS, GAP_TIMES * usual))
    return float(times[first + long[0]]) if len(long) else float(times[-1])


def valid_span(time_seconds: NDArray[Any], now_seconds: float) -> tuple[float, float]:
    """The first and last times that are not clock errors. The same rule on gaps applies at the start."""
    last = valid_end(time_seconds, now_seconds)
    times = np.asarray(time_seconds, np.float64)
    return -valid_end(-times[: np.searchsorted(times, last, side="right")][::-1], math.inf), last
