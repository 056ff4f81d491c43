"""The report on declined payments: counts, and their scores next to those of measured payments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from support.history_case import MARKET, Case, frame, make_case, random_rows
from tsa.evaluation.declined import declined_note
from tsa.evaluation.evaluate_log import evaluate_bundle


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    label = {**MARKET["label"], "decision": {"column": "what", "values": ["declined"]}}
    rows = [{**row, "what": ("declined", "paid", "paid")[at % 3]} for at, row in enumerate(random_rows(600))]
    return make_case(tmp_path_factory.mktemp("declined"), {**MARKET, "label": label}, rows=rows)


def test_the_report_counts_declined_payments(case: Case, tmp_path: Path) -> None:
    report = evaluate_bundle(case.path, [case.log], tmp_path, replicates=10)
    declined = {row["id"] for row in case.rows if row["what"] == "declined"}
    scores = case.offline(case.rows)
    found = report["declined"]
    assert (found["payments"], found["share"]) == (200, pytest.approx(1 / 3))
    median = float(np.median([scores[id_] for id_ in declined]))
    assert found["score_quantiles"]["0.5"] == pytest.approx(median, abs=1e-6)
    measured = pl.read_parquet(tmp_path / "scores.parquet")
    assert not declined & set(measured["id"])
    assert json.loads((tmp_path / "report.json").read_text())["declined"] == found
    assert "were declined and have no outcome" in (tmp_path / "report.html").read_text()


def test_without_declined_payments_nothing_is_said(case: Case, tmp_path: Path) -> None:
    frame([{**row, "what": "paid"} for row in case.rows]).write_parquet(tmp_path / "log.parquet")
    report = evaluate_bundle(case.path, [tmp_path / "log.parquet"], tmp_path / "out", replicates=10)
    assert report["declined"]["payments"] == 0
    assert declined_note(report["declined"]) == declined_note(None) == []
