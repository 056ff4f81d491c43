"""`tsa evaluate BUNDLE --log LOG`: the report of a test range for any bundle on any log, and the bundle stays as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tsa.data.store.store import EventStore
from tsa.evaluation.trained_run import read_report
from tsa.inference.scorer import Scorer

Tsa = Callable[..., Any]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_test_range_gives_what_the_run_got(
    tsa: Tsa, demo_run: Path, demo_log: Path, demo_store: EventStore, tmp_path: Path
) -> None:
    """Point in time: the whole log is given, and the payments of the window see what they saw in the run."""
    wanted, before = read_report(demo_run), content(demo_run / "bundle")
    first = wanted["data"]["splits"]["test"]["start"]
    made = tsa("evaluate", demo_run / "bundle", "--log", demo_log, "--from", first, "--out", tmp_path / "ev")
    assert made.code == 0, made.err
    assert content(demo_run / "bundle") == before
    report = json.loads((tmp_path / "ev" / "report.json").read_text())
    for key in ("n", "frauds", "metrics", "threshold", "confusion", "segments", "history_length", "curves"):
        assert report["evaluation"][key] == wanted["evaluation"][key], key
    for key in ("before", "after", "per_day", "segments"):
        assert report["calibration"][key] == wanted["calibration"][key], key
    assert report["data"]["splits"]["measured"]["n"] == wanted["data"]["splits"]["test"]["n"]
    assert report["model"]["weights"] == wanted["model"]["weights"]
    assert report["comparison"] is None
    assert "the one that the bundle was evaluated at, and was not chosen on these payments" in report["notes"][0]
    page = (tmp_path / "ev" / "report.html").read_text()
    assert "test payments" not in page
    assert "test range" not in page
    assert report["notes"][0] in page
    scores = pl.read_parquet(tmp_path / "ev" / "scores.parquet")
    assert scores.equals(pl.read_parquet(demo_run / "scores.parquet"))


def test_logs_of_many_files_and_a_threshold(
    tsa: Tsa, demo_run: Path, demo_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = pl.read_parquet(demo_log)
    log.head(3000).write_parquet(tmp_path / "a.parquet")
    log.tail(-3000).write_csv(tmp_path / "b.csv")
    monkeypatch.chdir(tmp_path)
    quick = ("--replicates", 10, "-q")
    made = tsa("evaluate", demo_run / "bundle", "--log", "a.parquet", "b.csv", "--threshold", 0.25, *quick)
    assert made.code == 0, made.err
    assert "report: evaluation/report.html" in made.out
    report = json.loads(Path("evaluation/report.json").read_text())
    known = log["is_fraud"].is_in([0, 1]).sum()
    assert report["evaluation"]["n"] == known
    assert report["evaluation"]["threshold"] == 0.25
    assert "in the train range" in report["notes"][1]
    assert report["bundle"]["logs"] == ["a.parquet", "b.csv"]
    twice = tsa("evaluate", demo_run, "--log", "a.parquet", "--log", "b.csv", "--out", "of-the-run", *quick)
    assert twice.code == 0, twice.err
    other = json.loads(Path("of-the-run/report.json").read_text())
    assert other["evaluation"]["metrics"]["roc_auc"]["value"] == report["evaluation"]["metrics"]["roc_auc"]["value"]


def test_what_is_refused(tsa: Tsa, demo_run: Path, demo_log: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(demo_run / "bundle", tmp_path / "bundle"))
    before = content(bundle)
    unknown = tmp_path / "unknown.parquet"
    pl.read_parquet(demo_log).with_columns(is_fraud=pl.lit(None, pl.Int8)).write_parquet(unknown)
    scores = tmp_path / "scores.parquet"
    shutil.copy(demo_log, scores)
    cases = {
        (bundle,): "a bundle must be evaluated on a log",
        (demo_run, "--out", tmp_path / "x"): "--out must go with --log",
        (bundle, "--log", demo_log, "--out", bundle): "must not be inside an input folder",
        (bundle, "--log", scores, "--out", tmp_path): "must not be an input",
        (bundle, "--log", unknown, "--out", tmp_path / "x"): "must contain payments whose outcome (is_fraud) is known",
        (bundle, "--log", demo_log, "--from", "2035-01-01", "--out", tmp_path / "x"): "got 0 payments",
        (bundle, "--log", demo_log, "--segment", "colour", "--out", tmp_path / "x"): "colour",
    }
    for arguments, text in cases.items():
        made = tsa("evaluate", *arguments)
        assert (made.code, text in made.err) == (2, True), (arguments, made.err)
    assert content(bundle) == before
    assert scores.read_bytes() == demo_log.read_bytes()
    assert not (tmp_path / "x" / "report.json").exists()


def test_a_row_that_breaks_a_rule_goes_to_quarantine(tsa: Tsa, demo_run: Path, demo_log: Path, tmp_path: Path) -> None:
    log = pl.read_parquet(demo_log)
    bad = log.with_columns(amount=pl.when(pl.int_range(pl.len()) == 5).then(float("inf")).otherwise(pl.col("amount")))
    bad.write_parquet(tmp_path / "bad.parquet")
    arguments = ("evaluate", demo_run / "bundle", "--log", tmp_path / "bad.parquet", "--out", tmp_path / "ev")
    assert tsa(*arguments).code == 2
    made = tsa(*arguments, "--quarantine", tmp_path / "aside.parquet", "--replicates", 10)
    assert made.code == 0, made.err
    assert len(pl.read_parquet(tmp_path / "aside.parquet")) == 1
    assert Scorer.load(demo_run / "bundle").bundle.metrics is not None
