"""Calibration figures: against plain second computations, and against what is known to be true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tsa.evaluation.metrics.calibration import (
    MAX_BINS,
    PER_BIN,
    TOP_BINS,
    Bins,
    frauds_by_day,
    measure_calibration,
    population_stability,
    reliability,
)


def made(n=20_000, seed=0, level=-4.0):
    generator = np.random.default_rng(seed)
    true = 1 / (1 + np.exp(-(level + 1.5 * generator.normal(size=n))))
    return (generator.random(n) < true).astype(np.int8), true


def measured(label, probability, **settings):
    return measure_calibration(label, probability, generator=np.random.default_rng(1), **settings)


def plain_ece(label, probability, bins):
    """Payment by payment: sorted, cut into parts of the same size."""
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, bins)
    return sum(abs(label[part].sum() - probability[part].sum()) for part in parts) / len(label)


def test_the_figures():
    label, true = made()
    found = measured(label, true)
    metrics = found["metrics"]
    assert (found["n"], found["frauds"], found["bins"]) == (20_000, label.sum(), MAX_BINS)
    assert metrics["brier"]["value"] == pytest.approx(np.mean((true - label) ** 2))
    assert metrics["ece"]["value"] == pytest.approx(plain_ece(label, true, MAX_BINS), rel=1e-9)
    assert metrics["expected"]["value"] == pytest.approx(true.sum())
    assert metrics["ratio"]["value"] == pytest.approx(true.sum() / label.sum())
    for metric in metrics.values():
        assert metric["low"] <= metric["value"] <= metric["high"]


def test_true_probabilities_err_by_chance_alone_and_others_by_more():
    errors, chance = [], []
    for seed in range(8):
        label, true = made(seed=seed)
        ece = measured(label, true, replicates=0)["metrics"]["ece"]
        errors.append(ece["value"])
        chance.append(ece["by_chance"])
        wrong = measured(label, true**0.7, replicates=0)["metrics"]["ece"]
        assert wrong["value"] > 5 * ece["value"]
    assert np.mean(errors) == pytest.approx(np.mean(chance), rel=0.25)


def test_intervals_are_those_of_a_plain_bootstrap():
    label, true = made(6000, level=-2.5)
    found = measured(label, true**0.8, replicates=400)["metrics"]
    generator, probability = np.random.default_rng(2), true**0.8
    bins, drawn = Bins.of(probability), []
    for _ in range(400):
        weight = generator.poisson(1, len(label))
        apart = np.abs(bins.sums(weight * label) - bins.sums(weight * probability)).sum() / weight.sum()
        brier = (weight * (probability - label) ** 2).sum() / weight.sum()
        drawn.append((apart, brier, (weight * probability).sum() / (weight * label).sum()))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    for at, name in enumerate(("ece", "brier", "ratio")):
        width = high[at] - low[at]
        assert found[name]["low"] == pytest.approx(low[at], abs=0.15 * width)
        assert found[name]["high"] == pytest.approx(high[at], abs=0.15 * width)


def test_the_same_seed_gives_the_same_intervals():
    label, true = made(3000)
    assert measured(label, true) == measured(label, true)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.integers(0, 20), max_size=60), most=st.integers(1, 8))
def test_bins(values, most):
    """Equal values share a bin; every payment has one; no bin is empty."""
    probability = np.array(values, float) / 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tsa.evaluation.metrics.calibration.PER_BIN", 3)
        bins = Bins.of(probability, most)
    assert 1 <= len(bins) <= most
    assert (np.diff(bins.edges) >= 0).all()
    if values:
        assert bins.sums(np.ones(len(values))).min() > 0
        for value in set(values):
            assert len(set(bins.code[np.array(values) == value])) == 1
        assert (np.diff(bins.code[np.argsort(probability)]) >= 0).all()


def test_few_payments_have_few_bins():
    label, true = made(3 * PER_BIN)
    assert measured(label, true)["bins"] == 3
    assert measured(label[:10], true[:10])["bins"] == 1


def test_reliability():
    label, true = made()
    rows = reliability(label, true)
    assert [row["n"] for row in rows] == [1000] * (MAX_BINS - 1) + [100] * TOP_BINS
    assert sum(row["n"] for row in rows) == len(label)
    assert sum(row["frauds"] for row in rows) == label.sum()
    assert [row["expected"] for row in rows] == sorted(row["expected"] for row in rows)
    last = rows[-1]
    inside = true >= last["low"]
    assert last["expected"] == pytest.approx(true[inside].mean())
    interval = binomtest(int(label[inside].sum()), int(inside.sum())).proportion_ci(0.95)
    assert (last["observed_low"], last["observed_high"]) == pytest.approx((interval.low, interval.high))
    covered = sum(row["observed_low"] <= row["expected"] <= row["observed_high"] for row in rows)
    assert covered >= 0.85 * len(rows)
    assert len(reliability(label[:300], true[:300])) == 1


@pytest.mark.parametrize("frauds", [0, 3])
def test_few_frauds_have_no_interval(frauds):
    label = np.zeros(1000)
    label[:frauds] = 1
    metrics = measured(label, np.full(1000, 0.01))["metrics"]
    assert metrics["brier"]["value"] is not None
    assert metrics["brier"]["low"] is None
    assert "no interval below 10" in metrics["brier"]["reason"]
    if not frauds:
        assert metrics["ratio"] == {"value": None, "low": None, "high": None, "reason": "no fraud"}


def test_no_payments():
    assert measured(np.zeros(0), np.zeros(0)) == {"n": 0, "frauds": 0, "metrics": {}}
    assert reliability(np.zeros(0), np.zeros(0)) == []
    assert frauds_by_day(np.zeros(0), np.zeros(0), np.zeros(0)) == []
    assert population_stability(np.zeros(0), np.ones(3))["value"] is None


def test_population_stability():
    generator = np.random.default_rng(0)
    reference = generator.random(50_000)
    assert population_stability(reference, reference)["value"] == 0
    assert population_stability(reference, generator.random(50_000))["value"] < 0.001
    current = np.concatenate([generator.random(25_000) / 2, generator.random(75_000) / 2 + 0.5])
    found = population_stability(reference, current)
    expected = 0.25 * np.log(0.75 / 0.5) - 0.25 * np.log(0.25 / 0.5)
    assert found["value"] == pytest.approx(expected, abs=0.01)
    assert sum(row["current"] for row in found["bins"]) == pytest.approx(1)
    assert found["bins"][0]["low"] is None
    assert population_stability(reference, np.full(100, 0.99))["value"] > 5, "finite where a bin is empty"
    assert population_stability(np.full(100, 0.5), np.full(100, 0.5))["value"] == 0


def test_frauds_by_day():
    times = np.array([86_400.0 * 3 - 1, 86_400.0 * 3, 86_400.0 * 3 + 5, 86_400.0 * 5])
    found = frauds_by_day(np.array([1, 0, 1, 0]), np.array([0.5, 0.25, 0.5, 0.1]), times)
    assert found == [
        {"day": "1970-01-03", "n": 1, "observed": 1, "expected": 0.5},
        {"day": "1970-01-04", "n": 2, "observed": 1, "expected": 0.75},
        {"day": "1970-01-06", "n": 1, "observed": 0, "expected": 0.1},
    ]
