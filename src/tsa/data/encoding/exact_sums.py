"""Sums and order statistics of numbers that come in parts: exact, so the same however the numbers are divided and ordered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

MANTISSA_BITS, HALF_BITS = 53, 27
LOWEST_EXPONENT = 1126
"""Every float64 is a multiple of 2 to the power of minus this."""
AT_ONCE = 2**24
"""Numbers that are added at a time: the sums of halves stay below 2^53, so they are exact."""
MAX_PART_SAMPLE, MAX_SAMPLE = 4096, 2**16
"""Largest count of numbers of a part, and of all parts, that are limits of bins."""


def exact_sum(values: Float64) -> int | float:
    """The sum of values (n,) without any rounding, in units of 2^-1126; inf if one is not finite."""
    if not np.isfinite(values).all():
        return math.inf
    total = 0
    for begin in range(0, len(values), AT_ONCE):
        mantissa, exponent = np.frexp(values[begin : begin + AT_ONCE])
        integer = np.ldexp(mantissa, MANTISSA_BITS).astype(np.int64)
        least = int(exponent.min())
        for half, shift in ((integer >> HALF_BITS, HALF_BITS), (integer & (2**HALF_BITS - 1), 0)):
            sums = np.bincount(exponent - least, weights=half)
            for at in np.flatnonzero(sums):
                total += int(sums[at]) << (shift + int(at) + least - MANTISSA_BITS + LOWEST_EXPONENT)
    return total


def mean_of(total: int | float, count: int) -> float:
    """The mean of `count` numbers with this `exact_sum`, rounded once; inf if float64 has no such number."""
    if isinstance(total, float):
        return math.inf
    try:
        return float(Fraction(total, count << LOWEST_EXPONENT))
    except OverflowError:
        return math.inf


def sample_of(values: Float64) -> Float64:
    """Some of the values (n,), at equal distances in their order: ascending, each once."""
    return np.unique(_thinned(np.sort(values), MAX_PART_SAMPLE))


def joined_samples(one: Float64, other: Float64) -> Float64:
    """A sample of the values that two samples are of."""
    return _thinned(np.union1d(one, other), MAX_SAMPLE)


def _thinned(ordered: Float64, most: int) -> Float64:
    return ordered if len(ordered) <= most else ordered[np.linspace(0, len(ordered) - 1, most).astype(np.int64)]


@dataclass(frozen=True)
class OrderStatistics:
    """Where numbers of given places in the order of all n numbers are: in some of the bins between the limits."""

    limits: Float64
    """(m,) ascending. Bin k has the numbers from limit k - 1 on to before limit k."""
    counts: Int64
    """(m + 1,) numbers in each bin."""

    def wanted(self, places: Int64) -> Int64:
        """The bins that have the numbers at these places."""
        return np.unique(np.searchsorted(np.cumsum(self.counts), places, side="right"))

    def at(self, places: Int64, in_bins: Sequence[tuple[Float64, Int64]]) -> Float64:
        """The numbers at these places. in_bins: by part, the different values in the wanted bins and how often each occurs."""
        values, inverse = np.unique(np.concatenate([one for one, _ in in_bins]), return_inverse=True)
        times = np.zeros(len(values), np.int64)
        np.add.at(times, inverse, np.concatenate([count for _, count in in_bins]))
        bins = np.searchsorted(self.limits, values, side="right")
        wanted = np.unique(bins)
        before = np.cumsum(self.counts) - self.counts
        own = np.cumsum(self.counts[wanted]) - self.counts[wanted]  # numbers in wanted bins before each of them
        skipped = (before[wanted] - own)[np.searchsorted(wanted, bins)]
        last = np.cumsum(times) + skipped  # the place after the last one with each value
        return values[np.searchsorted(last, places, side="right")]


def counts_between(values: Float64, limits: Float64) -> Int64:
    """(m + 1,) how many of the values (n,) are in each bin between the limits (m,)."""
    return np.bincount(np.searchsorted(limits, values, side="right"), minlength=len(limits) + 1).astype(np.int64)


def values_in(values: Float64, limits: Float64, wanted: Int64) -> tuple[Float64, Int64]:
    """The different values in the wanted bins, and how often each occurs."""
    inside = np.isin(np.searchsorted(limits, values, side="right"), wanted)
    once, times = np.unique(values[inside], return_counts=True)
    return once, times.astype(np.int64)


def quantile_of(pieces: Callable[[], Iterator[Float64]], count: int, level: float) -> float:
    """A quantile of `count` values, which `pieces` gives again each time, as `numpy.quantile` has it of all of them."""
    limits = reduce(joined_samples, (sample_of(piece) for piece in pieces()))
    statistics = OrderStatistics(limits, reduce(np.add, (counts_between(piece, limits) for piece in pieces())))
    place = level * (count - 1)
    below = math.floor(place)
    places = np.unique([below, min(below + 1, count - 1)])
    wanted = statistics.wanted(places)
    low, high = statistics.at(places, [values_in(piece, limits, wanted) for piece in pieces()])[[0, -1]].tolist()
    share = place - below
    return float(low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share))
