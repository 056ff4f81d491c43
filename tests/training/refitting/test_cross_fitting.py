"""Train a run again on all known outcomes: what it learns from, what calibrates it, and that it continues when interrupted."""

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

from support.easy_log import FAST, MARKET, TINY, alone, die, run_command, side_by_side
from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError
from tsa.evaluation.evaluate import evaluate
from tsa.inference.scorer import Scorer
from tsa.model.network_and_trees import ALONE, raw_scores
from tsa.training import TrainingConfig, refit, train
from tsa.training.checkpoint import Checkpoints
from tsa.training.refitting import LEARNED, Recipe, ranges_until

DAY = 86_400
FIRST = 1_525_651_200


def log_of(easy_log: Path) -> pl.DataFrame:
    """The log with some outcomes that the category does not decide."""
    wrong = pl.col("id") * 7 % 9 == 0
    return pl.read_parquet(easy_log).with_columns(
        fraud=pl.when(wrong).then(1 - pl.col("fraud")).otherwise(pl.col("fraud"))
    )


def stored(log: pl.DataFrame, folder: Path) -> EventStore:
    """Outcomes are no input here, so that changing them changes targets alone."""
    log.write_parquet(folder / "log.parquet")
    market = Market.from_dict({**MARKET, "label": {"column": "fraud", "delay_days": 1}})
    return prepare(market, [str(folder / "log.parquet")], folder / "store")


@pytest.fixture(scope="module")
def store(easy_log: Path, tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return stored(log_of(easy_log), tmp_path_factory.mktemp("refit"))


@pytest.fixture(scope="module")
def run(store: EventStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of network and trees."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(
        store,
        out,
        model={**TINY, "parts": "combined", "n_tree_ensemble": 2},
        training=TrainingConfig.make({**FAST, "patience": 1}),
    )
    return out


@pytest.fixture(scope="module")
def refitted(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refitted") / "out"
    refit(run, out)
    return out


def test_it_learns_from_all_known_outcomes_as_the_run_did(run: Path, refitted: Path, store: EventStore) -> None:
    old, new = (Bundle.open(folder / "bundle") for folder in (run, refitted))
    metadata = json.loads((run / "run.json").read_text())
    known = sum(len(store.labelled(name)) for name in LEARNED)
    assert new.training["rows"]["train"]["n"] == known
    assert new.training["training"]["epochs"] == len(new.training["epochs"]) == metadata["best_epoch"]
    assert old.trees is not None
    assert new.trees is not None
    assert new.trees.trees.n_trees == pytest.approx(old.trees.trees.n_trees, abs=old.config.n_tree_ensemble / 2)
    assert new.trees.n_deep == old.trees.n_deep
    assert (new.config.width, new.config.parts) == (old.config.width, "combined")
    assert new.training["refit"]["weights"] == old.model_sha256
    assert new.joining.parts == ("network", "trees")
    assert new.calibration is not None
    assert new.calibration.counts["payments"] == sum(len(store.split_rows(name)) for name in LEARNED[1:])


@pytest.mark.parametrize("form", ["network", "trees"])
def test_the_form_that_the_run_chose_stays(run: Path, form: str) -> None:
    bundle = Bundle.open(run / "bundle")
    chosen = replace(bundle, config=bundle.config.model_copy(update={"parts": "auto"}), joining=ALONE[form])
    recipe = Recipe.from_bundle(chosen, json.loads((run / "run.json").read_text()), "run")
    assert recipe.model["parts"] == form


@pytest.mark.parametrize("name", ["validation", "calibration"])
def test_what_calibrates_it_did_not_learn_from_the_payments(refitted: Path, name: str) -> None:
    """The scores of a range are those of the model without it, joined by the weights of the bundle."""
    made, bundle = EventStore.open(refitted / "store"), Bundle.open(refitted / "bundle")
    other = Bundle.open(refitted / "cross_fit" / name / "bundle")
    assert name not in other.training["training"]["train_on"]
    rest = sum(len(made.labelled(range_)) for range_ in LEARNED if range_ != name)
    assert other.training["rows"]["train"]["n"] == rest
    log_odds = Scorer(other).model.log_odds_of_store(made, made.split_rows(name), ("network", "trees"))
    written = pl.read_parquet(refitted / f"{name}_scores.parquet")["raw_score"].to_numpy()
    assert np.array_equal(written, raw_scores(bundle.joining(log_odds)))


@pytest.mark.parametrize("name", ["validation", "calibration"])
def test_outcomes_of_a_range_do_not_reach_its_model(
    easy_log: Path, run: Path, refitted: Path, tmp_path: Path, name: str
) -> None:
    """Changing the outcomes of a range changes the refitted model, and not the one that scores this range."""
    start, end = EventStore.open(refitted / "store").market.split.ranges[name]
    inside = pl.col("time").is_between(start.timestamp(), end.timestamp(), closed="left")
    log = log_of(easy_log).with_columns(fraud=pl.when(inside).then(1 - pl.col("fraud")).otherwise(pl.col("fraud")))
    refit(run, tmp_path / "out", store=stored(log, tmp_path))
    for place, is_equal in (("bundle", False), (f"cross_fit/{name}/bundle", True)):
        one, other = (Bundle.open(out / place).model_sha256 for out in (refitted, tmp_path / "out"))
        assert (one == other) == is_equal


def test_it_is_measured_on_later_payments_only(refitted: Path, store: EventStore) -> None:
    report = evaluate(refitted, replicates=5)
    assert report["evaluation"]["n"] == len(store.labelled("test"))
    assert "This model was refitted from the run run" in report["notes"][0]
    assert report["calibration"]["drift"]["reference"] == "calibration"


def test_until_a_later_time(run: Path, store: EventStore, tmp_path: Path) -> None:
    """A day later, so that outcomes of 20 May are known; and to the end of the log, when nothing is left to measure on."""
    ranges = ranges_until(store, "2018-05-22")
    assert ranges["test"][0] == FIRST + 15 * DAY
    assert ranges["calibration"][1] == FIRST + 14 * DAY
    assert ranges["train"][0] == FIRST
    recipe = replace(
        Recipe.of(run), model={**TINY, "parts": "network"}, training=TrainingConfig.make({**FAST, "epochs": 1})
    )
    recipe = replace(recipe, training=recipe.training.model_copy(update={"early_stopping": False, "train_on": LEARNED}))
    trained = refit(recipe, tmp_path / "out", store=store, until=float(FIRST + 17 * DAY))
    assert trained.bundle.training["rows"]["train"]["n"] == 1600
    assert trained.bundle.calibration is not None
    with pytest.raises(DataError, match="--until of a refit"):
        evaluate(tmp_path / "out")
    with pytest.raises(ConfigError, match="outcomes must be known"):
        ranges_until(store, "2018-05-08")


def assert_equal(out: Path, other: Path) -> None:
    """The bundles are equal, except that one may have metrics."""
    ours, theirs = (replace(Bundle.open(run / "bundle"), metrics=None).contents() for run in (out, other))
    assert {name for name in ours if ours[name] != theirs[name]} == set()


def dies_after_a_checkpoint(number: int, run: str, out: str) -> None:
    """Refit in a process that kills itself after its `number`th checkpoint."""
    original, saved = Checkpoints.save, 0

    def save(*arguments: Any, **given: Any) -> None:
        nonlocal saved
        original(*arguments, **given)
        saved += 1
        if saved == number:
            die()

    Checkpoints.save = save  # type: ignore[method-assign]
    refit(run, out)


def test_killed_and_continued(run: Path, refitted: Path, tmp_path: Path) -> None:
    """By SIGKILL, in the second of the three trainings: the same bundle, to the bit."""
    out, number = tmp_path / "out", Recipe.of(run).training.epochs + 1
    assert alone(dies_after_a_checkpoint, number, str(run), str(out)).code == -signal.SIGKILL
    assert not (out / "bundle").exists()
    with pytest.raises(ConfigError, match="holds an unfinished refit; continue it with --resume"):
        refit(run, out)
    refit(run, out, resume=True)
    assert_equal(out, refitted)
    with pytest.raises(ConfigError, match="holds a finished run"):
        refit(run, out)
    assert refit(run, out, resume=True).is_written


def test_in_two_processes(run: Path, refitted: Path, tmp_path: Path) -> None:
    """As torchrun starts them: one folder and one line of output, and the trees of one process, to the bit."""
    words = ["train", "--refit", str(run), "--out", str(tmp_path / "out"), "--quiet"]
    first, second = side_by_side(2, run_command, words)
    assert (first.code, second.value) == (0, (0, "", "")), (first, second)
    assert first.value[0] == 0, first.value
    assert f"bundle: {tmp_path / 'out' / 'bundle'}" in first.value[1]
    ours, theirs = (Bundle.open(out / "bundle") for out in (tmp_path / "out", refitted))
    assert ours.trees is not None
    assert theirs.trees is not None
    assert ours.trees.trees.text == theirs.trees.trees.text
    assert ours.training["rows"] == theirs.training["rows"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["environment"]["processes"] == 2
    assert len(ours.training["epochs"]) == len(theirs.training["epochs"])
    assert ours.calibration is not None
    assert ours.calibration.counts == (theirs.calibration and theirs.calibration.counts)


def test_the_command(tsa: Callable[..., Any], run: Path, refitted: Path, tmp_path: Path) -> None:
    made = tsa("train", "--refit", run, "--out", tmp_path / "out", "-q")
    assert made.code == 0, made.err
    assert "it can be measured on" in made.out
    assert_equal(tmp_path / "out", refitted)
    refused = tsa("train", "--refit", run, "--out", tmp_path / "other", "--set", "training.epochs=3")
    assert refused.code == 2
    assert "uses the settings of the run, so --set must be left out" in " ".join(refused.err.split())
    assert tsa("train", "--out", tmp_path / "other").code == 2
    assert "tsa train needs a store" in tsa("train", "--out", tmp_path / "other").err
    assert tsa("train", "--refit", tmp_path / "none", "--out", tmp_path / "other").code == 2
    assert not (tmp_path / "other").exists()
