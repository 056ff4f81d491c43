"""Probabilities: golden values of the B-spline, fits that recover what is true, and checks that fail where they must."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.optimize import LinearConstraint, minimize

from tsa.calibration import bspline
from tsa.calibration.bspline import fit_bspline, inner_knots
from tsa.calibration.probability_fit import METHODS, deviance, fit_probability
from tsa.calibration.probability_maps import BSplineMap, IsotonicMap, LogitMap, read_probability
from tsa.errors import CalibrationError

Floats = NDArray[np.float64]


def made(n: int = 40_000, *, level: float = -4.0, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Scores that are off, as after sampling; labels; and the true probabilities."""
    generator = np.random.default_rng(seed)
    eta = level + 1.5 * generator.normal(size=n)
    true = 1 / (1 + np.exp(-eta))
    raw = (1 / (1 + np.exp(-(0.8 * eta + 2.5)))).astype(np.float32).astype(np.float64)
    return raw, (generator.random(n) < true).astype(np.float64), true


def test_golden(golden_scores: dict[str, Any]) -> None:
    fitted = BSplineMap.from_legacy(golden_scores["bspline_parameters"])
    found = fitted([one["raw"] for one in golden_scores["expected"]])
    # the last bit of NumPy's exp is not the same on every processor
    np.testing.assert_allclose(found, [one["probability"] for one in golden_scores["expected"]], rtol=1e-15, atol=0)
    assert fitted.to_legacy() == golden_scores["bspline_parameters"]


def test_far_logits_are_certain() -> None:
    """1 where η > 25; and no overflow on the way."""
    fitted = BSplineMap(knots=(0,) * 4 + (1,) * 4, coefficients=(-800.0, 20.0, 30.0, 1e3))
    found = fitted([1e-9, 0.6, 0.99])
    assert found.tolist() == [0.0, 1.0, 1.0]
    level = BSplineMap(knots=(0,) * 4 + (1,) * 4, coefficients=(25.0, 25.0, 25.0, 25.0))
    assert 0.99 < level([0.5])[0] < 1


@pytest.mark.parametrize("method", METHODS)
def test_fits_recover_the_truth(method: str) -> None:
    raw, label, true = made()
    fitted = fit_probability(raw, label, method)
    found = fitted(raw)
    assert fitted.method == method
    assert np.abs(found - true).mean() < 0.005
    assert found.sum() == pytest.approx(label.sum(), rel=1e-3)
    fresh, outcome, truth = made(seed=1)
    assert deviance(fitted(fresh), outcome) < 1.01 * deviance(truth, outcome)
    assert deviance(fitted(fresh), outcome) < deviance(fresh, outcome) / 2, "raw scores are no probabilities"


@pytest.mark.parametrize("method", METHODS)
def test_order_is_kept(method: str) -> None:
    """However flat the data ask a map to be, two different scores keep different probabilities."""
    raw, label, _ = made(20_000)
    fitted = fit_probability(raw, label, method)
    different = np.unique(raw)
    assert (np.diff(fitted(different)) > 0).all()
    grid = np.linspace(-0.1, 1.1, 5001)
    assert (np.diff(fitted(grid)) >= 0).all()
    assert ((fitted(grid) >= 0) & (fitted(grid) <= 1)).all()


@pytest.mark.parametrize("method", METHODS)
def test_round_trip(method: str) -> None:
    raw, label, _ = made(3000)
    fitted = fit_probability(raw, label, method)
    again = read_probability(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    assert again(raw).tobytes() == fitted(raw).tobytes()


def test_the_spline_is_at_its_optimum() -> None:
    """No direction that the constraint allows lowers the loss: checked against SciPy's general solver."""
    raw, label, _ = made(3000, level=-2.0)
    knots, coefficients = fit_bspline(raw, label)
    data = bspline.Grouped.of(raw, label)
    basis = BSpline.design_matrix(data.score, knots, 3).toarray()

    def loss(c: Floats) -> float:
        eta = basis @ c
        return float(data.n @ np.logaddexp(0, eta) - data.frauds @ eta)

    def slope(c: Floats) -> Floats:
        return basis.T @ (data.n / (1 + np.exp(-np.clip(basis @ c, -700, 700))) - data.frauds)

    rising = LinearConstraint(np.diff(np.eye(len(coefficients)), axis=0), lb=0)
    start = np.linspace(-6, 1, len(coefficients))
    bounds = [(bspline.MIN_COEFFICIENT, None)] + [(None, None)] * (len(coefficients) - 1)
    options = {"maxiter": 500, "ftol": 1e-10}
    other = minimize(loss, start, jac=slope, method="SLSQP", constraints=rising, bounds=bounds, options=options)
    assert other.success
    assert loss(coefficients) <= other.fun + 0.01


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), level=st.floats(-5, 0), digits=st.integers(2, 6), n=st.integers(1000, 4000))
def test_any_scores_give_a_rising_map(seed: int, level: float, digits: int, n: int) -> None:
    raw, label, _ = made(n, level=level, seed=seed)
    if label.sum() < 10 or len(np.unique(raw.round(digits))) < 11:
        return
    fitted = fit_probability(raw.round(digits), label)
    assert isinstance(fitted, BSplineMap)
    assert (np.diff(fitted.coefficients) >= 0).all()
    assert (np.diff(fitted(np.linspace(0, 1, 2001))) >= 0).all()
    assert fitted(raw).sum() == pytest.approx(label.sum(), rel=0.02)


def test_frauds_and_genuine_apart() -> None:
    """Where the two do not overlap, the likelihood has no maximum; the fit ends all the same."""
    raw = np.linspace(0, 1, 4000)
    fitted = fit_probability(raw, (raw > 0.7).astype(float))
    assert (fitted(raw[raw < 0.65]) < 1e-3).all()
    assert (fitted(raw[raw > 0.75]) > 1 - 1e-3).all()


def test_knots() -> None:
    generator = np.random.default_rng(0)
    for n, count in ((5000, 20), (50_000, 50), (1_100_000, 100)):
        score = np.round(generator.random(n) ** 4, 6)
        knots = inner_knots(score, np.unique(score))
        expected = np.unique([*np.quantile(score, np.linspace(0, 1, count)), *np.linspace(0, 1, 11)])
        assert set(np.round(np.quantile(score, [0.9, 0.99]), 9)) <= set(np.round(knots, 9)), "denser towards 1"
        assert len(knots) <= len(expected) + 4
        assert len(knots) > count / 2
        held = np.diff(np.searchsorted(np.unique(score), [0.0, *knots, 1.1]))
        assert held.min() > 10


def test_intervals_with_few_points_are_merged() -> None:
    score = np.repeat([0.11, 0.12, 0.5, 0.51, 0.52], 1000)
    assert len(inner_knots(score, np.unique(score))) == 0
    score = np.concatenate([np.linspace(0, 0.2, 1000), [0.35, 0.55, 0.95]])
    knots = inner_knots(score, np.unique(score))
    assert knots[-1] < 0.2, "the three last points stand with others"


def test_sampling_gives_back_the_odds() -> None:
    true = np.array([0.001, 0.01, 0.2, 0.9])
    rate = 0.05
    odds = true / (1 - true) / rate
    np.testing.assert_allclose(LogitMap.sampling(rate)(odds / (1 + odds)), true, rtol=1e-9)
    assert LogitMap.sampling(1.0)(true) == pytest.approx(true)
    for rate in (0.0, -1.0, 1.5, None):
        with pytest.raises(CalibrationError, match=r"sampling_rate_genuine must lie in \(0, 1\]"):
            LogitMap.sampling(rate)


def test_scores_at_the_very_ends() -> None:
    for fitted in (
        LogitMap("platt", 1.3, 1.3, -2.0),
        LogitMap("beta", 0.5, 2.0, 0.0),
        IsotonicMap((0.2, 0.6), (0.0, 0.5)),
    ):
        found = fitted([-0.5, 0.0, 1e-30, 1.0, 1.5])
        assert np.isfinite(found).all()
        assert (np.diff(found) >= 0).all()
    with pytest.raises(CalibrationError, match="finite number"):
        LogitMap("platt", 1, 1, 0)(np.nan)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("frauds", "n", "text"),
    [
        (9, 5000, r"10 frauds and one genuine among them [(]got 5,000 payments, 9 frauds"),
        (300, 999, r"at least 1,000 payments .* [(]got 999 payments, 300 frauds"),
        (0, 5000, "0 frauds"),
        (2000, 2000, "one genuine"),
    ],
)
def test_too_little_to_learn_from(method: str, frauds: int, n: int, text: str) -> None:
    label = np.zeros(n)
    label[:frauds] = 1
    with pytest.raises(CalibrationError, match=text):
        fit_probability(np.linspace(0, 1, n), label, method)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_that_says_the_same_of_all_is_refused(method: str) -> None:
    """What keeps the order of scores on level stretches makes them no more telling."""
    score = np.random.default_rng(2).random(4000)
    label = (np.random.default_rng(3).random(4000) < 0.05 - 0.04 * score).astype(float)  # falls as the score rises
    with pytest.raises(CalibrationError, match="fails its check"):
        fit_probability(score, label, method)


@pytest.mark.parametrize("method", METHODS)
def test_the_self_check(method: str) -> None:
    """All scores equal, too few of them, or scores that are the wrong way round: no map, and the reason."""
    label = (np.arange(5000) % 20 == 0).astype(float)
    with pytest.raises(CalibrationError, match=r"needs 11 different scores or more [(]got 1"):
        fit_probability(np.full(5000, 0.5), label, method)
    with pytest.raises(CalibrationError, match=r"needs 11 different scores or more [(]got 5"):
        fit_probability(np.arange(5000) % 5 / 5, label, method)
    backwards = np.sort(np.random.default_rng(0).random(5000))
    with pytest.raises(CalibrationError, match="fails its check"):
        fit_probability(backwards, np.r_[np.ones(500), np.zeros(4500)], method)


@pytest.mark.parametrize(
    ("scores", "labels", "text"),
    [
        (np.full(2000, 1.1), np.zeros(2000), r"scores must lie in \[0, 1\]"),
        (np.full(2000, np.nan), np.zeros(2000), r"scores must lie in \[0, 1\]"),
        (np.full(2000, 0.1), np.full(2000, -1), "labels must be 0 or 1"),
        (np.full(2000, 0.1), np.zeros(1999), r"must both have shape \(n,\)"),
    ],
)
def test_bad_values_are_refused(scores: Floats, labels: Floats, text: str) -> None:
    with pytest.raises(CalibrationError, match=text):
        fit_probability(scores, labels)


def test_an_unknown_method() -> None:
    with pytest.raises(CalibrationError, match=r"method must be one of bspline, isotonic, platt, beta [(]got 'magic'"):
        fit_probability([0.1], [1], "magic")
    with pytest.raises(CalibrationError, match="probability method must be one of"):
        read_probability({"method": "magic"})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"status": "Failed"}, "status must be 'Success'"),
        ({"degree": 2}, "degree 3"),
        ({"coefficients": [0.0, 1.0]}, "as many coefficients as knots less 4"),
        ({"coefficients": [0.0, 1.0, 0.5, 2.0]}, r"coefficients must not fall [(]got 0.5 at 2"),
        ({"coefficients": [0.0, 1.0, float("nan"), 2.0]}, r"must not fall [(]got nan at 2"),
        ({"knots": [0, 0, 0, 0.1, 1, 1, 1, 1]}, "must begin with four 0"),
        ({"knots": [0, 0, 0, 0, 2, 2, 2, 2]}, "end with four 1"),
    ],
)
def test_broken_parameters_are_refused(changes: dict[str, Any], text: str) -> None:
    table = {"knots": [0] * 4 + [1] * 4, "coefficients": [0.0, 1.0, 1.0, 2.0], "degree": 3, "status": "Success"}
    BSplineMap.from_legacy(table)
    with pytest.raises(CalibrationError, match=text):
        BSplineMap.from_legacy({**table, **changes})
