"""Aggregates over windows of an axis, from whole numbers alone, so that no order of summing and no batch can change a bit.

Sums are differences of running sums in 64-bit integers. Only the last steps (a division, a square root) use floats, and
they are computed element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.aggregates.axis import EventAxis

Array = NDArray[Any]

VALUE_BITS = 31
"""Quantised values are below 2^31, so their squares are below 2^62."""

_HALF = VALUE_BITS
_LOW_HALF = (1 << _HALF) - 1
_PLACE_BITS = 30
_LOW_PLACE = (1 << _PLACE_BITS) - 1
_LOWEST = -(1 << 62)

FEW = 16
"""Up to this many asked payments, a loop over them is faster than a pass over all places."""


@dataclass(frozen=True, eq=False)
class WindowSums:
    """Statistics of the earlier values in each window, in units of the quantised values. Arrays (Q, W, F)."""

    n: Array
    """How many have a value."""
    total: Array
    """int64."""
    mean: Array
    std: Array
    highest: Array
    """NaN, as the mean and the deviation, where there is no value."""


def quantise(values: Array, scale: Array) -> tuple[Array, Array]:
    """Values (m, F) as whole numbers below 2^31, and which of them are present.

    Args:
        values: Numbers, NaN where missing.
        scale: (F,) units of a quantised value per unit of the value.
    """
    present = ~np.isnan(values)
    limit = float(_LOW_HALF)
    units = np.clip(np.where(present, values, 0.0) * scale, -limit, limit)
    return np.rint(units).astype(np.int64), present


def window_sums(axis: EventAxis, starts: Array, values: Array, present: Array) -> WindowSums:
    """Statistics of the earlier values in each window.

    Args:
        starts: (Q, W) the first place of each window.
        values: (m, F) quantised values.
        present: (m, F)
    """
    m, f = values.shape
    value = np.where(present, values, 0)
    square = value * value
    running = np.zeros((m + 1, 4, f), np.int64)
    steps = running[1:]
    steps[:, 0], steps[:, 1] = present, value
    steps[:, 2], steps[:, 3] = square >> _HALF, square & _LOW_HALF
    np.cumsum(steps, axis=0, out=steps)
    sums = running[axis.at][:, None] - running[starts]
    n, total = sums[:, :, 0], sums[:, :, 1]
    squares = sums[:, :, 2] * float(1 << _HALF) + sums[:, :, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / n
        std = np.sqrt(np.maximum(squares - total * mean, 0.0) / n)
    highest = window_maxima(np.where(present, values, _LOWEST), starts, axis.at)
    return WindowSums(n, total, mean, std, np.where(n > 0, highest, np.nan))


def window_maxima(values: Array, starts: Array, ends: Array) -> Array:
    """(Q, W, F) int64: the greatest of `values` (m, F) over the places [start, end), for starts (Q, W) and ends (Q,).

    A sparse table of one level at a time: two runs of 2^k places cover any range. Very low where a range is empty.
    """
    best = np.full((*starts.shape, values.shape[1]), _LOWEST)
    if len(ends) <= FEW:
        _few_maxima(values, starts, ends, best)
        return best
    level = np.frexp(ends[:, None] - starts)[1] - 1
    runs = values
    for k in range(int(level.max(initial=-1)) + 1):
        row, window = np.nonzero(level == k)
        if len(row):
            best[row, window] = np.maximum(runs[starts[row, window]], runs[ends[row] - 2**k])
        if len(runs) > 2**k:
            runs = np.maximum(runs[: -(2**k)], runs[2**k :])
    return best


def _few_maxima(values: Array, starts: Array, ends: Array, best: Array) -> None:
    """The same for a few ends, into `best`: running maxima backwards from each end."""
    for row, end in enumerate(ends.tolist()):
        backwards = np.maximum.accumulate(values[int(starts[row].min()) : end][::-1])
        some = starts[row] < end
        best[row, some] = backwards[end - 1 - starts[row, some]]


@dataclass(frozen=True, eq=False)
class Repeats:
    """How often the current value occurred before, per column of codes. Arrays (Q, S)."""

    count: Array
    """Earlier visible events with the current value."""
    last: Array
    """Place of the last of them; -1 for none."""
    distinct: Array
    """Different values of the earlier visible events."""


def repeats(axis: EventAxis, codes: Array) -> Repeats:
    """How often, and where, the current codes occurred among the earlier visible events.

    Args:
        codes: (m, S) whole numbers from 0 to 2^32 - 1.
    """
    m, s = codes.shape
    if not s or not m:
        none = np.zeros((axis.n_asked, s), np.int64)
        return Repeats(none, none - 1, none)
    # one sort of all columns brings equal codes together, in the order of their places
    joined = (codes.T << _PLACE_BITS) | np.arange(m)
    joined.sort(axis=1)
    place = joined & _LOW_PLACE
    code = joined >> _PLACE_BITS
    is_first = np.ones((s, m), np.bool_)
    np.not_equal(code[:, 1:], code[:, :-1], out=is_first[:, 1:])
    before = np.full((s, m), -1)
    before[:, 1:] = place[:, :-1]
    before[is_first] = -1
    cell = (place + np.arange(0, s * m, m)[:, None]).ravel()
    previous = np.empty(s * m, np.int64)
    previous[cell] = before.ravel()
    rank = np.empty(s * m, np.int64)
    rank[cell] = np.arange(s * m)
    previous, rank = previous.reshape(s, m), rank.reshape(s, m)
    group = np.cumsum(is_first.ravel()) - 1
    flat = (group << _PLACE_BITS) | place.ravel()
    mine = rank[:, axis.at]
    count = mine - np.searchsorted(flat, (group[mine] << _PLACE_BITS) | axis.low)
    last = np.where(count > 0, previous[:, axis.at], -1)
    return Repeats(count.T, last.T, _distinct(axis, previous).T)


def _distinct(axis: EventAxis, previous: Array) -> Array:
    """(S, Q) different values among the earlier visible events: those without an equal one before them in sight.

    previous: (S, m) the place before each with the same value; -1 for none.
    """
    s, q = len(previous), axis.n_asked
    if q <= FEW:
        ranges = zip(axis.low.tolist(), axis.at.tolist(), strict=True)
        counts: Array = np.stack([(previous[:, low:at] < low).sum(axis=1) for low, at in ranges], axis=1)
        return counts
    column, place = np.nonzero(previous >= 0)
    since, until = axis.first_after[place], axis.last_before[previous[column, place]]
    both = since < until
    repeated = _change(since[both] + column[both] * (q + 1), s * (q + 1))
    repeated -= _change(until[both] + column[both] * (q + 1), s * (q + 1))
    distinct: Array = (axis.at - axis.low) - np.cumsum(repeated.reshape(s, q + 1), axis=1)[:, :q]
    return distinct


def _change(moments: Array, n: int) -> Array:
    change: Array = np.bincount(moments, minlength=n)
    return change


def visible_counts(since: Array, until: Array, n: int) -> Array:
    """(n, W) how many of e things are visible at each of n moments; one is visible at the moments [since, until).

    Args:
        since: (e,)
        until: (e, W) at least `since`.
        n: Number of moments.
    """
    w = until.shape[1]
    gone = _change((until + np.arange(0, w * (n + 1), n + 1)).ravel(), w * (n + 1)).reshape(w, n + 1)
    counts: Array = np.cumsum(_change(since, n + 1) - gone, axis=1)[:, :n].T
    return counts


def visible_sums(since: Array, until: Array, values: Array, n: int) -> Array:
    """(n, F) int64 sums of the values (e, F) of the visible things."""
    change = np.zeros((n + 1, values.shape[1]), np.int64)
    if not len(values):
        return change[:n]
    np.add.at(change, since, values)
    np.subtract.at(change, until, values)
    return np.cumsum(change, axis=0)[:n]


def last_visible(axis: EventAxis, places: Array, since: Array) -> Array:
    """(Q,) the latest visible of e places, each visible from an asked payment on until it is too old; -1 for none."""
    if not len(places):
        return np.full(axis.n_asked, -1)
    seen = np.full(axis.n_asked + 1, -1)
    np.maximum.at(seen, since, places)
    latest = np.maximum.accumulate(seen[:-1])
    return np.where(latest >= axis.low, latest, -1)


def first_visible(axis: EventAxis, places: Array, since: Array) -> Array:
    """(Q,) the earliest visible of e rising places, each visible from an asked payment on; -1 for none."""
    first = np.full(axis.n_asked, -1)
    if not len(places):
        return first
    ever = since < axis.last_before[places]
    places, since = places[ever], since[ever]
    candidate = np.searchsorted(places, axis.low)
    open_ = np.arange(axis.n_asked)
    # a place may become visible after a later one: move on past those that are not visible yet
    while True:
        candidate = candidate[: len(open_)]
        inside = candidate < len(places)
        open_, candidate = open_[inside], candidate[inside]
        inside = places[candidate] < axis.at[open_]
        open_, candidate = open_[inside], candidate[inside]
        if not len(open_):
            return first
        visible = since[candidate] <= open_
        first[open_[visible]] = places[candidate[visible]]
        open_, candidate = open_[~visible], candidate[~visible] + 1
