"""The folds of a backtest: when each model is trained, what it may learn from, and which payments it is tested on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from tsa.config.market import Market
from tsa.config.split import SPLITS
from tsa.data.store.resplit import Ranges
from tsa.data.store.splits import is_scored
from tsa.data.store.store import EventStore
from tsa.data.time_outliers import valid_span
from tsa.errors import ConfigError, DataError
from tsa.times import DAY_SECONDS, iso

LEARNED = SPLITS[:3]
"""The ranges before the label delay."""
MAX_FOLDS = 1000
"""More folds are probably a mistake in a unit."""


@dataclass(frozen=True, kw_only=True)
class BacktestSchedule:
    """When models are trained, and on what. Times and durations are in seconds.

    Attributes:
        start: When the first model is trained; None: when the market's test range begins.
        end: Test payments before this time only; None: the end of the log.
        every: Time from one training to the next.
        window: How far back a model learns from; None: from the beginning of the market's training range.
        test: How long each model is tested.
        validation, calibration: Length of these ranges, the last of the window; None: the same shares of it as in the
            market's split.
        begins, shares, by_rows: Of the market's split, for a store that was prepared with other ranges (`completed`): the
            beginning of its training range, the shares of the first three ranges, and whether they are of payments.
    """

    start: float | None = None
    end: float | None = None
    every: float = 7 * DAY_SECONDS
    window: float | None = None
    test: float = 7 * DAY_SECONDS
    validation: float | None = None
    calibration: float | None = None
    begins: float | None = None
    shares: tuple[float, float, float] | None = None
    by_rows: bool = False


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One model: trained at `now` on what was known then, and tested on the payments from then on."""

    name: str
    now: float
    """Epoch seconds: the training, and the beginning of the test range."""
    ranges: Ranges
    """Train, validation, calibration and test."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        ranges = {name: [iso(start), iso(end)] for name, (start, end) in self.ranges.items()}
        return {"name": self.name, "now": iso(self.now), "ranges": ranges}


def plan_folds(store: EventStore, schedule: BacktestSchedule) -> tuple[Fold, ...]:
    """The folds that fit into a log, the earliest first. Only test ranges that the log covers completely count.

    Between the ranges that a model learns from and its test range lies the label delay: an outcome of that time is not
    known when the model is trained.

    Raises:
        ConfigError: If no fold fits, or there are too many.
        DataError: If a window holds no payments.
    """
    times = np.asarray(store.time_seconds)
    first, last = valid_span(times, datetime.now(UTC).timestamp())
    schedule = schedule if schedule.shares is not None else completed(store.market, schedule)
    begins = first if schedule.begins is None else max(first, schedule.begins)
    grain = min(DAY_SECONDS, schedule.test)
    end = math.floor(last / grain) * grain + grain if schedule.end is None else schedule.end
    start = _default_start(store, end, schedule) if schedule.start is None else schedule.start
    count = math.floor((end - schedule.test - start) / schedule.every + 1e-9) + 1
    if count < 1:
        raise ConfigError(
            f"a test range must end within the log (got one from {iso(start)} to {iso(start + schedule.test)}; "
            f"the log ends at {iso(last)}): begin earlier, or test for a shorter time"
        )
    if count > MAX_FOLDS:
        raise ConfigError(f"at most {MAX_FOLDS} folds are trained (got {count:,}): train less often")
    moments = [start + k * schedule.every for k in range(count)]
    return tuple(_fold(store, schedule, now, begins, end) for now in moments)


def _fold(store: EventStore, schedule: BacktestSchedule, now: float, begins: float, end: float) -> Fold:
    known = now - store.market.label.gap_seconds
    first = begins if schedule.window is None else max(begins, known - schedule.window)
    if first >= known:
        raise DataError(
            f"a model trained at {iso(now)} must have payments whose outcome is known by then (got none: the log or the "
            f"market's training range begins at {iso(begins)}, and outcomes are known up to {iso(known)}): begin later"
        )
    edges = _edges(store, schedule, first, known)
    ranges = dict(zip(LEARNED, itertools.pairwise(edges), strict=True))
    return Fold(name=fold_name(now), now=now, ranges={**ranges, "test": (now, min(now + schedule.test, end))})


def _edges(store: EventStore, schedule: BacktestSchedule, first: float, last: float) -> list[float]:
    """The beginning of each range that is learned from, and the end of the last."""
    shares = schedule.shares
    assert shares is not None
    if schedule.by_rows and schedule.validation is None and schedule.calibration is None:
        return _edges_by_rows(store, shares, first, last)
    span = last - first
    calibration = shares[2] * span if schedule.calibration is None else schedule.calibration
    validation = shares[1] * span if schedule.validation is None else schedule.validation
    if validation + calibration >= span:
        raise ConfigError(
            f"the training window must be longer than validation and calibration together (got {span / DAY_SECONDS:g} days, "
            f"and {validation / DAY_SECONDS:g} and {calibration / DAY_SECONDS:g} days)"
        )
    # full seconds: the same in a market file, which writes them as dates
    return [first, float(round(last - calibration - validation)), float(round(last - calibration)), last]


def _edges_by_rows(store: EventStore, shares: tuple[float, float, float], first: float, last: float) -> list[float]:
    times = np.asarray(store.time_seconds)
    scored = is_scored(store.market, store.clean)
    inside = (times >= first) & (times < last)
    own = times[inside if scored is None else inside & scored]
    if not len(own):
        raise DataError(f"a training window must hold payments (got none from {iso(first)} to {iso(last)})")
    at = [round(share * len(own)) for share in np.cumsum(shares)[:2]]
    return [first, *(float(own[min(row, len(own) - 1)]) for row in at), last]


def completed(market: Market, schedule: BacktestSchedule) -> BacktestSchedule:
    """The schedule with what a market's `[split]` says: for a store that is prepared with other ranges."""
    split = market.split
    ranges = split.ranges
    return replace(
        schedule,
        start=ranges["test"][0].timestamp() if ranges and schedule.start is None else schedule.start,
        begins=ranges["train"][0].timestamp() if ranges else None,
        shares=split.shares,
        by_rows=split.by == "rows",
    )


def _default_start(store: EventStore, end: float, schedule: BacktestSchedule) -> float:
    """When the store's test range begins; the day, for a split by fractions."""
    start = (
        float(store.manifest["splits"]["test"]["start_seconds"]) if store.manifest["splits"] else end - schedule.test
    )
    return math.floor(start / DAY_SECONDS) * DAY_SECONDS


def fold_name(now: float) -> str:
    """The name of a fold and its folder: the day of its training, with the time if it is not midnight."""
    moment = datetime.fromtimestamp(now, UTC)
    return moment.strftime("%Y-%m-%d" if now % DAY_SECONDS == 0 else "%Y-%m-%dT%H-%M-%S")


def describe(schedule: BacktestSchedule) -> Mapping[str, Any]:
    """The schedule as plain JSON values."""
    return {name: getattr(schedule, name) for name in schedule.__dataclass_fields__}
