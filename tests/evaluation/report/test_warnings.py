"""Warnings of a report."""

from __future__ import annotations

from typing import Any

import pytest

from tsa.evaluation.report.sentences import operating_point
from tsa.evaluation.report.warnings import warnings_of


def weights(mean: float | None, floor: float = 0.0) -> dict[str, Any]:
    return {"floor": floor, "histories": [{"name": "a", "mean": 0.5}, {"name": "b", "mean": mean}]}


@pytest.mark.parametrize(
    ("form", "reason", "warns"), [("trees", "measured", True), ("combined", "measured", False), ("trees", "set", False)]
)
def test_a_network_that_adds_nothing(form: str, reason: str, warns: bool) -> None:
    choice = {
        "form": form,
        "reason": reason,
        "average_precision": {"network": 0.412, "trees": 0.731, "combined": 0.702},
        "differences": {"trees": {"difference": 0.029, "low": 0.004, "high": 0.055}},
        "confidence": 0.95,
    }
    found = warnings_of({"parts": {"choice": choice}})
    assert bool(found) == warns
    for text in ("0.731 against 0.702", "95 % interval of the difference +0.004 to +0.055", "network alone has 0.412"):
        assert not warns or text in found[0]


@pytest.mark.parametrize(
    ("mean", "floor", "warns"),
    [
        (0.003, 0.0, True),
        (0.05, 0.05, True),
        (0.06, 0.05, True),
        (0.10, 0.05, False),
        (0.2, 0.0, False),
        (None, 0.0, False),
    ],
)
def test_a_history_that_counts_for_nothing(mean: float | None, floor: float, warns: bool) -> None:
    found = warnings_of({"history_weights": weights(mean, floor)})
    assert len(found) == warns
    assert all("b history" in sentence for sentence in found)


def compared(verdict: str) -> dict[str, Any]:
    difference = {"a": 0.978, "b": 0.998, "difference": -0.02, "low": -0.03, "high": -0.01, "verdict": verdict}
    return {"comparison": {"model_name": "LightGBM", "validation": difference}}


def test_validation_clearly_behind_the_trees() -> None:
    (sentence,) = warnings_of(compared("b better"))
    assert "clearly behind LightGBM: average precision 0.978 against 0.998 (difference -0.020" in sentence
    assert not warnings_of(compared("no clear difference"))
    assert not warnings_of(compared("a better"))
    assert not warnings_of({})
    assert not warnings_of({"comparison": {"model_name": "LightGBM"}})


def measured(f1: float) -> dict[str, Any]:
    return {"metrics": {"precision": {"value": 0.5}, "recall": {"value": 0.5}, "f1": {"value": f1}}}


@pytest.mark.parametrize(
    ("verdict", "own", "other", "ahead"),
    [
        ("a better", 0.6, 0.5, None),
        ("a better", 0.5, 0.6, "LightGBM"),
        ("b better", 0.6, 0.5, "TSA"),
        ("b better", 0.5, 0.6, None),
        ("no clear difference", 0.5, 0.51, None),
        ("no clear difference", 0.5, 0.53, "LightGBM"),
    ],
)
def test_the_operating_point_is_mentioned_when_it_says_something_else(
    verdict: str, own: float, other: float, ahead: str | None
) -> None:
    difference = {"average_precision": {"verdict": verdict}}
    comparison = {"model_name": "LightGBM", "evaluation": measured(other), "difference": difference}
    sentence = operating_point(measured(own), comparison)
    assert sentence is None if ahead is None else str(sentence).startswith(f"At their thresholds, {ahead} is ahead")
    assert operating_point(measured(own), None) is None
