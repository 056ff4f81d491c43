"""Measure one model of a fold: on its test range, in money, and on the test ranges of later folds.

Thresholds and calibration come from payments before the test range, so that each number is what a team would have got.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.calibration.calibration import Calibration
from tsa.data.key_codes import key_codes
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError
from tsa.evaluation.daily_queue import Costs
from tsa.evaluation.evaluate import best_f1
from tsa.evaluation.metrics.calibration import measure_calibration
from tsa.evaluation.metrics.evaluate_scores import evaluate_scores
from tsa.evaluation.metrics.scored_payments import ScoredPayments
from tsa.evaluation.thresholds import choose_thresholds, outcome_at
from tsa.evaluation.top_k import NOT_KNOWN, fitting_k

Array = NDArray[Any]
Rows = NDArray[np.int64]

PAST = ("validation", "calibration")
"""The ranges between those of training and test."""
AGED = ("average_precision", "roc_auc")
"""The metrics of models that have become older."""
DROPPED = ("curves", "segments", "history_length")
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Payments:
    """The payments of a fold's store, with what metrics and money need of them."""

    store: EventStore
    costs: Costs
    amount_column: str | None = None
    """The column with the loss of a missed fraud; None: the market's amount."""
    replicates: int = 200

    def of(self, rows: Rows, scores: Array) -> ScoredPayments:
        """The payments `rows` (m,), whose outcomes are known, with scores (m,)."""
        return ScoredPayments(
            label=np.asarray(self.store.label[rows]),
            score=np.asarray(scores, np.float64),
            time_seconds=np.asarray(self.store.time_seconds[rows]),
            amount=None if self._amount is None else self._amount[rows],
            entity=None if self._entity is None else self._entity[rows],
        )

    def known(self, ranges: Sequence[str]) -> Rows:
        """(m,) payments of these ranges whose outcome is known when the model is trained."""
        return np.concatenate([np.empty(0, np.int64), *(self.store.labelled(name) for name in ranges)])

    @cached_property
    def top_k(self) -> int:
        """The k of card precision@k: the market's, or one that fits the payments before the test range."""
        if self.store.market.evaluation.top_k is not None:
            return self.store.market.evaluation.top_k
        past = self.known(PAST)
        label = np.asarray(self.store.label[past])
        if self._entity is None or not (label == 1).any():
            return NOT_KNOWN
        return fitting_k(self._entity[past], label, np.asarray(self.store.time_seconds[past]))

    def window(self, start: float, end: float) -> Rows:
        """(m,) payments of [start, end) that are scored and whose outcome is known by now."""
        first, last = (int(row) for row in np.searchsorted(np.asarray(self.store.time_seconds), [start, end]))
        rows = self.store.scored_rows(first, last)
        return rows[np.asarray(self.store.label[rows]) >= 0]

    @cached_property
    def _amount(self) -> Array | None:
        market = self.store.market
        name = self.amount_column or market.event.amount
        if name is None:
            return None
        if name not in market.raw_columns:
            known = ", ".join(market.raw_columns)
            raise ConfigError(f"the amount column must be one that the market declares ({known}) (got {name!r})")
        values = self.store.columns([name])[name]
        if not values.dtype.is_numeric():
            raise DataError(f"the amount column must hold numbers (got {name!r} of type {values.dtype})")
        return values.cast(pl.Float64).to_numpy()

    @cached_property
    def _entity(self) -> Array | None:
        key = self.store.market.entity.key
        return None if key is None else key_codes(self.store.columns([key])[key])


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The raw scores of one model: of payments before the test range, which it did not learn from, and of later ones."""

    past_rows: Rows
    """(p,) payments before the test range with known outcomes, from which the model did not learn."""
    past: Array
    """(p,) of `past_rows`."""
    later: Mapping[str, Array]
    """(m,) of each test range from the fold's own on, by the name of the fold."""
    calibration: Calibration | None


def measure(payments: Payments, scores: Scores, windows: Mapping[str, tuple[Rows, float]], own: str) -> dict[str, Any]:
    """The metrics of one model.

    Args:
        payments: The payments of the fold's store.
        scores: The model's.
        windows: Payments (m,) of each test range from the fold's own on, and the age of the model in seconds when that
            range begins; by the name of the fold.
        own: The name of the fold.

    Returns:
        `metrics` with intervals at the `threshold` with the best F1 before the test range, `calibration`, `money`, and
        `ages`, a row for each test range.
    """
    before = payments.of(scores.past_rows, scores.past)
    rows, _ = windows[own]
    tested = payments.of(rows, scores.later[own])
    measured = evaluate_scores(
        tested, threshold=best_f1(before.label, before.score), top_k=payments.top_k, replicates=payments.replicates
    )
    threshold, money = _money(payments, before, tested)
    return {
        **{name: value for name, value in measured.items() if name not in DROPPED},
        "calibration": _calibration(payments, tested, scores.calibration),
        "money": money,
        "ages": [
            _aged(payments, payments.of(later, scores.later[name]), threshold, name, age, money is not None)
            for name, (later, age) in windows.items()
        ],
    }


def _aged(
    payments: Payments, tested: ScoredPayments, threshold: float | None, name: str, age: float, has_money: bool
) -> dict[str, Any]:
    """Metrics of one test range, of a model that is `age` seconds old when it begins."""
    metrics = evaluate_scores(tested, threshold=0.5, top_k=payments.top_k, replicates=0)["metrics"]
    row = {"fold": name, "age_seconds": age, "payments": len(tested), "frauds": int(tested.label.sum())}
    row |= {metric: metrics[metric]["value"] for metric in AGED}
    if has_money:
        row["net"] = outcome_at(tested, payments.costs, threshold, replicates=0)["net"]
    return row


def _money(
    payments: Payments, before: ScoredPayments, tested: ScoredPayments
) -> tuple[float | None, dict[str, Any] | None]:
    """The threshold that saves most before the test range, and what it brings there: None without losses or capacity."""
    costs = payments.costs
    if costs.capacity is None and costs.fraud is None and before.amount is None:
        return None, None
    best = choose_thresholds(before, costs, replicates=0)["best"]
    threshold = None if best is None else float(best["threshold"])
    hindsight = choose_thresholds(tested, costs, replicates=0)["best"]
    return threshold, {
        "threshold": threshold,
        "chosen_on": {"payments": len(before), "frauds": int(before.label.sum()), "net": best and best["net"]},
        "test": outcome_at(tested, costs, threshold, replicates=payments.replicates),
        # the most that a threshold could have saved, had the outcomes been known
        "hindsight_net": 0.0 if hindsight is None else hindsight["net"],
        "hindsight_threshold": None if hindsight is None else hindsight["threshold"],
    }


def _calibration(payments: Payments, tested: ScoredPayments, calibration: Calibration | None) -> dict[str, Any]:
    """How well the probabilities, fitted before the test range, agree with its outcomes."""
    if calibration is None or calibration.probability is None:
        note = "the model has no calibration" if calibration is None else calibration.note
        return {"metrics": None, "note": note, "fitted_on": {} if calibration is None else dict(calibration.counts)}
    generator = np.random.default_rng([SEED, zlib.crc32(b"backtest")])
    probability = calibration.probability(tested.score)
    measured = measure_calibration(tested.label, probability, generator=generator, replicates=payments.replicates)
    return {**measured, "note": None, "fitted_on": dict(calibration.counts)}
