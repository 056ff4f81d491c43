"""The original's two files of scores: written, and read back to the same maps."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsa.errors import ArtefactError, CalibrationError
from tsa.scoring.artefacts import BSPLINE, PERCENTILES, read_bspline, read_percentiles, write_original
from tsa.scoring.calibration import Calibration
from tsa.scoring.percentile import PercentileMap
from tsa.scoring.probability import BSplineMap, LogitMap

GENERATOR = np.random.default_rng(0)
SCORES = GENERATOR.beta(1, 8, 6000)
LABELS = (GENERATOR.random(6000) < SCORES / 4).astype(np.int8)


def test_an_imported_calibration_is_written_as_it_came(golden_scores: dict[str, Any], tmp_path: Path) -> None:
    percentile = PercentileMap.original(golden_scores["percentile_score"])
    spline = BSplineMap.original(golden_scores["bspline_parameters"])
    written = write_original(Calibration(percentile=percentile, probability=spline), tmp_path)
    assert [path.name for path in written] == [PERCENTILES, BSPLINE]
    assert pickle.loads((tmp_path / PERCENTILES).read_bytes()) == golden_scores["percentile_score"]
    assert json.loads((tmp_path / BSPLINE).read_text()) == golden_scores["bspline_parameters"]
    assert read_percentiles(tmp_path / PERCENTILES) == percentile
    assert read_bspline(tmp_path / BSPLINE) == spline


def test_a_calibration_of_our_own_in_their_form(tmp_path: Path) -> None:
    fitted = Calibration.fit(scores=SCORES, labels=LABELS)
    write_original(fitted, tmp_path)
    pairs = pickle.loads((tmp_path / PERCENTILES).read_bytes())
    assert len(pairs) == 1000
    assert [p for _, p in pairs] == pytest.approx(np.arange(1000) / 1000)
    below = np.searchsorted(np.sort(SCORES), [s for s, _ in pairs]) / len(SCORES)
    np.testing.assert_allclose(below, [p for _, p in pairs], rtol=0, atol=1e-3)
    assert {type(value) for pair in pairs for value in pair} == {float}
    assert fitted.percentile is not None
    difference = read_percentiles(tmp_path / PERCENTILES)(SCORES) - fitted.percentile(SCORES)
    assert np.abs(difference).max() <= 0.002
    assert read_bspline(tmp_path / BSPLINE) == fitted.probability


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="there is neither"):
        write_original(Calibration(), tmp_path)
    platt = Calibration(percentile=PercentileMap.fit(SCORES), probability=LogitMap("platt", 1, 1, 0))
    with pytest.raises(CalibrationError, match="holds a B-spline, however: the probability is platt"):
        write_original(platt, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [{"a": 1}, 3, "text", [1, 2], [[0.1, "x"], [0.2, "y"]], [[0.1, 0.2], [0.2]]])
def test_percentiles_that_are_none(content: Any, tmp_path: Path) -> None:
    (tmp_path / PERCENTILES).write_bytes(pickle.dumps(content))
    with pytest.raises(ArtefactError, match=r"percentile_score\.pkl must hold ascending pairs"):
        read_percentiles(tmp_path / PERCENTILES)


def test_percentiles_as_an_array(tmp_path: Path) -> None:
    (tmp_path / PERCENTILES).write_bytes(pickle.dumps(np.array([[0.1, 0.0], [0.2, 0.5]])))
    assert read_percentiles(tmp_path / PERCENTILES).scores == (0.1, 0.2)
