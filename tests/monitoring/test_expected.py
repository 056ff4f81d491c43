"""Expected performance: equal to the metrics that are measured later if probabilities are right, and doubted if they are not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from tsa.calibration.calibration import Calibration
from tsa.monitoring.expected import METRICS, NOT_CALIBRATED, PaymentRanking, calibration_covariance, expected
from tsa.monitoring.expected_view import estimates, sentence
from tsa.monitoring.windows import Windows
from tsa.times import DAY_SECONDS

WEEK = 7 * DAY_SECONDS


def seen(n: int = 20_000, weeks: int = 8, *, factor: float = 1.0, known_weeks: int = 6, seed: int = 0) -> Any:
    """Payments whose frauds come with `factor` times their probability; the last weeks' outcomes are not known."""
    generator = np.random.default_rng(seed)
    probability = np.clip(generator.beta(0.3, 6, n), 1e-4, 0.5)
    times = np.sort(generator.uniform(0, weeks * WEEK, n))
    label = (generator.random(n) < np.clip(factor * probability, 0, 1)).astype(np.int8)
    known = times < known_weeks * WEEK
    return SimpleNamespace(
        scores={"probability": probability},
        raw=probability,
        rows=np.arange(n),
        time_seconds=times,
        store=SimpleNamespace(label=label),
        matured=lambda as_of: known,
        key_codes=[],
    )


def measure(payments: Any, **settings: Any) -> dict[str, Any]:
    windows = Windows.of(0.0, 8 * WEEK, "week")
    given = {"threshold": 0.2, "as_of": 0.0, "min_frauds": 10, "draws": 100, **settings}
    return expected(payments, windows, **given)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    raw = np.round(generator.random(200), 1 + seed % 3)
    fraud = generator.random(200) < raw / 2
    values = PaymentRanking(raw, 0.6).metrics(fraud)
    flagged = raw >= 0.6
    reference = (
        precision_score(fraud, flagged),
        recall_score(fraud, flagged),
        average_precision_score(fraud, raw),
        roc_auc_score(fraud, raw),
    )
    assert values == pytest.approx(reference, abs=1e-12)


def test_metrics_that_are_not_defined_are_nan() -> None:
    raw = np.array([0.1, 0.2])
    assert np.isnan(PaymentRanking(raw, 0.9).metrics(np.array([False, True]))[0])
    assert np.isnan(PaymentRanking(raw, 0.1).metrics(np.array([False, False]))[1:]).all()


def test_right_probabilities_are_believed() -> None:
    payments = seen()
    result = measure(payments)
    assert result["believed"], result["reasons"]
    assert result["checked"] == 6 * len(METRICS)
    assert result["within"] >= 0.85 * result["checked"]
    last = result["windows"][-1]
    assert last["check"] is None
    inside = payments.time_seconds >= 7 * WEEK
    later = PaymentRanking(payments.raw[inside], 0.2).metrics(payments.store.label[inside] == 1)
    for name, value in zip(METRICS, later, strict=True):
        metric = last["metrics"][name]
        assert metric["low"] <= metric["value"] <= metric["high"]
        assert metric["value"] == pytest.approx(value, abs=0.2)


def share_within(results: list[dict[str, Any]]) -> float:
    return sum(result["within"] for result in results) / sum(result["checked"] for result in results)


def test_intervals_hold_the_value_about_as_often_as_they_say() -> None:
    results = [measure(seen(3000, seed=seed)) for seed in range(8)]
    assert 0.9 < share_within(results) < 1
    assert sum(result["believed"] for result in results) >= 7


def test_intervals_hold_the_errors_of_probabilities_that_were_fitted() -> None:
    """On some 60 frauds: without these errors, fewer values are within."""
    results: dict[int | None, list[dict[str, Any]]] = {60: [], None: []}
    for seed in range(6):
        payments, earlier = seen(8000, seed=seed), seen(1300, seed=seed + 100)
        fitted = Calibration.fit(scores=earlier.raw, labels=earlier.store.label, method="platt")
        assert fitted.probability is not None
        payments.scores = {"probability": fitted.probability(payments.raw)}
        for frauds, made in results.items():
            made.append(measure(payments, calibrated_on=frauds, draws=60))
    assert 0.9 < share_within(results[60]) < 1
    assert share_within(results[None]) < share_within(results[60]) - 0.03


def test_errors_of_a_fit_fall_with_its_frauds() -> None:
    probability = seen(2000).raw
    few, many = calibration_covariance(probability, 100), calibration_covariance(probability, 400)
    assert few == pytest.approx(4 * many)
    # of the number of frauds: the square root of as many
    weight = probability * (1 - probability)
    slopes = np.array([weight.sum(), np.sum(weight * np.log(probability / (1 - probability)))])
    scale = 100 / probability.sum()
    assert slopes @ few @ slopes * scale**2 == pytest.approx(weight.sum() * scale)
    assert not calibration_covariance(probability, None).any()
    assert calibration_covariance(np.full(9, 0.1), 100).shape == (2, 2), "equal probabilities have no slope"


def test_estimates_use_no_outcomes() -> None:
    payments, other = seen(), seen()
    other.store.label = 1 - other.store.label
    for a, b in zip(measure(payments)["windows"], measure(other)["windows"], strict=True):
        assert a["metrics"] == b["metrics"]


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_drifted_calibration_is_not_believed(factor: float) -> None:
    result = measure(seen(factor=factor))
    assert not result["believed"]
    assert any("the calibration has drifted" in reason for reason in result["reasons"])
    assert any("missed what was measured since" in reason for reason in result["reasons"])


def test_what_cannot_be_estimated_has_a_reason() -> None:
    few = measure(seen(300), min_frauds=1000)
    assert all("expected frauds: no estimate below 1000" in window["reason"] for window in few["windows"])
    assert all("without draws" in window["reason"] for window in measure(seen(), draws=0)["windows"])
    unknown = measure(seen(known_weeks=0))
    assert unknown["reasons"] == ["no outcome is known yet, so the probabilities could not be checked"]
    payments = seen()
    payments.scores = {}
    assert measure(payments)["reasons"] == [NOT_CALIBRATED]


def test_sentences_and_rows() -> None:
    names = Windows.of(0.0, 8 * WEEK, "week").names()
    result = measure(seen())
    assert sentence(result).startswith("Expected average precision of the last window: 0.")
    rows = (estimates(names, result) or {})["rows"]
    assert [cell["since"] is None for cell in rows[0]["cells"]] == [False] * 4
    assert [cell["since"] is None for cell in rows[7]["cells"]] == [True] * 4
    assert sentence(measure(seen(factor=2.0))).startswith(
        "Do not believe the expected performance: the calibration has"
    )
    few = measure(seen(300), min_frauds=1000)
    assert "too few expected frauds" in sentence(few)
    assert estimates(names, None) is None
