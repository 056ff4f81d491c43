"""Encode and score a log with known outcomes, to evaluate or calibrate a bundle: use `open_log`.

Histories are taken from all of the log, as of each payment's time; a time window selects the payments that count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.bundle.bundle import Bundle
from tsa.data.log.quarantine import Quarantine, QuarantineLike
from tsa.data.store.prepare import Logs, log_names
from tsa.data.store.store import EventStore
from tsa.data.time_range import window_seconds
from tsa.inference.scorer import Scorer, check_finite
from tsa.progress import Progress, silent
from tsa.times import as_utc, to_seconds

When = str | datetime | None


@dataclass(frozen=True)
class KnownLog:
    """A store made with a bundle's encoder, and the payments of it that count."""

    store: EventStore
    payments: NDArray[np.int64]
    """(m,) rows of the payments in the window that have a score, in time order."""
    scores: NDArray[np.float32]
    """(m,) their raw scores."""

    @property
    def labels(self) -> NDArray[np.int8]:
        """(m,) 1 fraud, 0 genuine, -1 not known."""
        labels: NDArray[np.int8] = self.store.label[self.payments]
        return labels

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Rows of the payments in the window whose outcome is known."""
        return self.payments[self.labels >= 0]


@contextmanager
def open_log(
    scorer: Scorer,
    logs: Logs,
    *,
    start: When = None,
    end: When = None,
    quarantine: QuarantineLike = None,
    progress: Progress = silent,
) -> Iterator[KnownLog]:
    """Yield the payments of `logs` in [start, end), UTC, encoded and scored; the store is deleted afterwards.

    quarantine: a file for rows that break a rule or get no finite score; without it they are an error.

    Raises:
        DataError: If the log cannot be read, or a payment has no finite score.
        ConfigError: For an invalid time.
    """
    window = window_seconds(start, end)
    quarantine_file = Quarantine.of(quarantine)
    with scorer.encoded(log_names(logs), quarantine=quarantine_file, progress=progress) as store:
        first, last = (int(row) for row in np.searchsorted(store.time_seconds, window))
        rows = store.scored_rows(first, last)
        with progress("scoring", len(rows)) as advance:
            scores = scorer.score_rows(store, rows, advance=advance)
        if not (valid := np.isfinite(scores)).all():
            ids = store.ids_of(rows)
            if quarantine_file is None:
                check_finite(ids, scores)
            else:  # write the file again, including them
                unscored = frozenset(ids.filter(~valid).cast(pl.String))
                with scorer.encoded(log_names(logs), quarantine=replace(quarantine_file, unscored=unscored)):
                    pass
            rows, scores = rows[valid], scores[valid]
        yield KnownLog(store, rows, scores)


def learned_note(bundle: Bundle, times: NDArray[np.float64], ranges: Sequence[str]) -> str | None:
    """A warning if payments at `times` (m,) lie in ranges that the bundle was trained with; None if none is known to."""
    splits = (bundle.data or {}).get("splits") or {}
    overlaps = []
    for name in ranges:
        first, last = (splits.get(name) or {}).get("start"), (splits.get(name) or {}).get("end")
        if first and last:
            begin, stop = (to_seconds(as_utc(text)) for text in (first, last))
            if count := int(np.count_nonzero((times >= begin) & (times <= stop))):
                overlaps.append(f"{count:,} in the {name} range, {first[:10]} to {last[:10]}")
    if not overlaps:
        return None
    rule = "metrics are too good on payments that the bundle was trained with"
    return f"{rule}: of {len(times):,} payments here {'; '.join(overlaps)} (select others with --from and --to)"
