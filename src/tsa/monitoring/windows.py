"""The payments that are monitored: a scored range of a store (`ScoredWindow`), divided into time windows (`Windows`)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tsa.data.key_codes import key_codes
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.evaluation.metrics.scored_payments import Array
from tsa.inference.scorer import Scorer
from tsa.progress import Progress, silent
from tsa.times import DAY_SECONDS, iso

WIDTHS = {"day": DAY_SECONDS, "week": 7 * DAY_SECONDS}
MAX_WINDOWS = 1000


@dataclass(frozen=True, eq=False)
class Windows:
    """W windows [edges[i], edges[i + 1]) of a time range: UTC days, or weeks counted from its first day."""

    edges: NDArray[np.float64]

    @classmethod
    def of(cls, start: float, end: float, kind: Literal["day", "week"]) -> Self:
        """Divide [start, end) into windows; the first begins at start, the last ends at end.

        Raises:
            ConfigError: For more than 1,000 windows.
        """
        width, day = WIDTHS[kind], start // DAY_SECONDS * DAY_SECONDS
        inner = math.ceil((end - day) / width) - 1
        if inner >= MAX_WINDOWS:
            got = f"{iso_time(start)} to {iso_time(end)} by the {kind} are {inner + 1:,}"
            raise ConfigError(f"monitoring takes at most {MAX_WINDOWS:,} windows (got {got})")
        return cls(np.array([start, *(day + width * np.arange(1, inner + 1)), end], np.float64))

    @classmethod
    def full_range(cls, start: float, end: float) -> Self:
        """One window."""
        return cls(np.array([start, end], np.float64))

    def __len__(self) -> int:
        return len(self.edges) - 1

    def codes(self, time_seconds: Array) -> NDArray[np.int64]:
        """(n,) the window of each of n times, which must lie inside the range."""
        return np.clip(np.searchsorted(self.edges, time_seconds, side="right") - 1, 0, len(self) - 1)

    def names(self) -> list[dict[str, str]]:
        """Start and end of each window as ISO times."""
        edges = [iso_time(edge) for edge in self.edges]
        return [{"start": a, "end": b} for a, b in itertools.pairwise(edges)]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredWindow:
    """The n payments of [start, end) of a store, scored. Times are epoch seconds."""

    store: EventStore
    rows: NDArray[np.int64]
    """(n,) of the store."""
    start: float
    end: float
    scores: Mapping[str, Array]
    """(n,) each: `raw_score`; `percentile` and `probability` if the bundle is calibrated for them."""

    @classmethod
    def score(
        cls,
        scorer: Scorer,
        store: EventStore,
        range_seconds: tuple[float, float],
        what: str,
        progress: Progress = silent,
        *,
        known: Array | None = None,
    ) -> Self:
        """Score the payments in [start, end); an infinite start or end means the first or last payment of the store.

        Args:
            known: (len(store),) raw scores that are known already; NaN: leave this payment out.

        Raises:
            ConfigError: If the range contains no payments.
        """
        times = store.time_seconds
        first, last = (int(row) for row in np.searchsorted(times, range_seconds))
        rows = store.scored_rows(first, last)
        if known is not None:
            rows = rows[np.isfinite(known[rows])]
        if not len(rows):
            extent = f"the log goes from {iso_time(times[0])} to {iso_time(times[-1])}"
            raise ConfigError(f"{what} must contain payments (got none in the given range); {extent}")
        if known is not None:
            raw = known[rows].astype(np.float32)
        else:
            with progress(f"scoring {what}", len(rows)) as advance:
                raw = scorer.score_rows(store, rows, advance=advance)
        # start at the first payment: earlier ones may not be in the file. End as requested: a log that stops early is a finding
        start = float(times[first])
        if math.isfinite(range_seconds[0]) and range_seconds[0] // DAY_SECONDS == start // DAY_SECONDS:
            start = range_seconds[0]
        end = range_seconds[1] if math.isfinite(range_seconds[1]) else math.nextafter(float(times[last - 1]), math.inf)
        return cls(store=store, rows=rows, start=start, end=end, scores=scorer.with_calibration(raw))

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def time_seconds(self) -> NDArray[np.float64]:
        """(n,) epoch seconds, ascending."""
        return np.asarray(self.store.time_seconds[self.rows])

    @cached_property
    def raw(self) -> NDArray[np.float64]:
        """(n,) raw scores."""
        return np.asarray(self.scores["raw_score"], np.float64)

    @cached_property
    def entity(self) -> Array | None:
        """(n,) codes of the ranked keys, -1 for null; None if rows carry their own history without a key."""
        key = self.store.market.entity.key
        return None if key is None else key_codes(self.store.columns([key])[key])[self.rows]

    @cached_property
    def key_codes(self) -> list[NDArray[np.int64]]:
        """For each history key of the market, (n,) codes, -1 for null; none if rows carry their own history."""
        given = (history.key for history in self.store.market.history)
        names = list(dict.fromkeys(key for key in given if key is not None))
        if not names:
            return []
        columns = self.store.columns(names)
        return [key_codes(columns[name])[self.rows].astype(np.int64) for name in names]

    def matured(self, as_of: float) -> NDArray[np.bool_]:
        """(n,) whether the outcome is known by the time `as_of`."""
        label, known_at = (np.asarray(values[self.rows]) for values in (self.store.label, self.store.known_at_seconds))
        return (label >= 0) & (known_at <= as_of)


def iso_time(seconds: float) -> str:
    """2025-04-16T00:00:00+00:00."""
    return iso(round(float(seconds)))


def shown_facts(seen: ScoredWindow) -> dict[str, Any]:
    """The range and its number of payments, for the page."""
    return {"start": iso_time(seen.start), "end": iso_time(seen.end), "n": len(seen)}
