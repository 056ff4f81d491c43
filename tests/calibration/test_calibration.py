"""A calibration has what can be fitted, and says why it lacks the rest."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tsa.calibration.calibration import Calibration
from tsa.calibration.percentile import PercentileMap
from tsa.calibration.probability_maps import BSplineMap, LogitMap
from tsa.errors import CalibrationError

GENERATOR = np.random.default_rng(0)
SCORES = GENERATOR.beta(1, 8, 6000)
LABELS = (GENERATOR.random(6000) < SCORES / 4).astype(np.int8)


def test_percentile_of_all_and_probability_of_the_labelled() -> None:
    labels = np.where(GENERATOR.random(6000) < 0.3, -1, LABELS)
    known = labels >= 0
    fitted = Calibration.fit(scores=SCORES, labels=labels)
    assert fitted.percentile == PercentileMap.fit(SCORES)
    assert fitted.probability is not None
    assert fitted.probability(SCORES[known]).sum() == pytest.approx(labels[known].sum(), rel=1e-3)
    assert fitted.counts == {"payments": 6000, "labelled": known.sum(), "frauds": (labels == 1).sum()}
    assert (fitted.reasons, fitted.note) == ({}, None)
    assert fitted.percentile([[0.1, 0.2]]).shape == (1, 2)
    assert set(fitted.columns(SCORES.astype(np.float32))) == {"percentile", "probability"}


@pytest.mark.parametrize("method", ["bspline", "isotonic", "platt", "beta", "sampling"])
def test_round_trip(method: str) -> None:
    fitted = Calibration.fit(scores=SCORES, labels=LABELS, method=method, sampling_rate_genuine=0.1)
    assert fitted.probability is not None
    assert fitted.probability.method == method
    again = Calibration.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    for name, column in fitted.columns(SCORES).items():
        assert again.columns(SCORES)[name].tobytes() == column.tobytes()


@pytest.mark.parametrize(
    ("scores", "labels", "lacking", "reason"),
    [
        (SCORES[:900], LABELS[:900], ["probability"], r"at least 1,000 payments .* [(]got 900 payments"),
        (SCORES, np.where(np.cumsum(LABELS) > 9, 0, LABELS), ["probability"], "6,000 payments, 9 frauds"),
        (SCORES, np.full(6000, -1), ["probability"], r"[(]got 0 payments, 0 frauds"),
        (np.full(6000, 0.25), LABELS, ["percentile", "probability"], "different scores"),
        (np.arange(6000) % 3 / 2, LABELS, ["probability"], r"11 different scores or more [(]got 3"),
        (SCORES[:0], LABELS[:0], ["percentile", "probability"], r"[(]got 0 payments"),
    ],
    ids=["few rows", "few frauds", "no labels", "all equal", "few scores", "nothing"],
)
def test_what_cannot_be_fitted_is_left_out(scores: Any, labels: Any, lacking: list[str], reason: str) -> None:
    fitted = Calibration.fit(scores=scores, labels=labels)
    assert sorted(fitted.reasons) == lacking
    assert (fitted.percentile is None) == ("percentile" in lacking)
    assert fitted.probability is None
    assert set(fitted.columns([0.5])) == {"percentile", "probability"} - set(lacking)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(fitted.reasons["probability"])
    assert fitted.note is not None
    assert fitted.note.startswith("There is no ")
    assert Calibration.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


def test_sampling_needs_the_rate() -> None:
    fitted = Calibration.fit(scores=SCORES, labels=np.full(6000, -1), method="sampling", sampling_rate_genuine=0.2)
    assert fitted.probability == LogitMap.sampling(0.2)
    assert (
        "sampling_rate_genuine"
        in Calibration.fit(scores=SCORES, labels=LABELS, method="sampling").reasons["probability"]
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"labels": LABELS[1:]}, r"must both have shape \(n,\)"),
        ({"labels": LABELS * 2}, "labels must be 1, 0 or -1"),
        ({"scores": SCORES * 20}, r"scores must lie in \[0, 1\]"),
        ({"scores": np.where(SCORES < 0.01, np.nan, SCORES)}, "calibration score must be a finite number"),
        ({"method": "magic"}, r"method must be one of bspline, .* [(]got 'magic'"),
    ],
)
def test_what_no_map_could_mend_is_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(CalibrationError, match=text):
        Calibration.fit(**{"scores": SCORES, "labels": LABELS, **settings})


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"version": 1},
        {"version": 2},
        {"version": 2, "percentile": 3, "probability": None, "counts": {}, "reasons": {}},
        [],
    ],
)
def test_what_is_no_calibration(table: Any) -> None:
    with pytest.raises(CalibrationError, match="calibration"):
        Calibration.from_dict(table)


def test_maps_are_checked_on_the_way_in() -> None:
    table = Calibration(percentile=PercentileMap.fit(SCORES), probability=LogitMap("platt", 1.0, 1.0, 0.0)).to_dict()
    table["percentile"]["scores"][5] = -1.0
    with pytest.raises(CalibrationError, match="must rise"):
        Calibration.from_dict(table)
    table["percentile"] = None
    table["probability"]["a"] = -2.0
    with pytest.raises(CalibrationError, match="must not be below 0"):
        Calibration.from_dict(table)


def test_same_scores_same_maps() -> None:
    """In any order, on any day: nothing is drawn."""
    order = GENERATOR.permutation(6000)
    first, second = (Calibration.fit(scores=SCORES[o], labels=LABELS[o]) for o in (np.arange(6000), order))
    assert first.percentile == second.percentile
    assert isinstance(first.probability, BSplineMap)
    assert isinstance(second.probability, BSplineMap)
    np.testing.assert_allclose(first.probability.coefficients, second.probability.coefficients, rtol=1e-9)
