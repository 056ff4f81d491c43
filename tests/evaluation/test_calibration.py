"""What the report of a run says of its calibration: before and after, in parts, and since."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsa.bundle.bundle import Bundle
from tsa.calibration.calibration import Calibration
from tsa.evaluation.evaluate import evaluate
from tsa.evaluation.trained_run import WEIGHTS_SHA256, TrainedRun

QUICK = {"replicates": 20}


def calibrate(run: Path, **settings: Any) -> Calibration:
    """Fit on the run's calibration and validation ranges together (one alone is short here), and put it into the bundle."""
    opened = TrainedRun.open(run)
    store = opened.store
    rows = np.arange(store.split("validation").start, store.split("calibration").stop)
    fitted = Calibration.fit(scores=opened.scorer.score_rows(store, rows), labels=store.label[rows], **settings)
    replace(Bundle.open(run / "bundle"), calibration=fitted).save(run / "bundle")
    return fitted


@pytest.fixture
def calibrated_run(own_run: Path) -> Path:
    assert calibrate(own_run, method="platt").probability is not None
    return own_run


def test_before_and_after(calibrated_run: Path) -> None:
    report = evaluate(calibrated_run, **QUICK)
    found = report["calibration"]
    scores = pl.read_parquet(calibrated_run / "scores.parquet")
    assert scores.columns == ["id", "label", "raw_score", "percentile", "probability"]
    label = scores["label"].to_numpy()
    assert found["method"] == "platt"
    assert found["note"] is None
    for form, column in (("before", "raw_score"), ("after", "probability")):
        values = scores[column].cast(pl.Float64).to_numpy()
        assert found[form]["metrics"]["brier"]["value"] == pytest.approx(np.mean((values - label) ** 2))
        assert found[form]["metrics"]["expected"]["value"] == pytest.approx(values.sum())
        assert sum(row["n"] for row in found["reliability"][form]) == len(label)
    assert found["after"]["metrics"]["ece"]["value"] < found["before"]["metrics"]["ece"]["value"]
    assert sum(day["observed"] for day in found["per_day"]) == label.sum()
    assert sum(day["expected"] for day in found["per_day"]) == pytest.approx(scores["probability"].sum())
    channels = found["segments"]["channel"]
    assert sum(part["n"] for part in channels) == len(label)
    assert sum(part["after"]["expected"]["value"] for part in channels) == pytest.approx(scores["probability"].sum())
    assert json.loads((calibrated_run / "report.json").read_text())["calibration"]["method"] == "platt"
    page = (calibrated_run / "report.html").read_text()
    for text in (
        "Calibration: how accurate are the probabilities",
        "Reliability",
        "Frauds by day",
        "Calibration by channel",
    ):
        assert text in page
    assert f"{found['after']['metrics']['ece']['value']:.4f}" in page


def test_drift(calibrated_run: Path) -> None:
    found = evaluate(calibrated_run, **QUICK)["calibration"]["drift"]
    run = TrainedRun.open(calibrated_run)
    rows = run.store.labelled("calibration")
    assert (found["reference"], found["payments"]) == ("calibration", len(rows))
    assert found["observed"] == run.store.label[rows].sum()
    probability = run.scorer.with_calibration(run.scorer.score_rows(run.store, rows))["probability"]
    assert found["expected"] == pytest.approx(probability.sum(), rel=1e-4)
    assert 0 <= found["psi"]["value"] < 1
    page = (calibrated_run / "report.html").read_text()
    assert f"population stability index {found['psi']['value']:.3f}" in page


def test_scores_that_training_left_are_taken_as_they_are(calibrated_run: Path) -> None:
    """Not scored again; and none of another length, or of other weights."""
    run = TrainedRun.open(calibrated_run)
    weights = {WEIGHTS_SHA256: run.weights_hash}
    n = run.store.split("calibration").stop - run.store.split("calibration").start
    path = calibrated_run / "calibration_scores.parquet"
    pl.DataFrame({"raw_score": np.full(n, 0.999)}).write_parquet(path, metadata=weights)
    assert evaluate(calibrated_run, **QUICK)["calibration"]["drift"]["psi"]["value"] > 1
    pl.DataFrame({"raw_score": np.full(n, 0.999)}).write_parquet(path)
    assert evaluate(calibrated_run, **QUICK)["calibration"]["drift"]["psi"]["value"] < 1
    pl.DataFrame({"raw_score": np.full(n - 1, 0.999)}).write_parquet(path, metadata=weights)
    assert evaluate(calibrated_run, **QUICK)["calibration"]["drift"]["psi"]["value"] < 1


def test_without_probability_the_reason_is_shown(own_run: Path) -> None:
    fitted = calibrate(own_run)
    short = replace(fitted, probability=None, reasons={"probability": "a probability needs more (got less)"})
    for calibration, note in (
        (short, "There is no probability score: a probability needs more"),
        (None, "has no calibration"),
    ):
        replace(Bundle.open(own_run / "bundle"), calibration=calibration).save(own_run / "bundle")
        found = evaluate(own_run, **QUICK)["calibration"]
        assert found["after"] is None
        assert note in found["note"]
        assert found["before"]["metrics"]["ece"]["value"] > 0
        page = (own_run / "report.html").read_text()
        assert note in page
        assert "The raw scores taken as probabilities add up to" in page


def test_a_range_that_was_learned_from_is_no_reference(calibrated_run: Path) -> None:
    account = json.loads((calibrated_run / "run.json").read_text())
    for train_on, reference in (
        (["train", "calibration"], "validation"),
        (["train", "calibration", "validation"], None),
    ):
        account["training"]["train_on"] = train_on
        (calibrated_run / "run.json").write_text(json.dumps(account))
        assert evaluate(calibrated_run, **QUICK)["calibration"]["drift"]["reference"] == reference
    assert "no separate range was used for it" in (calibrated_run / "report.html").read_text()
