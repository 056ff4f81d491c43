"""What a run ends with: the best weights, scores of the ranges that were kept out, calibration, the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from support.easy_log import TINY, settings
from tsa.bundle.bundle import Bundle
from tsa.calibration.calibration import Calibration
from tsa.data.store.store import EventStore
from tsa.inference.score_parts import score_events
from tsa.inference.scorer import Scorer
from tsa.training import train


@pytest.mark.parametrize("parts", ["network", "combined"])
@pytest.mark.parametrize("changes", [{"epochs": 2}, {"epochs": 9, "patience": 1}], ids=["last epoch", "early"])
def test_scores_of_the_ranges_kept_out(
    easy_store: EventStore, tmp_path: Path, changes: dict[str, int], parts: str
) -> None:
    """However it ended: all payments of both ranges, with the very scores that the bundle gives."""
    bundle = train(easy_store, tmp_path / "run", model={**TINY, "parts": parts}, training=settings(**changes))
    ended_early = len(bundle.training["epochs"]) < changes["epochs"]
    assert ended_early == ("patience" in changes)
    stored = Bundle.open(tmp_path / "run" / "bundle")
    for name in ("validation", "calibration"):
        rows = np.arange(easy_store.split(name).start, easy_store.split(name).stop)
        found = pl.read_parquet(tmp_path / "run" / f"{name}_scores.parquet")
        assert found.columns == ["id", "time", "raw_score", "label"]
        assert found["id"].to_list() == easy_store.ids()[rows].to_list()
        assert found["time"].dtype == pl.Datetime("us", "UTC")
        np.testing.assert_allclose(found["time"].dt.timestamp("us") / 1e6, easy_store.time_seconds[rows])
        np.testing.assert_array_equal(found["label"], easy_store.label[rows])
        np.testing.assert_array_equal(found["raw_score"], Scorer(stored).score_rows(easy_store, rows))
        alone = score_events(stored.network, easy_store, rows)
        assert np.array_equal(found["raw_score"], alone) == (parts == "network")


def test_calibration_is_fitted_on_the_calibration_range(easy_store: EventStore, tmp_path: Path) -> None:
    changes = {"epochs": 1, "calibration": "sampling", "importance_sampling_every": 0, "genuine_per_fraud": 2.0}
    bundle = train(easy_store, tmp_path / "run", model={**TINY, "parts": "network"}, training=settings(**changes))
    scores = pl.read_parquet(tmp_path / "run" / "calibration_scores.parquet")
    expected = Calibration.fit(
        scores=scores["raw_score"],
        labels=scores["label"],
        method="sampling",
        sampling_rate_genuine=bundle.training["sampling_rate_genuine"],
    )
    stored = Bundle.open(tmp_path / "run" / "bundle").calibration
    assert stored is not None
    assert stored.to_dict() == expected.to_dict()
    assert stored.counts["payments"] == len(scores)
    assert stored.probability is not None


@pytest.mark.parametrize(
    ("train_on", "fitted_on"),
    [(("train",), "calibration"), (("train", "calibration"), "validation"), (("train", "validation"), "calibration")],
)
def test_no_calibration_on_what_was_learned_from(
    easy_store: EventStore, tmp_path: Path, train_on: tuple[str, ...], fitted_on: str
) -> None:
    config = settings(epochs=1, train_on=train_on, early_stopping="validation" not in train_on)
    calibration = train(easy_store, tmp_path / "run", model=TINY, training=config).calibration
    assert calibration is not None
    rows = easy_store.split(fitted_on)
    assert calibration.counts["payments"] == rows.stop - rows.start


def test_nothing_left_to_calibrate_on(easy_store: EventStore, tmp_path: Path) -> None:
    config = settings(epochs=1, train_on=("train", "validation", "calibration"), early_stopping=False)
    calibration = train(easy_store, tmp_path / "run", model=TINY, training=config).calibration
    assert calibration is not None
    assert calibration.percentile is None
    assert calibration.probability is None
    assert "were trained on or hold no payments" in str(calibration.note)
    assert Bundle.open(tmp_path / "run" / "bundle").calibration is not None
