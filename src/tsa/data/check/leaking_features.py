"""Features that may not be known at the time of a payment: they nearly decide the outcome, or are filled in later."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from tsa.config.market import Market
from tsa.data.clean_columns import LABEL, TIME
from tsa.data.log.column_checks import Note
from tsa.times import DAY_SECONDS

SAMPLE_ROWS = 200_000
MIN_FRAUDS = 20
"""With fewer frauds, a feature may decide them all by chance."""
DECIDES = 0.97
"""ROC AUC of a single feature from which it nearly decides the outcome."""
MAX_VALUES = 1_000
"""Categorical features with more values are judged by their most frequent ones."""
LATE_DAYS = 7.0
MISSING_LATE, MISSING_BEFORE = 0.5, 0.1
"""A feature is filled in later if more than the first share is missing at the end of the log, and less before."""
AFTER = 0.5


def suspicious_features(market: Market, rows: pl.LazyFrame, labelled: NDArray[np.int64]) -> list[Note]:
    """Notes on the features of clean rows in time order.

    Args:
        labelled: (m,) the rows whose outcome is known.
    """
    names = [name for name in market.features.names if name in rows.collect_schema().names()]
    step = max(1, len(labelled) // SAMPLE_ROWS)
    frame = rows.select(LABEL, TIME, *names).collect()
    notes = list(_deciding(market, frame[labelled[::step]], names))
    return [*notes, *_filled_in_later(market, frame, names), *_after_the_payment(market, frame)]


def _deciding(market: Market, frame: pl.DataFrame, names: list[str]) -> Iterator[Note]:
    label = frame[LABEL].to_numpy()
    if min((label == 1).sum(), (label == 0).sum()) < MIN_FRAUDS:
        return
    numbers = market.number_columns
    for name in names:
        missing = frame[name].is_null().to_numpy().astype(np.float64)
        of_missing = _auc(label, missing)
        of_value = _auc(label, _numbers(frame[name])) if name in numbers else _category_auc(label, frame[name])
        auc, what = max((of_missing, "whether it has a value"), (of_value, "its value"))
        if auc >= DECIDES:
            text = (
                f"{what} alone nearly decides the outcome (ROC AUC {auc:.3f}): is it known at the time of the payment?"
            )
            yield Note(kind="decides", column=name, text=text)


def _numbers(column: pl.Series) -> NDArray[np.float64]:
    values = column.cast(pl.Float64)
    lowest = values.min()
    return values.fill_null(float(lowest) - 1.0 if isinstance(lowest, float) else 0.0).to_numpy()


def _auc(label: NDArray[np.int8], values: NDArray[np.float64]) -> float:
    """The area under the curve in the better direction."""
    auc = float(roc_auc_score(label, values))
    return max(auc, 1.0 - auc)


def _category_auc(label: NDArray[np.int8], column: pl.Series) -> float:
    """With the share of frauds of each value in every other row, measured on the rows between."""
    texts = column.cast(pl.String).fill_null("")
    frequent = texts.value_counts(sort=True).head(MAX_VALUES).get_column(column.name)
    codes = texts.replace_strict(frequent, pl.Series(range(1, len(frequent) + 1)), default=0).to_numpy()
    known, tested = slice(0, None, 2), slice(1, None, 2)
    if len(np.unique(label[tested])) < 2:
        return 0.5
    count = np.bincount(codes[known], minlength=len(frequent) + 1)
    frauds = np.bincount(codes[known], weights=label[known], minlength=len(frequent) + 1)
    prior = float(label[known].mean())
    rate = (frauds + prior) / (count + 1.0)
    return _auc(label[tested], rate[codes[tested]])


def _filled_in_later(market: Market, frame: pl.DataFrame, names: list[str]) -> Iterator[Note]:
    times = frame[TIME].to_numpy()
    days = max(LATE_DAYS, market.label.gap_seconds / DAY_SECONDS)
    late = times >= times[-1] - days * DAY_SECONDS
    if late.sum() < MIN_FRAUDS or (~late).sum() < MIN_FRAUDS:
        return
    for name in names:
        missing = frame[name].is_null().to_numpy()
        before, after = float(missing[~late].mean()), float(missing[late].mean())
        if after > MISSING_LATE and before < MISSING_BEFORE:
            text = (
                f"missing in {after:.0%} of the rows of the last {days:g} days and in {before:.0%} before: "
                "is it filled in only later?"
            )
            yield Note(kind="filled_in_later", column=name, text=text, share=after)


def _after_the_payment(market: Market, frame: pl.DataFrame) -> Iterator[Note]:
    """Derived features from the payment's time to another time that mostly is a later one."""
    for feature in market.features.derivations:
        if feature.kind not in ("seconds_between", "years_between") or market.event.time not in feature.columns:
            continue
        values = frame[feature.name].drop_nulls()
        after = values.to_numpy() * (1.0 if feature.columns[0] == market.event.time else -1.0) > 0
        other = next(iter(set(feature.columns) - {market.event.time}), market.event.time)
        if len(values) and (share := float(after.mean())) > AFTER:
            text = f"{other} is later than the payment in {share:.0%} of the rows: is it known at the time?"
            yield Note(kind="after_the_payment", column=feature.name, text=text, share=share)
