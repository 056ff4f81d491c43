"""Means, spread, sums and ages over folds, against plain arithmetic."""

from __future__ import annotations

from typing import Any

import pytest

from tsa.backtest.summary import METRICS, spread, summarise


def fold(name: str, precision: float | None, ages: list[tuple[str, float, float]], net: float) -> dict[str, Any]:
    value = {"value": precision, "low": None, "high": None}
    test = {"reviewed": 2, "caught": 1, "cost": 4.0, "saved": net + 4.0, "net": net, "missed": 1.0}
    model = {
        "metrics": dict.fromkeys(METRICS, value),
        "calibration": {"metrics": {"ratio": {"value": 1.5}, "ece": {"value": 0.1}}},
        "money": {"test": test, "hindsight_net": net + 1.0},
        "ages": [
            {"fold": later, "age_seconds": age, "average_precision": ap, "roc_auc": None, "net": net}
            for later, age, ap in ages
        ],
    }
    difference = {"difference": 0.1, "verdict": "a better"}
    return {
        "name": name,
        "models": {"model": model, "baseline": model},
        "differences": {"baseline": {"average_precision": difference, "roc_auc": {**difference, "difference": -0.1}}},
    }


FOLDS = [
    fold("a", 0.5, [("a", 0, 0.5), ("b", 7, 0.6), ("c", 14, 0.2)], 10.0),
    {"name": "x", "skipped": "no fraud"},
    fold("b", 0.7, [("b", 0, 0.7), ("c", 7, 0.3)], 20.0),
    fold("c", None, [("c", 0, 0.4)], 30.0),
]


def test_spread() -> None:
    assert spread([0.5, None, 0.7]) == {
        "mean": pytest.approx(0.6),
        "deviation": pytest.approx(0.141421, abs=1e-6),
        "lowest": 0.5,
        "highest": 0.7,
        "folds": 2,
    }
    assert spread([0.5])["deviation"] is None
    assert spread([None]) == {"mean": None, "deviation": None, "lowest": None, "highest": None, "folds": 0}


def test_folds_together() -> None:
    summary = summarise(FOLDS)
    assert (summary["folds"], summary["skipped"]) == (3, 1)
    model = summary["models"]["model"]
    assert model["metrics"]["average_precision"]["mean"] == pytest.approx(0.6)
    assert model["calibration"]["ratio"]["mean"] == 1.5
    assert (model["money"]["net"], model["money"]["hindsight_net"], model["money"]["caught"]) == (60.0, 63.0, 3)
    difference = summary["differences"]["baseline"]
    assert difference["average_precision"]["higher"] == difference["average_precision"]["better"] == 3
    assert difference["roc_auc"]["higher"] == 0


def test_ages_compare_on_the_same_payments() -> None:
    """A model of 7 days is compared with the new ones on b and c alone."""
    new, week, two = summarise(FOLDS)["models"]["model"]["ages"]
    assert (new["age_seconds"], new["test_ranges"], new["average_precision"]["difference"]) == (0, 3, 0.0)
    assert week["average_precision"]["aged"] == pytest.approx((0.6 + 0.3) / 2)
    assert week["average_precision"]["new"] == pytest.approx((0.7 + 0.4) / 2)
    assert week["average_precision"]["difference"] == pytest.approx(-0.1)
    assert two["average_precision"]["difference"] == pytest.approx(-0.2)
    assert week["net"]["difference"] == pytest.approx(-10.0)
    assert week["roc_auc"]["difference"] is None
