"""When a log begins and ends, whatever single clocks say that are wrong. Knows rising times, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.times import DAY_SECONDS

STRAY, GAP_SECONDS, GAP_TIMES, MIN_TIMES = 1000, 2 * DAY_SECONDS, 20, 20
"""Of which times no notice is taken: see `sound_end`. Of fewer times than the last nothing can be said."""


def sound_end(time_seconds: NDArray[Any], now_seconds: float) -> float:
    """The last time of n rising ones that is no slip of a clock: one payment dated far ahead is not the log's end.

    Left out are times after now, unless all are, and at most one in `STRAY` (one at least) behind a gap that is longer than
    `GAP_SECONDS` and `GAP_TIMES` the usual gaps.
    """
    times = np.asarray(time_seconds, np.float64)
    past = int(np.searchsorted(times, now_seconds, side="right"))
    times = times[:past] if past else times
    if len(times) < MIN_TIMES:
        return float(times[-1])
    gaps = np.diff(times)
    tail = gaps[-max(1, len(times) // STRAY) :]
    long = np.flatnonzero(tail > max(GAP_SECONDS, GAP_TIMES * float(np.quantile(gaps, 0.99))))
    return float(times[len(gaps) - len(tail) + long[0]]) if len(long) else float(times[-1])


def sound_span(time_seconds: NDArray[Any], now_seconds: float) -> tuple[float, float]:
    """The first and the last time that are no slips; before the first, a gap counts as it does before the last."""
    last = sound_end(time_seconds, now_seconds)
    times = np.asarray(time_seconds, np.float64)
    return -sound_end(-times[times <= last][::-1], math.inf), last
