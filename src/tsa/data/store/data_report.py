"""The report on the rows of a store: what was read, the roles of events, unusual columns."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.clean_columns import ASKS, DECLINED, HISTORY_ONLY, KNOWN_AT, LABEL, ROLE, SCORED
from tsa.data.history import known_too_late
from tsa.data.log.column_checks import late_note, notes_on
from tsa.data.store.manifest import REPORT
from tsa.data.store.splits import Split
from tsa.data.workers import HERE

REPORT_ROWS = 2**21
"""Largest number of rows whose outcomes are in memory together."""
MAX_NOTES = 20
"""Largest number of notes on columns that are logged. The report has all of them."""

ROLES = {SCORED: "payments", HISTORY_ONLY: "not_scored", ASKS: "only_ask", DECLINED: "declined"}
"""The names of the roles of events in the report."""

_log = logging.getLogger(__name__)


def report_on_rows(
    market: Market,
    rows: pl.LazyFrame,
    time_seconds: NDArray[np.float64],
    report: Mapping[str, Any],
    unknown: Mapping[str, int],
    splits: Mapping[str, Split],
    *,
    is_fitted: bool,
) -> dict[str, Any]:
    """The report on the rows, with the notes on columns, which are also logged."""
    n = int(report["rows_kept"])
    notes = notes_on(market, rows, time_seconds, report, unknown=unknown, is_fitted=is_fitted, now_seconds=time.time())
    late = late_outcomes(rows, splits)
    notes += late_note(market, late)
    for note in notes[:MAX_NOTES]:
        _log.warning("%s: %s", note.column, note.text)
    if len(notes) > MAX_NOTES:
        _log.warning("and %d more notes on columns in %s", len(notes) - MAX_NOTES, REPORT)
    rates = {name: count / n for name, count in unknown.items()}
    if market.role_rules:
        counts = dict(rows.select(ROLE).collect().to_series().value_counts().iter_rows())
        report = {**report, "roles": {name: int(counts.get(role, 0)) for role, name in ROLES.items()}}
    return {**report, "unknown_rates": rates, "known_too_late": late, "notes": [note.to_dict() for note in notes]}


def late_outcomes(rows: pl.LazyFrame, splits: Mapping[str, Split]) -> dict[str, int]:
    """By range: how many outcomes become known only after the test range has begun."""
    late: dict[str, int] = {}
    for name in [name for name in splits if name != "test"]:
        begin, end = splits[name]["rows"]
        late[name] = 0
        for first, last in HERE.parts(end - begin, REPORT_ROWS):
            frame = rows.slice(begin + first, last - first).select(LABEL, KNOWN_AT).collect()
            known_at = frame[KNOWN_AT].to_numpy()
            late[name] += int(known_too_late(frame[LABEL].to_numpy(), known_at, splits["test"]["start_seconds"]).sum())
    return late
