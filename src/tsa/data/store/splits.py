"""The row ranges of a market's splits: train, validation, calibration and test, by time or by number of rows."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.clean_columns import HISTORY_ONLY, ROLE
from tsa.data.time_outliers import valid_span
from tsa.errors import DataError
from tsa.times import iso

Split = dict[str, Any]


def is_scored(market: Market, rows: pl.LazyFrame) -> NDArray[np.bool_] | None:
    """(n,) which of the clean rows are scored; None if all are."""
    if not market.role_rules:
        return None
    return rows.select(pl.col(ROLE) != HISTORY_ONLY).collect().to_series().to_numpy()


def find_splits(
    market: Market, time_seconds: NDArray[np.float64], scored: NDArray[np.bool_] | None = None
) -> dict[str, Split]:
    """Row ranges of the market's splits in ascending times (n,). scored: (n,) the events that are scored; None: all.

    Fractions divide the time from the first to the last payment, or the payments by their number, ignoring payments with
    a wrong clock.

    Raises:
        DataError: If a split has no rows.
    """
    if not len(time_seconds):
        raise DataError("the log must have rows to train on (got none after reading)")
    first, last = valid_span(time_seconds, time.time())
    splits = {}
    if market.split.by == "rows":
        valid = (time_seconds >= first) & (time_seconds <= last)
        ranges = market.split.resolve_rows(
            time_seconds[valid if scored is None else valid & scored], market.label.gap_seconds
        )
    else:
        ranges = market.split.resolve(first, last, market.label.gap_seconds)
    for name, (start, end) in ranges.items():
        begin, stop = (int(row) for row in np.searchsorted(time_seconds, [start, end]))
        if begin == stop or (scored is not None and not scored[begin:stop].any()):
            raise DataError(
                f"split.{name} must hold payments (got none from {iso(start, 'seconds')} to {iso(end, 'seconds')}); "
                f"set [split] to dates in the log, which has {iso(first, 'seconds')} to {iso(last, 'seconds')}"
            )
        splits[name] = {"rows": [begin, stop], "start_seconds": start, "end_seconds": end}
    return splits
