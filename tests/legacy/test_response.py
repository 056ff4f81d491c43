"""The legacy system's answer, to the letter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tsa.calibration.calibration import Calibration
from tsa.calibration.percentile import PercentileMap
from tsa.calibration.probability_maps import BSplineMap
from tsa.errors import CalibrationError
from tsa.legacy.response import legacy_response, positional

PROBABILITY = "ProbabilityScore"


@pytest.fixture
def calibration(golden_scores: dict[str, Any]) -> Calibration:
    percentile = PercentileMap.from_legacy(golden_scores["percentile_score"])
    return Calibration(percentile=percentile, probability=BSplineMap.from_legacy(golden_scores["bspline_parameters"]))


def test_golden(golden_scores: dict[str, Any], calibration: Calibration) -> None:
    """Word for word, but for the last bit of NumPy's exp, which is not the same on every processor."""
    expected = golden_scores["expected"]
    together = legacy_response([one["raw"] for one in expected], calibration)["predictions"]
    for one, found in zip(expected, together, strict=True):
        assert legacy_response(one["raw"], calibration) == {"predictions": [found]}
        assert list(found) == ["score-percentile", "legacy-score", "ProbabilityScore"]
        assert {**found, PROBABILITY: ""} == {**one["response"], PROBABILITY: ""}
        assert float(found[PROBABILITY]) == pytest.approx(float(one["response"][PROBABILITY]), rel=1e-15, abs=0)


def test_never_in_powers_of_ten() -> None:
    for value in (1e-5, 1e-12, 5e-324, 1e22, 0.1, 1 / 3, float(np.float32(0.1))):
        text = positional(value)
        assert "e" not in text
        assert float(text) == value
    assert [positional(value) for value in (0.0, 1.0, 1e-7)] == ["0.0", "1.0", "0.0000001"]


def test_a_score_without_a_map_is_left_out(calibration: Calibration) -> None:
    assert legacy_response([0.5], Calibration()) == {"predictions": [{"legacy-score": "0.5"}]}
    (found,) = legacy_response([0.5], Calibration(percentile=calibration.percentile))["predictions"]
    assert list(found) == ["score-percentile", "legacy-score"]
    with pytest.raises(CalibrationError, match="raw score must be a finite number"):
        legacy_response([np.nan], calibration)
