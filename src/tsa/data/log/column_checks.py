"""Checks of complete columns for likely mistakes that no single row shows. They are reported as notes; no row is refused.

A key with a large part of the log, a feature without known values, only negative amounts, outcomes of one kind,
payments in the future.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.time_outliers import valid_span

KEY_SHARE, KEY_TIMES, KEY_ROWS = 0.1, 5, 50
"""A key is large if it has more than this share of rows, this multiple of the mean key's share, and this many rows."""

HALF = 0.5
"""A key with more than this share is large, whatever the others have."""

NEARLY_ALL = 0.9
"""Share of missing values, or of values unknown to an encoder fitted on these rows, from which a note is made."""

UNKNOWN = 0.1
"""Share of values unknown to a given encoder from which a note is made."""

MIN_ROWS = 20
"""With fewer rows, shares are not reported."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """An unusual property of a column, in one sentence. `share`: the share of rows, if it concerns some of them."""

    kind: str
    column: str
    text: str
    share: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def notes_on(
    market: Market,
    rows: pl.LazyFrame,
    time_seconds: NDArray[np.float64],
    report: Mapping[str, Any],
    *,
    unknown: Mapping[str, int],
    is_fitted: bool,
    now_seconds: float,
) -> list[Note]:
    """The notes on clean rows, whose times (n,) are ascending.

    Args:
        report: Has `rows_kept`, `null_rates` and `labels`.
        unknown: By categorical feature, the number of rows with a value that the encoder does not know.
        is_fitted: The encoder was fitted on these rows, which are for training.
    """
    n = int(report["rows_kept"])
    notes = [*_times(market, time_seconds, now_seconds), *_amounts(market, rows)]
    if is_fitted:
        notes += _labels(market, report["labels"])
    if n >= MIN_ROWS:
        notes += [*_keys(market, rows, n, is_fitted=is_fitted), *_missing(market, report["null_rates"])]
        notes += _unknown(market, report["null_rates"], unknown, n, is_fitted=is_fitted)
    return notes


def late_note(market: Market, late: Mapping[str, int]) -> Iterator[Note]:
    """The note on outcomes that become known only after the test range has begun, by range."""
    if total := sum(late.values()):
        parts = ", ".join(f"{count:,} of {name}" for name, count in late.items() if count)
        text = f"{total:,} outcomes become known only after the test range has begun ({parts}): they are not used for training"
        yield Note(kind="known_too_late", column=str(market.label.known_at or market.label.column), text=text)


def _times(market: Market, time_seconds: NDArray[np.float64], now_seconds: float) -> Iterator[Note]:
    n, name = len(time_seconds), market.event.time
    later = int(np.count_nonzero(time_seconds > now_seconds))
    if later:
        text = (
            f"{later:,} of {n:,} payments lie in the future: is a clock wrong, or the time zone or unit of the times?"
        )
        yield Note(kind="future", column=name, text=text, share=later / n)
    first, last = valid_span(time_seconds, now_seconds)
    outliers = int(np.count_nonzero((time_seconds < first) | (time_seconds > last))) - later
    if outliers > 0:
        text = f"{outliers:,} of {n:,} payments lie far before or after all others: is a clock wrong?"
        yield Note(kind="stray", column=name, text=text, share=outliers / n)


def _amounts(market: Market, rows: pl.LazyFrame) -> Iterator[Note]:
    name = market.event.amount
    if name is None:
        return
    high = rows.select(pl.col(name).max()).collect(engine="streaming").item()
    if high is not None and high <= 0:
        text = "no amount is above 0, so losses by fraud count as 0; write payments as positive numbers"
        yield Note(kind="negative_amounts", column=name, text=text)


def _labels(market: Market, labels: Mapping[str, int]) -> Iterator[Note]:
    kinds = [name for name, count in labels.items() if count]
    if len(kinds) == 1:
        what = {"fraud": "1 (fraud)", "genuine": "0 (genuine)", "unknown": "missing or -1, which means not known"}
        text = f"all {labels[kinds[0]]:,} outcomes are {what[kinds[0]]}: there is nothing to learn from"
        yield Note(kind="one_outcome", column=market.label.column, text=text)
    elif labels["genuine"] == 0 and labels["fraud"] and labels["unknown"]:
        count = f"{labels['fraud']:,} are 1 and {labels['unknown']:,} are -1 or missing, which means not known"
        text = f"no outcome is 0 (genuine): {count}; where -1 means genuine, write 0"
        yield Note(kind="one_outcome", column=market.label.column, text=text)


def _keys(market: Market, rows: pl.LazyFrame, n: int, *, is_fitted: bool) -> Iterator[Note]:
    for name in market.key_columns:
        counts = rows.select(pl.col(name).alias("__key")).drop_nulls().group_by("__key").agg(pl.len().alias("__count"))
        largest = counts.sort("__count", descending=True).head(1)
        top, number = pl.collect_all([largest, counts.select(pl.len())], engine="streaming")
        if top.is_empty() or (number.item() == 1 and not is_fitted):  # the payments of one customer may be scored alone
            continue
        count = int(top["__count"][0])
        share, mean = count / n, 1 / number.item()
        if count >= KEY_ROWS and (share > HALF or (share > KEY_SHARE and share > KEY_TIMES * mean)):
            text = (
                f"one value has {count:,} of {n:,} rows ({share:.1%}): is it a placeholder, such as for a missing key?"
            )
            yield Note(kind="large_key", column=name, text=text, share=share)


def _missing(market: Market, rates: Mapping[str, float]) -> Iterator[Note]:
    amount = () if market.event.amount is None else (market.event.amount,)
    for name in dict.fromkeys((*market.features.names, *amount, *market.key_columns)):
        if (share := rates.get(name, 0.0)) >= NEARLY_ALL:
            yield Note(kind="missing", column=name, text=f"{share:.1%} of the rows have no value", share=share)


def _unknown(
    market: Market, rates: Mapping[str, float], unknown: Mapping[str, int], n: int, *, is_fitted: bool
) -> Iterator[Note]:
    for feature in market.features.categorical:
        count, present = unknown.get(feature.name, 0), round(n * (1 - rates.get(feature.name, 0.0)))
        share = count / present if present else 0.0
        if not count or share < (NEARLY_ALL if is_fitted else UNKNOWN):
            continue
        what = f"{count:,} of {present:,} values ({share:.1%}) are unknown"
        rare = f"{what}: each is seen fewer than {feature.min_count} times in the training range (min_count)"
        text = rare if is_fitted else f"{what} to the bundle: are they written as in training?"
        yield Note(kind="unknown", column=feature.name, text=text, share=share)
