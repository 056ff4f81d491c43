"""Training, from a store to a run folder: it learns, it can be repeated to the bit, and it says what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import average_precision_score

from support.easy_log import FAST, MARKET, TINY, stored
from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, TrainingError
from tsa.inference.score_parts import score_events
from tsa.training import TrainingConfig, train
from tsa.training.data.sampler import genuine_sampling_rate
from tsa.training.epoch_stats import reproducible
from tsa.training.train_model import ensure_run_folder, network_settings


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.make({**FAST, **changes})


@pytest.fixture(scope="module")
def easy(easy_log: Path, tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return stored(pl.read_parquet(easy_log), tmp_path_factory.mktemp("easy-store"))


@pytest.fixture(scope="module")
def trained(easy: EventStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    run = tmp_path_factory.mktemp("easy-run") / "run"
    return run, train(easy, run, model=TINY, training=config())


@pytest.fixture(scope="module")
def hopeless(easy_log: Path, tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    """Labels that nothing tells: what an epoch does to validation is chance."""
    log = pl.read_parquet(easy_log).with_columns(pl.col("fraud").shuffle(seed=5))
    return stored(log, tmp_path_factory.mktemp("hopeless-store"))


def weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    return dict(bundle.network.state_dict())


def same(left: Bundle, right: Bundle) -> bool:
    return all(torch.equal(value, weights(right)[name]) for name, value in weights(left).items())


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def validation_scores(bundle: Bundle, store: EventStore) -> tuple[np.ndarray, np.ndarray]:
    rows = store.labelled("validation")
    return store.label[rows], score_events(bundle.network, store, rows)


def test_it_learns_what_is_easy(trained: tuple[Path, Bundle], easy: EventStore) -> None:
    losses = [epoch["loss"] for epoch in read(trained[0], "run.json")["epochs"]]
    assert losses[-1] < 0.3 * losses[0]
    label, score = validation_scores(trained[1], easy)
    assert average_precision_score(label, score) > 0.95


def test_the_run_folder_tells_all(trained: tuple[Path, Bundle], easy: EventStore) -> None:
    run, bundle = trained
    account = read(run, "run.json")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert account["epochs"] == lines
    assert reproducible(lines) == bundle.training["epochs"]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    for name in ("loss", "learning_rate", "gradient_norm", "payments_per_second", "seconds"):
        assert all(line[name] > 0 for line in lines), name
    assert all(0 <= line["validation_average_precision"] < 1 + 1e-9 for line in lines)
    assert account["training"] == config().model_dump(mode="json")
    assert account["model"] == json.loads(json.dumps(bundle.config.to_dict()))
    assert account["market_fingerprint"] == easy.market.fingerprint
    assert account["started"] <= account["finished"]
    assert {"python", "torch", "numpy", "threads"} <= account["environment"].keys()
    rows = easy.labelled("train")
    assert account["rows"]["train"] == {"n": len(rows), "frauds": int((easy.label[rows] == 1).sum())}
    made = {"bundle", "run.json", "metrics.jsonl", "checkpoints", "curves.png"}
    assert {path.name for path in run.iterdir()} == made | {"validation_scores.parquet", "calibration_scores.parquet"}


@pytest.mark.parametrize("ratio", [0.5, 3.0, 1000.0])
def test_the_sampling_rate_is_recorded(easy: EventStore, tmp_path: Path, ratio: float) -> None:
    bundle = train(easy, tmp_path, model=TINY, training=config(epochs=1, genuine_per_fraud=ratio))
    label = easy.label[easy.labelled("train")]
    frauds, genuine = (int((label == value).sum()) for value in (1, 0))
    expected = min(genuine, round(ratio * frauds)) / genuine
    assert bundle.training["sampling_rate_genuine"] == expected == genuine_sampling_rate(label, ratio)
    assert Bundle.open(tmp_path / "bundle").training["sampling_rate_genuine"] == expected


@pytest.mark.usefixtures("one_thread")
def test_a_seed_gives_the_same_weights_to_the_bit(easy: EventStore, tmp_path: Path) -> None:
    first, again, other = (
        train(easy, tmp_path / name, model=TINY, training=config(seed=seed))
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert same(first, again)
    assert not same(first, other)
    assert same(first, Bundle.open(tmp_path / "first" / "bundle"))


def test_early_stopping_keeps_the_best_epoch(hopeless: EventStore, tmp_path: Path) -> None:
    settings = config(epochs=30, patience=2, learning_rate=0.05, ema_decay=0.0)
    bundle = train(hopeless, tmp_path, model=TINY, training=settings)
    found = [epoch["validation_average_precision"] for epoch in bundle.training["epochs"]]
    best = bundle.training["best_epoch"]
    assert best == int(np.argmax(found)) + 1
    assert len(found) == best + 2 < 30, "two epochs without a better one, and it stops"
    label, score = validation_scores(Bundle.open(tmp_path / "bundle"), hopeless)
    assert average_precision_score(label, score) == pytest.approx(found[best - 1], abs=1e-9)
    assert found[best - 1] > found[-1]


def test_without_early_stopping_the_last_epoch_is_kept(hopeless: EventStore, tmp_path: Path) -> None:
    settings = config(epochs=6, patience=1, learning_rate=0.05, ema_decay=0.0, early_stopping=False)
    bundle = train(hopeless, tmp_path, model=TINY, training=settings)
    found = [epoch["validation_average_precision"] for epoch in bundle.training["epochs"]]
    assert len(found) == bundle.training["best_epoch"] == 6
    label, score = validation_scores(bundle, hopeless)
    assert average_precision_score(label, score) == pytest.approx(found[-1], abs=1e-9)


def relabelled(easy_log: Path, folder: Path, split: str, label: int | None) -> EventStore:
    start, end = MARKET["split"][split]
    time = pl.from_epoch("time")
    inside = (time >= pl.lit(start).str.to_datetime()) & (time < pl.lit(end).str.to_datetime())
    fraud = pl.when(inside).then(pl.lit(label)).otherwise(pl.col("fraud"))
    return stored(pl.read_parquet(easy_log).with_columns(fraud=fraud), folder)


@pytest.mark.parametrize("label", [0, 1, None])
def test_a_training_range_with_one_outcome_is_refused(easy_log: Path, tmp_path: Path, label: int | None) -> None:
    store = relabelled(easy_log, tmp_path, "train", label)
    with pytest.raises(TrainingError, match=r"training range must hold both outcomes [(]got frauds=\d+, genuine="):
        train(store, tmp_path / "run", model=TINY, training=config())
    assert not (tmp_path / "run").exists()


def test_a_training_range_of_frauds_and_minus_ones_says_what_these_mean(easy_log: Path, tmp_path: Path) -> None:
    log = pl.read_parquet(easy_log).with_columns(fraud=pl.when(pl.col("fraud") == 1).then(1).otherwise(-1))
    with pytest.raises(TrainingError, match=r"genuine=0, not known=\d{2,}\); a label of -1"):
        train(stored(log, tmp_path), tmp_path / "run", model=TINY, training=config())


@pytest.mark.parametrize("label", [0, 1, None])
def test_a_validation_range_with_one_outcome(easy_log: Path, tmp_path: Path, label: int | None) -> None:
    """It cannot say when to stop: by default there is no early stopping then, and asking for it is refused."""
    store = relabelled(easy_log, tmp_path, "validation", label)
    with pytest.raises(TrainingError, match="early stopping needs a validation range with both outcomes"):
        train(store, tmp_path / "run", model=TINY, training=config(early_stopping=True))
    bundle = train(store, tmp_path / "run", model=TINY, training=config(epochs=1))
    assert "the last epoch is used" in read(tmp_path / "run", "run.json")["adapted"][0]
    assert "validation_average_precision" not in bundle.training["epochs"][0]
    assert read(tmp_path / "run", "run.json")["finished"]


def test_an_epoch_must_fill_a_batch(easy: EventStore, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"epoch must fill a batch .* rows=\d+, batch_size=100000"):
        train(easy, tmp_path / "run", model=TINY, training=config(batch_size=100_000))


def test_a_loss_that_is_not_finite_stops_the_run(easy: EventStore, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"must be finite [(]got"):
        train(easy, tmp_path / "run", model=TINY, training=config(learning_rate=1e30, max_grad_norm=1e30))
    assert not (tmp_path / "run" / "bundle").exists()


def test_a_refused_training_leaves_the_run_as_it_was(
    easy: EventStore, trained: tuple[Path, Bundle], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(easy, run, model=TINY, training=config(epochs=1))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for model, changes in ((TINY, {"batch_size": 100_000}), ({"width": 7}, {}), ({"n_heads": 0}, {})):
        with pytest.raises((ConfigError, TrainingError)):
            train(easy, run, model=model, training=config(**changes))
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"n_categorical": 3}, "n_categorical must not be set"),
        ({"histories": ["x"]}, "histories must not be set"),
        ({"name": "x"}, "name must not be set"),
        ({"dropout": "abc"}, "dropout"),
        ({"widht": 8}, "widht"),
        ({"width": 10, "n_heads": 4}, "n_heads must divide width"),
    ],
)
def test_model_settings_are_checked(easy: EventStore, tmp_path: Path, model: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        train(easy, tmp_path / "run", model=model, training=config())
    assert not (tmp_path / "run").exists()


def test_the_market_says_whether_outcomes_are_an_input(easy: EventStore) -> None:
    assert easy.market.label.as_feature
    assert network_settings(easy, "default", {}).known_outcomes
    assert not network_settings(easy, "default", {"known_outcomes": False}).known_outcomes


def test_a_folder_of_other_things_is_refused(easy: EventStore, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"must be empty or contain a run \(it contains thesis\.tex\)"):
        train(easy, tmp_path, model=TINY, training=config())
    with pytest.raises(ConfigError, match="must be a folder or not exist"):
        train(easy, tmp_path / "thesis.tex", model=TINY, training=config())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_killed_run_left_may_be_replaced(tmp_path: Path) -> None:
    for name in ("run.log", "store", "metrics.jsonl", ".store.ab12.tmp", "metrics.jsonl.sagemaker-uploaded"):
        (tmp_path / name).touch()
        ensure_run_folder(tmp_path)


def test_a_path_serves_as_well_as_a_store(easy: EventStore, tmp_path: Path) -> None:
    train(str(easy.path), str(tmp_path / "run"), model=TINY, training=config(epochs=1))
    assert Bundle.open(tmp_path / "run" / "bundle").market == easy.market


ODD_MARKETS: dict[str, dict[str, Any]] = {
    "three histories": {
        "history": [{"name": name, "key": name, "length": 3} for name in ("customer", "category", "amount")]
    },
    "numbers alone": {"features": {"numerical": ["amount"]}},
    "categories alone": {"features": {"categorical": ["category"]}},
    "the calendar alone": {"features": {"calendar": ["hour_of_day"]}},
    "engineered features": {"features": {"categorical": ["category"], "engineered": ["amount", "time_of_day"]}},
    "fractions of the time": {"split": {"fractions": [0.7, 0.1, 0.1, 0.1]}},
    "outcomes are no input": {"label": {"column": "fraud", "delay_days": 1, "as_feature": False}},
}


@pytest.mark.parametrize("name", list(ODD_MARKETS))
def test_markets_of_many_shapes(easy_log: Path, tmp_path: Path, name: str) -> None:
    log = pl.read_parquet(easy_log).with_columns(time_of_day=(pl.col("time") % 86_400).cast(pl.Float64))
    log.write_parquet(tmp_path / "log.parquet")
    market = Market.from_dict({**MARKET, **ODD_MARKETS[name]})
    store = prepare(market, [str(tmp_path / "log.parquet")], tmp_path / "store")
    bundle = train(store, tmp_path / "run", model=TINY, training=config(epochs=1))
    rows = store.labelled("test")
    scores = [score_events(made.network, store, rows) for made in (bundle, Bundle.open(tmp_path / "run" / "bundle"))]
    np.testing.assert_array_equal(*scores)
    assert np.isfinite(scores[0]).all()
