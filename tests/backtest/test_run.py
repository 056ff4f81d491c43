"""A backtest end to end: what each fold knows, what is measured, and that it continues where it was killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score

from support.easy_log import FAST, MARKET, TINY, alone, die, stored
from tsa.backtest import BacktestSchedule, BacktestSettings, backtest, fold
from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError
from tsa.evaluation.daily_queue import Costs
from tsa.evaluation.trained_run import TrainedRun
from tsa.inference.scorer import Scorer
from tsa.training import TrainingConfig, train
from tsa.training.checkpoint import Checkpoints

DAY = 86_400
FIRST = 1_525_651_200
"""7 May 2018, when the log begins."""
NOW = FIRST + 10 * DAY
SCHEDULE = BacktestSchedule(start=float(NOW), every=2.0 * DAY, test=2.0 * DAY)
SETTINGS = BacktestSettings(
    model={**TINY, "parts": "network"},
    training=TrainingConfig.make({**FAST, "epochs": 1}),
    costs=Costs(review=2.0),
    replicates=20,
)
"""Three folds, each trained in a second."""


def noisy(log: pl.DataFrame) -> pl.DataFrame:
    """The log with outcomes that the category does not decide: one in nine is another."""
    wrong = pl.col("id") * 7 % 9 == 0
    return log.with_columns(fraud=pl.when(wrong).then(1 - pl.col("fraud")).otherwise(pl.col("fraud")))


@pytest.fixture(scope="module")
def log(easy_log: Path) -> pl.DataFrame:
    return noisy(pl.read_parquet(easy_log))


@pytest.fixture(scope="module")
def store(log: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return stored(log, tmp_path_factory.mktemp("noisy"))


@pytest.fixture(scope="module")
def tested(store: EventStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a backtest, and its result. Not to be changed."""
    out = tmp_path_factory.mktemp("backtest") / "out"
    return out, backtest(store, out, schedule=SCHEDULE, settings=SETTINGS)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if key != "seconds"}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def test_a_fold_is_a_run_on_what_was_known(log: pl.DataFrame, tested: tuple[Path, Any], tmp_path: Path) -> None:
    """The same model, scores and metrics as `tsa prepare`, `train` and `evaluate` of a log that ends with the test range."""
    out, result = tested
    one = result["folds"][1]
    market = Market.from_dict({**MARKET, "split": one["ranges"]})
    log.filter(pl.col("time") < FIRST + 14 * DAY).write_parquet(tmp_path / "log.parquet")
    store = prepare(market, [str(tmp_path / "log.parquet")], tmp_path / "store")
    bundle = train(store, tmp_path / "run", model=SETTINGS.model, training=SETTINGS.training)
    assert bundle.model_sha256 == one["training"]["weights"]
    assert bundle.model_sha256 == Bundle.open(out / "folds" / "2018-05-19" / "bundle").model_sha256
    rows = store.labelled("test")
    scores = Scorer(bundle).score_rows(store, rows)
    written = pl.read_parquet(out / "folds" / "2018-05-19" / "scores.parquet")
    assert written["id"].to_list() == store.ids_of(rows).to_list()
    assert np.array_equal(written["model_score"].to_numpy().astype(np.float32), scores)
    measured = one["models"]["model"]
    expected = average_precision_score(store.label[rows], scores)
    assert measured["metrics"]["average_precision"]["value"] == pytest.approx(expected)
    run = TrainedRun.open(tmp_path / "run")
    assert measured["calibration"]["fitted_on"] == dict(run.scorer.bundle.calibration.counts)


def changed(log: pl.DataFrame, how: str) -> pl.DataFrame:
    """The log with other values where a model trained at NOW, or its measuring, must not look."""
    ends = NOW + 2 * DAY
    later = pl.col("time") >= ends
    if how == "fewer":
        return log.filter(~later | (pl.col("id") % 3 == 0))
    if how == "other":
        return log.with_columns(
            amount=pl.when(later).then(1e6).otherwise(pl.col("amount")),
            category=pl.when(later).then(pl.lit("new")).otherwise(pl.col("category")),
            customer=pl.when(later).then(pl.col("customer") * 0).otherwise(pl.col("customer")),
            fraud=pl.when(later).then(1 - pl.col("fraud")).otherwise(pl.col("fraud")),
        )
    assert how == "outcomes"
    unknown = pl.col("time") >= NOW - DAY
    return log.with_columns(fraud=pl.when(unknown).then(1 - pl.col("fraud")).otherwise(pl.col("fraud")))


@pytest.mark.parametrize("how", ["fewer", "other", "outcomes"])
def test_nothing_later_changes_a_fold(
    log: pl.DataFrame, tested: tuple[Path, dict[str, Any]], tmp_path: Path, how: str
) -> None:
    """Neither later events nor outcomes that are not known yet: not by a bit."""
    schedule = replace(SCHEDULE, end=float(NOW + 2 * DAY))
    made = backtest(stored(changed(log, how), tmp_path), tmp_path / "out", schedule=schedule, settings=SETTINGS)
    (ours,), theirs = made["folds"], tested[1]["folds"][0]
    assert ours["training"] == theirs["training"]
    for name, model in ours["models"].items():
        assert model["threshold"] == theirs["models"][name]["threshold"]
        for key in ("threshold", "chosen_on"):
            assert model["money"][key] == theirs["models"][name]["money"][key]
        assert model["calibration"]["fitted_on"] == theirs["models"][name]["calibration"]["fitted_on"]
        if how != "outcomes":  # those of the test range are what it is measured by
            same = {key: value for key, value in theirs["models"][name].items() if key != "ages"}
            assert {key: value for key, value in model.items() if key != "ages"} == same
            assert model["ages"][0] == theirs["models"][name]["ages"][0]
    assert how == "outcomes" or ours["differences"] == theirs["differences"]


def test_what_is_measured(tested: tuple[Path, dict[str, Any]]) -> None:
    _, result = tested
    assert [one["name"] for one in result["folds"]] == ["2018-05-17", "2018-05-19", "2018-05-21"]
    for one in result["folds"]:
        assert set(one["models"]) == {"model", "baseline"}
        for model in one["models"].values():
            precision = model["metrics"]["average_precision"]
            assert precision["low"] <= precision["value"] <= precision["high"]
            assert model["money"]["test"]["net"] <= model["money"]["hindsight_net"]
        assert set(one["differences"]) == {"baseline"}
    ages = [len(one["models"]["model"]["ages"]) for one in result["folds"]]
    assert ages == [3, 2, 1], "older models on later test ranges"
    mean = result["summary"]["models"]["model"]["metrics"]["average_precision"]["mean"]
    values = [one["models"]["model"]["metrics"]["average_precision"]["value"] for one in result["folds"]]
    assert mean == pytest.approx(np.mean(values))


def test_an_old_model_is_scored_on_later_payments(
    tested: tuple[Path, dict[str, Any]], store: EventStore, log: pl.DataFrame
) -> None:
    """The first fold's bundle on the last fold's payments, as `tsa score` would score them."""
    out, result = tested
    scorer = Scorer.load(out / "folds" / "2018-05-17" / "bundle")
    scored = scorer.score(log, start="2018-05-21", end="2018-05-23")
    label = scored.join(log.select("id", "fraud"), on="id", maintain_order="left")["fraud"]
    expected = average_precision_score(label, scored["raw_score"])
    (row,) = [row for row in result["folds"][0]["models"]["model"]["ages"] if row["fold"] == "2018-05-21"]
    assert row["average_precision"] == pytest.approx(expected)
    assert row["age_seconds"] == 4 * DAY


def test_a_finished_fold_is_used_as_it_is(store: EventStore, tested: tuple[Path, Any], tmp_path: Path) -> None:
    """An interruption between two folds, and one inside a fold; then the same result, and work is removed."""
    out, _ = tested
    calls: list[str] = []

    def interrupted(*arguments: Any, **given: Any) -> Any:
        calls.append("measure")
        if len(calls) == 4:  # the second model of the second fold
            raise KeyboardInterrupt
        return original(*arguments, **given)

    original, fold.measure = fold.measure, interrupted  # type: ignore[assignment]
    try:
        with pytest.raises(KeyboardInterrupt):
            backtest(store, tmp_path / "out", schedule=SCHEDULE, settings=SETTINGS)
    finally:
        fold.measure = original
    first = tmp_path / "out" / "folds" / "2018-05-17" / "fold.json"
    before = first.stat().st_mtime_ns
    assert not (tmp_path / "out" / "folds" / "2018-05-19" / "fold.json").exists()
    with pytest.raises(ConfigError, match="continue it with --resume"):
        backtest(store, tmp_path / "out", schedule=SCHEDULE, settings=SETTINGS)
    with pytest.raises(ConfigError, match="holds another backtest"):
        backtest(store, tmp_path / "out", schedule=replace(SCHEDULE, window=3.0 * DAY), settings=SETTINGS, resume=True)
    backtest(store, tmp_path / "out", schedule=SCHEDULE, settings=SETTINGS, resume=True)
    assert first.stat().st_mtime_ns == before
    ours, theirs = (json.loads((path / "backtest.json").read_text()) for path in (tmp_path / "out", out))
    assert without_times(ours) == without_times(theirs)
    assert not list((tmp_path / "out").glob("folds/*/work"))


def test_overwriting_trains_again(store: EventStore, tested: tuple[Path, Any], tmp_path: Path) -> None:
    one = replace(SCHEDULE, end=float(NOW + 2 * DAY))
    backtest(store, tmp_path / "out", schedule=one, settings=replace(SETTINGS, baseline=False))
    other = replace(SETTINGS, baseline=False, training=TrainingConfig.make({**FAST, "epochs": 1, "seed": 3}))
    made = backtest(store, tmp_path / "out", schedule=one, settings=other, overwrite=True)
    assert made["folds"][0]["training"]["weights"] != tested[1]["folds"][0]["training"]["weights"]


def test_folds_that_cannot_be_trained_are_left_out(log: pl.DataFrame, tmp_path: Path) -> None:
    """Without a fraud in the first week there is nothing to learn from then; the other folds are measured."""
    calm = log.with_columns(fraud=pl.when(pl.col("time") < FIRST + 7 * DAY).then(0).otherwise(pl.col("fraud")))
    store = stored(calm, tmp_path)
    settings = replace(SETTINGS, baseline=False)
    made = backtest(store, tmp_path / "out", schedule=SCHEDULE, settings=settings)
    assert ["skipped" in one for one in made["folds"]] == [True, False, False]
    assert "needs frauds and genuine payments" in made["folds"][0]["skipped"]
    assert (made["summary"]["folds"], made["summary"]["skipped"]) == (2, 1)
    early = replace(SCHEDULE, end=float(NOW + 2 * DAY))
    with pytest.raises(DataError, match="no fold could be trained and measured"):
        backtest(store, tmp_path / "early", schedule=early, settings=settings)


def test_refitting_is_compared(store: EventStore, tested: tuple[Path, Any], tmp_path: Path) -> None:
    """The refitted model learned from the later ranges too; the other one is as without refitting."""
    settings = replace(SETTINGS, baseline=False, refit=True)
    made = backtest(store, tmp_path / "out", schedule=replace(SCHEDULE, end=float(NOW + 2 * DAY)), settings=settings)
    (one,) = made["folds"]
    assert one["training"] == tested[1]["folds"][0]["training"]
    bundle = Bundle.open(tmp_path / "out" / "folds" / "2018-05-17" / "refitted")
    assert bundle.training["rows"]["train"]["n"] == sum(
        one["splits"][name]["n"] for name in one["splits"] if name != "test"
    )
    assert bundle.model_sha256 != one["training"]["weights"]
    assert one["models"]["refit"]["n"] == one["models"]["model"]["n"]
    assert one["models"]["refit"]["money"]["chosen_on"] == {
        **one["models"]["model"]["money"]["chosen_on"],
        "net": one["models"]["refit"]["money"]["chosen_on"]["net"],
    }
    assert (
        "Refitting on all known outcomes changed average precision by"
        in (tmp_path / "out" / "backtest.html").read_text()
    )


TWO_FOLDS = replace(SCHEDULE, end=float(NOW + 4 * DAY))
WARM = replace(SETTINGS, baseline=False, warm_start=True, max_age=0)


def dies_in_the_second_fold(store: str, out: str) -> None:
    saved = 0

    def save(*arguments: Any, **given: Any) -> None:
        nonlocal saved
        saved += 1
        original(*arguments, **given)
        if saved == 2:  # the first fold has one epoch
            die()

    original = Checkpoints.save
    Checkpoints.save = save  # type: ignore[method-assign]
    backtest(store, out, schedule=TWO_FOLDS, settings=WARM)


def test_each_network_starts_from_the_fold_before(store: EventStore, tested: tuple[Path, Any], tmp_path: Path) -> None:
    """The first fold is as without it. After a kill the same bits."""
    made = backtest(store, tmp_path / "out", schedule=TWO_FOLDS, settings=WARM)
    first, second = (one["training"] for one in made["folds"])
    cold = [one["training"]["weights"] for one in tested[1]["folds"]]
    assert first["weights"] == cold[0]
    assert first["warm_start"] == {"fresh": "no earlier fold was trained"}
    assert second["warm_start"]["from"] == "2018-05-17"
    assert second["warm_start"]["weights"] == first["weights"]
    assert second["weights"] != cold[1]
    assert "1 of 2 networks started from the weights" in (tmp_path / "out" / "backtest.html").read_text()
    assert alone(dies_in_the_second_fold, str(store.path), str(tmp_path / "killed")).code == -signal.SIGKILL
    assert not (tmp_path / "killed" / "folds" / "2018-05-19" / "fold.json").exists()
    backtest(store, tmp_path / "killed", schedule=TWO_FOLDS, settings=WARM, resume=True)
    ours, theirs = (json.loads((tmp_path / name / "backtest.json").read_text()) for name in ("killed", "out"))
    assert without_times(ours) == without_times(theirs)
    with pytest.raises(ConfigError, match="workers must be 1 with a warm start"):
        backtest(store, tmp_path / "two", schedule=SCHEDULE, settings=WARM, workers=2)


def test_a_fold_starts_only_from_models_that_did_not_see_what_judges_it(store: EventStore, tmp_path: Path) -> None:
    """The first model learns from its calibration range, which is later than the validation range of the second."""
    training = TrainingConfig.make({**FAST, "epochs": 1, "train_on": ["train", "calibration"]})
    made = backtest(
        store,
        tmp_path / "out",
        schedule=replace(TWO_FOLDS, validation=3.0 * DAY),
        settings=replace(WARM, training=training),
    )
    start = made["folds"][1]["training"]["warm_start"]
    assert start["fresh"].startswith("the model of 2018-05-17 learned from payments by which this one is stopped")
    assert "1 network after the first did not, because" in (tmp_path / "out" / "backtest.html").read_text()


def test_without_money_or_baseline(log: pl.DataFrame, tmp_path: Path) -> None:
    market = {**MARKET, "event": {"id": "id", "time": "time", "time_unit": "s"}}
    log.write_parquet(tmp_path / "log.parquet")
    store = prepare(Market.from_dict(market), [str(tmp_path / "log.parquet")], tmp_path / "store")
    made = backtest(
        store, tmp_path / "out", schedule=replace(SCHEDULE, test=1.0 * DAY), settings=replace(SETTINGS, baseline=False)
    )
    assert made["summary"]["models"]["model"]["money"] is None
    assert made["summary"]["differences"] == {}
    assert "not known without amounts" in (tmp_path / "out" / "backtest.html").read_text()


def test_the_page(tested: tuple[Path, dict[str, Any]]) -> None:
    page = (tested[0] / "backtest.html").read_text()
    for text in ("easy: backtest", "2018-05-19", "LightGBM", "How models age", "Money", "Calibration"):
        assert text in page
    assert "<script" not in page


def test_the_command(tsa: Callable[..., Any], log: pl.DataFrame, tested: tuple[Path, Any], tmp_path: Path) -> None:
    """From a log, it prints what Python returns; the market's ranges only give the shares."""
    log.write_parquet(tmp_path / "log.parquet")
    (tmp_path / "easy.toml").write_text(TOML)
    words = [tmp_path / "log.parquet", "--market", tmp_path / "easy.toml", "--from", "2018-05-17", "--every", "2d"]
    words += ["--test", "2d", "--cost-review", 2, "--replicates", 20, "--out", tmp_path / "out", "-q"]
    for key, value in {**SETTINGS.model, **{f"training.{k}": v for k, v in {**FAST, "epochs": 1}.items()}}.items():
        words += ["--set", f"{key if '.' in key else f'model.{key}'}={json.dumps(value)}"]
    made = tsa("backtest", *words, "--json")
    assert made.code == 0, made.err
    printed = json.loads(made.out)
    assert without_times(printed["folds"]) == without_times(tested[1]["folds"])
    again = tsa("backtest", *words)
    assert again.code == 2
    assert "continue it with --resume" in " ".join(again.err.split())
    shown = tsa("backtest", *words, "--resume")
    assert shown.code == 0, shown.err
    assert "2018-05-21" in shown.out
    assert "TSA reaches average precision" in shown.out


TOML = """
name = "easy"
event = { id = "id", time = "time", time_unit = "s", amount = "amount" }
label = { column = "fraud", delay_days = 1, as_feature = true }
history = [{ name = "customer", key = "customer", length = 4 }]

[features]
categorical = ["category"]
numerical = [{ name = "amount", transform = "log1p" }]

[split]
train = ["2018-05-07", "2018-05-17"]
validation = ["2018-05-17", "2018-05-19"]
calibration = ["2018-05-19", "2018-05-20"]
test = ["2018-05-21", "2018-05-23"]
"""
