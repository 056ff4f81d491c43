"""A verdict holds at the digits that are shown."""

from __future__ import annotations

import numpy as np
import pytest

from tsa.evaluation.metrics import paired
from tsa.evaluation.metrics.paired import paired_difference
from tsa.evaluation.metrics.scored_payments import ScoredPayments


@pytest.mark.parametrize(
    ("low", "high", "b", "verdict"),
    [
        (0.0006, 0.02, 0.60, "a better"),
        (0.0004, 0.02, 0.60, "no clear difference"),
        (0.0006, 0.02, 0.6998, "no clear difference"),
        (-0.02, 0.01, 0.60, "no clear difference"),
        (-0.02, -0.0006, 0.75, "b better"),
        (-0.02, -0.0004, 0.75, "no clear difference"),
    ],
)
def test_better_only_at_the_digits_shown(
    monkeypatch: pytest.MonkeyPatch, low: float, high: float, b: float, verdict: str
) -> None:
    monkeypatch.setattr(paired, "interval", lambda *_: (low, high))
    values = [{"roc_auc": 0.7}, {"roc_auc": b}]
    assert paired._difference(values, "roc_auc", np.zeros(3), 0.95)["verdict"] == verdict


def test_a_difference_that_nobody_sees_is_none() -> None:
    """One pair of payments of many changes places: the interval may exclude 0, what is shown does not differ."""
    rng = np.random.default_rng(0)
    label = (rng.random(20_000) < 0.05).astype(np.int8)
    score = rng.normal(size=len(label)) + 2.0 * label
    other = score.copy()
    other[np.flatnonzero(label == 1)[:3]] -= 1e-3
    payments = ScoredPayments(label=label, score=score, time_seconds=np.arange(len(label), dtype=np.float64))
    found = paired_difference(score, other, payments, replicates=50)
    assert {result["verdict"] for result in found.values()} == {"no clear difference"}
    clear = paired_difference(score, -score, payments, replicates=50)
    assert {result["verdict"] for result in clear.values()} == {"a better"}
