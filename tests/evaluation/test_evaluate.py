"""From a run folder to its report: the figures are those of the scores, and nothing of another training is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import BundleError, ConfigError, DataError, StoreError
from tsa.evaluation.evaluate import TrainedRun, compare_run, evaluate, verdict_sentence
from tsa.evaluation.trained_run import read_report
from tsa.training import TrainingConfig, train

QUICK = {"replicates": 10}
SMALL = {"width": 8, "n_heads": 2, "feedforward_width": 16}
TRAINING = {"epochs": 1, "batch_size": 64}


def retrain(run: Path, **changes: Any) -> None:
    train(run / "store", run, model=SMALL, training=TrainingConfig.make({**TRAINING, **changes}), overwrite=True)


@pytest.fixture(scope="module")
def report(demo_run: Path) -> dict[str, Any]:
    return read_report(demo_run)


def test_the_report_holds_the_figures(report: dict[str, Any], demo_run: Path, demo_store: EventStore) -> None:
    scores = pl.read_parquet(demo_run / "scores.parquet")
    assert scores.columns[:3] == ["id", "label", "raw_score"]
    rows = demo_store.labelled("test")
    assert scores["id"].to_list() == demo_store.ids()[rows].to_list()
    assert scores["label"].to_list() == demo_store.label[rows].tolist()
    found = report["evaluation"]
    assert (found["n"], found["frauds"]) == (len(rows), int(scores["label"].sum()))
    for name, metric in (("roc_auc", roc_auc_score), ("average_precision", average_precision_score)):
        value = found["metrics"][name]
        assert value["value"] == pytest.approx(metric(scores["label"], scores["raw_score"]), abs=1e-6)
        assert value["low"] <= value["value"] <= value["high"]
    assert report["market"]["fingerprint"] == demo_store.market.fingerprint
    assert report["data"]["rows_read"] == 6000
    assert report["data"]["splits"]["test"]["n"] == len(rows)
    assert report["data"]["splits"]["train"]["start"] >= "2025-01-11"
    account = json.loads((demo_run / "run.json").read_text())
    assert report["training"]["epochs"] == account["epochs"]
    assert report["model"]["sampling_rate_genuine"] == account["sampling_rate_genuine"]
    assert report["model"]["config"] == account["model"]


def test_the_page_shows_what_the_report_holds(report: dict[str, Any], demo_run: Path) -> None:
    page = (demo_run / "report.html").read_text()
    for found in (report["evaluation"], report["comparison"]["evaluation"]):
        for name in ("roc_auc", "average_precision"):
            assert f"{found['metrics'][name]['value']:.3f}" in page
    assert report["comparison"]["summary"].split(":")[0] in page or "LightGBM" in page
    assert report["market"]["fingerprint"] in page
    assert "6,000" in page
    for segment in ("channel", "merchant_category", "groceries"):
        assert segment in page
    assert "<script" not in page


def test_segments_are_the_markets_and_those_asked_for(
    report: dict[str, Any], own_run: Path, demo_store: EventStore
) -> None:
    assert [name for name, _ in _segments(report)] == ["channel", "merchant_category"]
    again = evaluate(own_run, segments=["country", "channel"], **QUICK)
    found = dict(_segments(again))
    assert set(found) == {"channel", "merchant_category", "country"}
    rows = demo_store.labelled("test")
    country = demo_store.columns(["country"])["country"].cast(pl.String)[rows]
    counts = {row["value"]: row["n"] for row in found["country"]}
    value, n = max(counts.items(), key=lambda item: item[1])
    assert n == int((country == value).sum())


def _segments(report: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    return list(report["evaluation"]["segments"].items())


def test_an_unknown_segment_is_refused_at_once(own_run: Path) -> None:
    (own_run / "scores.parquet").unlink()
    with pytest.raises(StoreError, match=r"(got colour)"):
        evaluate(own_run, segments=["colour"])
    assert not (own_run / "scores.parquet").exists()


def test_the_threshold(own_run: Path, report: dict[str, Any], demo_store: EventStore) -> None:
    scores = pl.read_parquet(own_run / "scores.parquet")
    middle = float(scores["raw_score"].median() or 0)
    found = evaluate(own_run, threshold=middle, **QUICK)["evaluation"]
    flagged = scores.filter(pl.col("raw_score").cast(pl.Float64) >= middle)
    assert found["threshold"] == middle
    assert found["metrics"]["precision"]["value"] == pytest.approx(flagged["label"].mean())
    assert found["metrics"]["recall"]["value"] == pytest.approx(flagged["label"].sum() / scores["label"].sum())
    assert report["evaluation"]["threshold"] == pytest.approx(_best_f1_by_search(demo_store, own_run), rel=1e-6)
    with pytest.raises(ConfigError, match="threshold must be finite"):
        evaluate(own_run, threshold=float("nan"))


def _best_f1_by_search(store: EventStore, run: Path) -> float:
    rows = store.labelled("validation")
    score = TrainedRun.open(run).scorer.score_rows(store, rows).astype(np.float64)
    label = store.label[rows]

    def f1(at: float) -> float:
        flagged = score >= at
        return 2 * (label[flagged] == 1).sum() / (flagged.sum() + (label == 1).sum())

    return max(np.sort(score), key=f1)


def test_evaluating_again_gives_the_same(own_run: Path, report: dict[str, Any]) -> None:
    again = evaluate(own_run)
    for key in ("evaluation", "comparison", "data", "model", "training"):
        assert json.loads(json.dumps(again[key])) == report[key], key
    assert read_report(own_run)["evaluation"] == report["evaluation"]


def test_the_comparison(report: dict[str, Any], demo_run: Path) -> None:
    comparison = report["comparison"]
    assert comparison["model_name"] == "LightGBM"
    assert comparison["evaluation"]["n"] == report["evaluation"]["n"]
    found = comparison["difference"]["average_precision"]
    assert found["a"] == pytest.approx(report["evaluation"]["metrics"]["average_precision"]["value"], abs=1e-6)
    assert found["b"] == pytest.approx(comparison["evaluation"]["metrics"]["average_precision"]["value"], abs=1e-6)
    assert found["difference"] == pytest.approx(found["a"] - found["b"])
    assert f"average precision {found['a']:.3f} against {found['b']:.3f}" in comparison["summary"]


def test_a_comparison_is_dropped_with_its_weights(own_run: Path) -> None:
    assert evaluate(own_run, **QUICK)["comparison"] is not None, "same weights: it stays"
    retrain(own_run, seed=11)
    with pytest.raises(ConfigError, match="was trained again after its report was made; run: tsa evaluate"):
        compare_run(own_run, **QUICK)
    report = evaluate(own_run, **QUICK)
    assert report["comparison"] is None
    assert read_report(own_run)["comparison"] is None
    assert "LightGBM" not in (own_run / "report.html").read_text()


def test_comparing_needs_an_evaluation(own_run: Path) -> None:
    (own_run / "scores.parquet").unlink()
    (own_run / "report.json").unlink()
    with pytest.raises(ConfigError, match="must be evaluated first: tsa evaluate"):
        compare_run(own_run)
    (own_run / "report.json").write_text("{ torn")
    with pytest.raises(ConfigError, match="must be evaluated first: tsa evaluate"):
        compare_run(own_run)


def _verdict(**found: Any) -> str:
    values = {"a": 0.8, "b": 0.7, "difference": 0.1, "low": 0.05, "high": 0.15, **found}
    return verdict_sentence({"average_precision": values})


def test_the_verdict_is_plain() -> None:
    expected = "TSA is better than LightGBM: average precision 0.800 against 0.700"
    assert _verdict(verdict="a better").startswith(expected)
    assert "95 % interval +0.050 to +0.150" in _verdict(verdict="a better")
    assert _verdict(verdict="b better").startswith("LightGBM is better than TSA")
    assert _verdict(verdict="no clear difference").startswith("No clear difference between TSA and LightGBM")
    assert _verdict(low=None, reason="3 frauds") == "TSA and LightGBM cannot be compared: 3 frauds."


def test_a_run_moves_with_its_store(demo_run: Path, tmp_path: Path) -> None:
    """Both inside one folder, which moves; and a run beside its store."""
    shutil.copytree(demo_run, tmp_path / "elsewhere" / "deep")
    assert len(TrainedRun.open(tmp_path / "elsewhere" / "deep").rows) > 0
    shutil.copytree(demo_run / "store", tmp_path / "one" / "store")
    train(tmp_path / "one" / "store", tmp_path / "one" / "run", model=SMALL, training=TrainingConfig.make(TRAINING))
    (tmp_path / "one").rename(tmp_path / "two")
    assert TrainedRun.open(tmp_path / "two" / "run").store.path == (tmp_path / "two" / "store").resolve()


def test_a_run_behind_a_link(demo_run: Path, tmp_path: Path) -> None:
    """What is beside a link is not beside what it points to."""
    shutil.copytree(demo_run / "store", tmp_path / "store")
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    train(tmp_path / "store", tmp_path / "link" / "run", model=SMALL, training=TrainingConfig.make(TRAINING))
    for path in (tmp_path / "link" / "run", tmp_path / "far" / "away" / "run"):
        assert TrainedRun.open(path).store.path == (tmp_path / "store").resolve()


def test_a_store_that_is_gone_or_another(own_run: Path, demo_log: Path) -> None:
    """The same market, but other payments: the figures would be of what the run was not trained on."""
    market = EventStore.open(own_run / "store").market
    other = demo_log.parent / "other.parquet"
    pl.read_parquet(demo_log).filter(pl.col("payment_id").hash() % 10 > 0).write_parquet(other)
    prepare(market, [str(other)], own_run / "store")
    with pytest.raises(StoreError, match=r"was prepared again after .* was trained on it"):
        evaluate(own_run)
    shutil.rmtree(own_run / "store")
    with pytest.raises(StoreError, match="is not a store"):
        evaluate(own_run)


def test_what_is_no_run(own_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere must be the folder of a run \(run\.json: No such file"):
        evaluate(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    account = json.loads((own_run / "run.json").read_text())
    for text in ("", "[]", "{}", "{ torn", json.dumps({"store": 3}), json.dumps({**account, "store": None})):
        (own_run / "run.json").write_text(text)
        with pytest.raises(ConfigError, match="must be the folder of a run"):
            evaluate(own_run)


def test_a_run_that_did_not_finish(own_run: Path) -> None:
    account = json.loads((own_run / "run.json").read_text())
    del account["finished"]
    (own_run / "run.json").write_text(json.dumps(account))
    with pytest.raises(ConfigError, match="must be the folder of a finished run"):
        evaluate(own_run)


def test_a_run_whose_bundle_was_changed(own_run: Path) -> None:
    (own_run / "bundle" / "encoder.json").write_text("{}")
    with pytest.raises(BundleError, match=r"encoder\.json was changed"):
        evaluate(own_run)


@pytest.mark.parametrize("outcome", [None, 0, 1])
def test_a_test_range_with_one_outcome(
    demo_log: Path, demo_store: EventStore, tmp_path: Path, outcome: int | None
) -> None:
    """Measured as far as that goes, or refused plainly; no crash."""
    inside = pl.col("paid_at") >= demo_store.market.split.ranges["test"][0].replace(tzinfo=None)
    fraud = pl.when(inside).then(pl.lit(outcome)).otherwise(pl.col("is_fraud"))
    pl.read_parquet(demo_log).with_columns(is_fraud=fraud).write_parquet(tmp_path / "log.parquet")
    prepare(demo_store.market, [str(tmp_path / "log.parquet")], tmp_path / "run" / "store")
    retrain(tmp_path / "run", early_stopping=False)
    if outcome is None:
        with pytest.raises(DataError, match=r"split.test must hold payments .* outcome is known, but none of \d+"):
            evaluate(tmp_path / "run", **QUICK)
        return
    report = evaluate(tmp_path / "run", **QUICK)
    assert report["evaluation"]["metrics"]["roc_auc"]["value"] is None
    assert "report.html" in {path.name for path in (tmp_path / "run").iterdir()}


def test_a_validation_range_without_fraud(demo_log: Path, demo_store: EventStore, tmp_path: Path) -> None:
    """No threshold can be found there: one half; and LightGBM has nothing to stop by."""
    start, end = (moment.replace(tzinfo=None) for moment in demo_store.market.split.ranges["validation"])
    inside = (pl.col("paid_at") >= start) & (pl.col("paid_at") < end)
    fraud = pl.when(inside).then(0).otherwise(pl.col("is_fraud"))
    pl.read_parquet(demo_log).with_columns(is_fraud=fraud).write_parquet(tmp_path / "log.parquet")
    prepare(demo_store.market, [str(tmp_path / "log.parquet")], tmp_path / "run" / "store")
    retrain(tmp_path / "run", early_stopping=False)
    assert evaluate(tmp_path / "run", **QUICK)["evaluation"]["threshold"] == 0.5
    with pytest.raises(DataError, match="validation rows must contain fraud and genuine payments"):
        compare_run(tmp_path / "run", **QUICK)


def test_a_null_key_is_no_entity(demo_log: Path, demo_store: EventStore, tmp_path: Path) -> None:
    """Payments without a customer are many unknown ones, not one very busy customer."""
    blank = pl.when(pl.int_range(pl.len()) % 2 == 0).then(None).otherwise(pl.col("customer_id"))
    pl.read_parquet(demo_log).with_columns(customer_id=blank).write_parquet(tmp_path / "log.parquet")
    prepare(demo_store.market, [str(tmp_path / "log.parquet")], tmp_path / "run" / "store")
    retrain(tmp_path / "run")
    run = TrainedRun.open(tmp_path / "run")
    payments = run.payments(np.zeros(len(run.rows)))
    assert payments.entity is not None
    missing = run.store.columns(["customer_id"])["customer_id"].is_null().to_numpy()[run.rows]
    assert ((payments.entity == -1) == missing).all()
    assert (payments.history_length["customer"][missing] == 1).all()


def test_both_models_have_the_k_of_the_report(own_run: Path) -> None:
    evaluate(TrainedRun.open(own_run, ["evaluation.top_k=7"]), **QUICK)
    comparison = compare_run(own_run, **QUICK)
    assert comparison["evaluation"]["settings"]["top_k"] == 7
    assert comparison["evaluation"]["metrics"]["precision_at_k"]["k"] == 7
