"""The columns of an `AggregateSpec` for the payments of an axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.aggregates import kernels
from tsa.data.aggregates.axis import EventAxis
from tsa.data.aggregates.spec import COMPARED, DETAILED, AggregateSpec
from tsa.data.history import EventArrays
from tsa.data.raw_values import MISSING_TOKEN

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class AxisEvents:
    """What aggregates read of the events at m places."""

    codes: Array
    """(m, S) int64: categorical features, then keys."""
    values: Array
    """(m, F) int64, quantised."""
    present: Array
    """(m, F)"""
    label: Array
    """(m,)"""
    known_at_seconds: Array
    """(m,)"""


def read_events(spec: AggregateSpec, events: EventArrays, axis: EventAxis) -> AxisEvents:
    """The values of the events at the places of an axis."""
    texts, numbers = (events.tokens, events.raw_numerical) if spec.raw else (events.categorical, events.numerical)
    if texts is None or numbers is None:
        raise ValueError("events must have raw values for these aggregates (got encoded values only)")
    n_texts, n_numbers = len(spec.categorical) + len(spec.keys), len(spec.numerical)
    codes = np.take(texts, axis.event, axis=0)[:, :n_texts].astype(np.int64)
    if axis.partner is not None and spec.has_partners:
        partner = texts[axis.event, np.maximum(axis.partner, 0)]
        partner = np.where(axis.partner >= 0, partner, MISSING_TOKEN).astype(np.int64)
        codes = np.concatenate([codes, partner[:, None]], axis=1)
    values = np.take(numbers, axis.event, axis=0)[:, :n_numbers].astype(np.float64)
    scaled, present = kernels.quantise(values, np.array(spec.scale, np.float64))
    return AxisEvents(
        codes=codes,
        values=scaled,
        present=present,
        label=np.take(events.label, axis.event),
        known_at_seconds=np.take(events.known_at_seconds, axis.event),
    )


def all_columns(spec: AggregateSpec, axis: EventAxis, events: AxisEvents) -> Array:
    """(Q, K') float64 aggregates in the order of `AggregateSpec.of_history`, but with those of every key."""
    starts = axis.window_starts(np.array(spec.window_seconds, np.float64))
    starts = np.concatenate([starts, axis.low[:, None]], axis=1)
    parts = [axis.at[:, None] - starts, _gaps(axis)]
    if spec.numerical:
        parts += _numbers(spec, axis, starts, events)
    if events.codes.shape[1]:
        parts += _same(spec, axis, events.codes)
    if spec.outcomes:
        parts += _outcomes(spec, axis, events)
    if axis.role_bits is not None:
        for role in range(spec.n_roles):
            parts += _of_role(spec, axis, starts, events, (axis.role_bits >> role & 1).astype(np.bool_))
    return np.concatenate(parts, axis=1)


def _of_role(spec: AggregateSpec, axis: EventAxis, starts: Array, events: AxisEvents, has: Array) -> list[Array]:
    """The aggregates of the events in one role. has: (m,) which events have it."""
    running = np.concatenate([[0], np.cumsum(has)])
    parts = [running[axis.at][:, None] - running[starts], _gaps_between(axis, np.flatnonzero(has))]
    if spec.numerical:
        parts.append(_statistics(spec, axis, starts[:, -1:], events, slice(0, DETAILED), has))
    return parts + (_outcomes(spec, axis, events, has) if spec.outcomes else [])


def _gaps_between(axis: EventAxis, places: Array) -> Array:
    """As `_gaps`, of the events at some places (e,), ascending."""
    if not len(places):
        return np.full((axis.n_asked, 4), np.nan)
    end, begin = np.searchsorted(places, axis.at), np.searchsorted(places, axis.low)
    seen, now, time = end - begin, axis.now_seconds, axis.time_seconds[places]
    last, before = time[np.maximum(end - 1, 0)], time[np.maximum(end - 2, 0)]
    first = time[np.minimum(begin, len(places) - 1)]
    mean = (last - first) / np.maximum(seen - 1, 1)
    gaps = np.stack([now - last, last - before, mean, now - first], axis=1)
    gaps[seen < 2, 1:3] = np.nan
    gaps[seen < 1] = np.nan
    return gaps


def _gaps(axis: EventAxis) -> Array:
    """(Q, 4) seconds since the last event, from the one before to that, between events on average, since the first."""
    seen, now = axis.at - axis.low, axis.now_seconds
    last = axis.time_seconds[np.maximum(axis.at - 1, 0)]
    before = axis.time_seconds[np.maximum(axis.at - 2, 0)]
    first = axis.time_seconds[axis.low]
    mean = (last - first) / np.maximum(seen - 1, 1)
    gaps = np.stack([now - last, last - before, mean, now - first], axis=1)
    gaps[seen < 2, 1:3] = np.nan
    gaps[seen < 1] = np.nan
    return gaps


def _numbers(spec: AggregateSpec, axis: EventAxis, starts: Array, events: AxisEvents) -> list[Array]:
    """Statistics of the first features in all windows, then of the others over all events."""
    n = min(DETAILED, len(spec.numerical))
    parts = [_statistics(spec, axis, starts, events, slice(0, n))]
    if n < len(spec.numerical):
        parts.append(_statistics(spec, axis, starts[:, -1:], events, slice(n, None)))
    return parts


def _statistics(
    spec: AggregateSpec, axis: EventAxis, starts: Array, events: AxisEvents, which: slice, has: Array | None = None
) -> Array:
    """(Q, features x windows x statistics). has: (m,) which events count; None for all."""
    values, present = events.values[:, which], events.present[:, which]
    sums = kernels.window_sums(axis, starts, values, present if has is None else present & has[:, None])
    current = np.where(present[axis.at], values[axis.at], np.nan)[:, None]
    units = np.array(spec.scale[which], np.float64)
    out = np.empty((axis.n_asked, values.shape[1], starts.shape[1], 6))
    made = (sums.total, sums.mean, sums.std, sums.highest, current / _nonzero(sums.mean), current - sums.mean)
    for at, statistic in enumerate(made):
        scaled = statistic if at == 4 else statistic / units
        out[..., at] = scaled.transpose(0, 2, 1)
    return out.reshape(axis.n_asked, -1)


def _nonzero(values: Array) -> Array:
    return np.where(values != 0, values, np.nan)


def _same(spec: AggregateSpec, axis: EventAxis, codes: Array) -> list[Array]:
    """Per compared column: how often the current value occurred, how long ago, its share, how many different ones."""
    n_texts = len(spec.categorical)
    repeats = kernels.repeats(axis, codes)
    seen = axis.at - axis.low
    ago = np.where(repeats.last >= 0, axis.now_seconds[:, None] - axis.time_seconds[repeats.last], np.nan)
    share = repeats.count / np.where(seen > 0, seen, np.nan)[:, None]
    columns = np.stack([repeats.count, ago, share, repeats.distinct], axis=2)
    if spec.keys:
        no_key = codes[axis.at, n_texts:] == MISSING_TOKEN
        columns[:, n_texts:, :3][no_key] = np.nan
    full = np.concatenate([columns[:, : min(COMPARED, n_texts)], columns[:, n_texts:]], axis=1)
    parts = [full.reshape(axis.n_asked, -1)]
    if n_texts > COMPARED:
        parts.append(repeats.count[:, COMPARED:n_texts])
    return parts


def _outcomes(spec: AggregateSpec, axis: EventAxis, events: AxisEvents, has: Array | None = None) -> list[Array]:
    """Known outcomes: counts and rates by when they became known; the last and first fraud; numbers of known frauds.

    has: (m,) which events count; None for all.
    """
    q = axis.n_asked
    # the greatest time is enough: no asked payment comes after it
    known = (events.label >= 0) & np.isfinite(events.known_at_seconds)
    places = np.flatnonzero(known if has is None else known & has)
    known_at = events.known_at_seconds[places]
    seconds = dict(zip(spec.windows, spec.window_seconds, strict=True))
    windows = np.array([0, *(seconds[window] for window in spec.outcome_windows)], np.float64)
    moments = axis.first_asked_since(places, known_at[:, None] + windows)
    since = np.maximum(moments[:, 0], axis.first_after[places])
    until = axis.last_before[places]
    seen = since < until
    places, since, until, moments = places[seen], since[seen], until[seen], moments[seen]
    fraud = events.label[places] == 1
    in_windows = np.maximum(np.minimum(moments[:, 1:], until[:, None]), since[:, None])
    ends = np.concatenate([in_windows, until[:, None]], axis=1)  # all events last
    known = kernels.visible_counts(since, ends, q)
    frauds = kernels.visible_counts(since[fraud], ends[fraud], q)
    out = np.stack([known, frauds, frauds / np.where(known > 0, known, np.nan)], axis=2)
    last = kernels.last_visible(axis, places, since)
    last_fraud = kernels.last_visible(axis, places[fraud], since[fraud])
    first_fraud = kernels.first_visible(axis, places[fraud], since[fraud])
    ages = [_age(axis, last_fraud), _age(axis, first_fraud), np.where(last >= 0, events.label[last] == 1, np.nan)]
    parts = [out.reshape(q, -1), np.stack(ages, axis=1)]
    if spec.numerical:
        n_frauds = out[:, -1, 1]
        parts.append(_fraud_numbers(spec, axis, events, places[fraud], since[fraud], until[fraud], n_frauds))
    return parts


def _age(axis: EventAxis, place: Array) -> Array:
    return np.where(place >= 0, axis.now_seconds - axis.time_seconds[place], np.nan)


def _fraud_numbers(
    spec: AggregateSpec, axis: EventAxis, events: AxisEvents, places: Array, since: Array, until: Array, n_frauds: Array
) -> Array:
    """(Q, features x 2) mean of the known frauds' values, and the current value against it. Missing values count as 0."""
    n = min(DETAILED, len(spec.numerical))
    if not len(places):
        return np.full((axis.n_asked, 2 * n), np.nan)
    sums = kernels.visible_sums(since, until, events.values[places, :n], axis.n_asked)
    mean = sums / np.where(n_frauds > 0, n_frauds, np.nan)[:, None]
    current = np.where(events.present[axis.at, :n], events.values[axis.at, :n], np.nan)
    units = np.array(spec.scale[:n], np.float64)
    return np.stack([mean / units, current / _nonzero(mean)], axis=2).reshape(axis.n_asked, -1)
