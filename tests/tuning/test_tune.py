"""The search for settings: what is tried, kept and given up; that it goes on where it was; the command."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from support.easy_log import FAST, TINY, Ended, alone, die
from tsa import optional_libraries
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, TrainingError
from tsa.files.locking import used_alone
from tsa.training.train_step import TrainStep
from tsa.tuning import tune as tuning
from tsa.tuning.search import Search
from tsa.tuning.space import Space
from tsa.tuning.tune import tune

pytest.importorskip("optuna")

FIXED = {f"training.{name}": value for name, value in FAST.items()} | {f"model.{name}": v for name, v in TINY.items()}
SPACE = {
    "training": {
        "learning_rate": {"low": 1e-3, "high": 0.05, "log": True},
        "genuine_per_fraud": [1.0, 2.0],
        "ema_decay": {"low": 0.0, "high": 0.9},
    },
    "model": {"n_order_layers": {"low": 1, "high": 2}},
}


def search(store: EventStore, space: dict[str, Any] | None = None, **changes: Any) -> Search:
    fixed = {key: value for key, value in FIXED.items() if key != "training.learning_rate"}
    return Search(
        **{
            "store": store,
            "fixed": fixed | {"training.epochs": 1, "training.checkpoint_every_minutes": 1e-4},
            "space": Space.from_dict(space or SPACE),
            **changes,
        }
    )


def tried(out: Path) -> pl.DataFrame:
    return pl.read_csv(out / "trials.csv").drop("seconds")


def searched(path: str, out: str, trials: int, dies_in: int | None = None, at: str = "its end") -> None:
    """Search in a process of its own, which is killed in a trial, or asked to stop."""
    original, learn, now = tuning.run_trial, TrainStep.step, None

    def run(search: Search, trial: Any, *rest: Any) -> Any:
        nonlocal now
        now = trial.number
        result = original(search, trial, *rest)
        if now == dies_in and at == "its end":
            die()
        return result

    def step(learner: TrainStep, *rest: Any) -> Any:
        made = learn(learner, *rest)
        if now == dies_in and learner.schedule.state_dict()["steps"] == 3 and at != "its end":
            die() if at == "its midst" else os.kill(os.getpid(), signal.SIGTERM)
        return made

    tuning.run_trial, TrainStep.step = run, step  # type: ignore[method-assign]
    tune(search(EventStore.open(path)), out, trials=trials)


@pytest.fixture(scope="module")
def whole(easy_store: EventStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of four trials."""
    out = tmp_path_factory.mktemp("whole") / "tuned"
    assert alone(searched, str(easy_store.path), str(out), 4) == Ended(0)
    return out


def test_what_it_writes(whole: Path) -> None:
    """All trials lie in the space, the first being the settings as they are; the best is the preset."""
    trials, best = pl.read_csv(whole / "trials.csv"), (whole / "best.toml").read_text()
    assert trials["trial"].to_list() == [0, 1, 2, 3]
    assert trials.row(0, named=True) | {"training.learning_rate": 0.0015, "model.n_order_layers": 2} == trials.row(
        0, named=True
    )
    assert trials["training.learning_rate"].is_between(1e-3, 0.05).all()
    assert trials["training.learning_rate"].n_unique() == 4
    value = trials["validation_average_precision"].max()
    assert f"validation_average_precision {value:.5f}." in best
    for number, trial in enumerate(trials["validation_average_precision"]):
        (epoch,) = json.loads((whole / "trials" / f"{number:04}" / "run.json").read_text())["epochs"]
        assert epoch["validation_average_precision"] == pytest.approx(trial)


def test_the_preset_trains_the_best_again(
    tsa: Callable[..., Any], whole: Path, easy_store: EventStore, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    made = tsa("train", easy_store.path, "--settings", whole / "best.toml", "--out", run, "-q")
    assert made.code == 0, made.err
    best = pl.read_csv(whole / "trials.csv")["validation_average_precision"].max()
    assert json.loads((run / "run.json").read_text())["epochs"][0]["validation_average_precision"] == best


@pytest.mark.parametrize(("trial", "at"), [(1, "its end"), (0, "its midst"), (1, "its midst"), (1, "a signal")])
def test_killed_and_gone_on_with(whole: Path, easy_store: EventStore, tmp_path: Path, trial: int, at: str) -> None:
    """The same trials, in the same order, as without the interruption; a finished search goes on with more of them."""
    out = tmp_path / "tuned"
    ended = alone(searched, str(easy_store.path), str(out), 2, trial, at)
    if at == "a signal":
        assert "TrainingStopped: stopped by a signal" in str(ended.error)
    else:
        assert ended.code == -9
    assert (out / "trials.csv").exists() == (trial > 0), "of the trials before"
    assert alone(searched, str(easy_store.path), str(out), 2) == Ended(0)
    assert tried(out).height == 2
    assert alone(searched, str(easy_store.path), str(out), 4) == Ended(0)
    assert tried(out).equals(tried(whole))
    assert (out / "best.toml").read_text() == (whole / "best.toml").read_text()


def test_rounds_do_not_depend_on_interruptions(easy_store: EventStore, tmp_path: Path) -> None:
    """Trials of a round know nothing of each other, also where they were trained by different calls."""
    made = search(easy_store, {"training": {"learning_rate": [1e-3, 0.01, 0.05]}}, round=2)
    at_once = tune(made, tmp_path / "once", trials=3)
    for trials in (1, 3):
        best = tune(made, tmp_path / "parts", trials=trials)
    assert best == at_once
    assert tried(tmp_path / "parts").equals(tried(tmp_path / "once"))
    with pytest.raises(ConfigError, match=r"holds another search .*round"):
        tune(search(easy_store, {"training": {"learning_rate": [1e-3, 0.01, 0.05]}}), tmp_path / "parts", trials=5)
    with pytest.raises(ConfigError, match=r"round must be at least 1 \(got 0\)"):
        search(easy_store, round=0)


def test_trials_that_cannot_be_trained_count(easy_store: EventStore, tmp_path: Path) -> None:
    """Two settings that are allowed alone and refused together."""
    sgd = {
        **{"training.epochs": 1, "training.optimizer": "sgd"},
        **{"training.lr_schedule": "one_cycle", "training.cycle_momentum": False},
    }
    made = search(
        easy_store, {"training": {"nesterov": [True, False], "momentum": [0.0, 0.5]}}, fixed={**FIXED, **sgd}, seed=1
    )
    best = tune(made, tmp_path, trials=6)
    trials = pl.read_csv(tmp_path / "trials.csv").rows(named=True)
    assert best.tried == len(trials) == 6
    refused = [trial for trial in trials if trial["refused"]]
    assert refused, "some trial drew both"
    for trial in refused:
        assert (trial["training.nesterov"], trial["training.momentum"], trial["state"]) == (True, 0.0, "pruned")
        assert "nesterov needs a momentum above 0" in trial["refused"]
    assert best.trial not in [trial["trial"] for trial in refused]


def test_what_is_worse_than_the_median_is_given_up(
    easy_store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsa.tuning.trial.N_STARTUP_TRIALS", 1)
    fixed = {key: value for key, value in FIXED.items() if key != "training.learning_rate"}
    made = search(easy_store, {"training": {"learning_rate": [0.05, 1e-7]}}, fixed=fixed, seed=3)
    best = tune(made, tmp_path, trials=5)
    trials = pl.read_csv(tmp_path / "trials.csv").rows(named=True)
    given_up = [trial for trial in trials if trial["state"] == "pruned"]
    assert given_up
    for trial in given_up:
        assert trial["training.learning_rate"] == 1e-7
        assert trial["validation_average_precision"] < best.value, "the last it came to"
        lines = (tmp_path / "trials" / f"{trial['trial']:04}" / "metrics.jsonl").read_text().splitlines()
        assert 1 <= len(lines) < 3
    assert best.settings["training.learning_rate"] == 0.05


def test_settings_that_cannot_be_trained_at_all(easy_store: EventStore, tmp_path: Path) -> None:
    """The first trial, which changes nothing, says so: it is no matter of the space."""
    made = search(easy_store, fixed={"training.batch_size": 100_000})
    with pytest.raises(TrainingError, match="an epoch must fill a batch"):
        tune(made, tmp_path, trials=3)
    assert not (tmp_path / "best.toml").exists()


def test_a_folder_of_something_else(whole: Path, easy_store: EventStore, tmp_path: Path) -> None:
    """Another search, other files, a file, or a search that is at work."""
    with pytest.raises(ConfigError, match="holds another search \\(that search, then this: seed: 0, 1"):
        tune(search(easy_store, seed=1), whole, trials=1)
    (tmp_path / "diary.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"must be empty or contain a search \(it contains diary\.txt\)"):
        tune(search(easy_store), tmp_path)
    with pytest.raises(ConfigError, match=r"must be a folder or not exist \(it is a file\)"):
        tune(search(easy_store), tmp_path / "diary.txt")
    with pytest.raises(ConfigError, match=r"trials must be at least 1 [(]got 0"):
        tune(search(easy_store), tmp_path / "new", trials=0)
    with used_alone(whole, "tsa tune"), pytest.raises(ConfigError, match="by one tsa tune at a time"):
        tune(search(easy_store), whole, trials=4)


def test_what_cannot_be_searched(easy_store: EventStore) -> None:
    for space, text in (
        ({"training": {"monitor": ["loss", "validation_roc_auc"]}}, "the space must not contain training.monitor"),
        ({"training": {"epochs": [1, 2]}}, "either set or searched [(]got both for training.epochs"),
        ({"training": {"patience": [0, 1]}}, r"space: training.patience: training.patience: .* at least 1"),
        ({"model": {"norm": ["pre", "past"]}}, r"space: model.norm: .*past"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=text):
            search(easy_store, space)
    with pytest.raises(ConfigError, match=r"training\.early_stopping must be on"):
        search(easy_store, fixed={"training.early_stopping": False})


def test_without_optuna(easy_store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional_libraries, "is_installed", lambda name: False)
    with pytest.raises(ConfigError, match=r"needs optuna, which is not installed: pip install 'tsa-fraud\[tune\]'"):
        tune(search(easy_store), tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


def test_the_command(tsa: Callable[..., Any], easy_store: EventStore, tmp_path: Path) -> None:
    """--set fixes, --space says what varies; the same command again has nothing left to do."""
    (tmp_path / "space.toml").write_text("[training]\nlearning_rate = { low = 1e-3, high = 0.05, log = true }\n")
    fixed = [word for key, value in FIXED.items() if "learning" not in key for word in ("--set", f"{key}={value}")]
    space = ("--space", tmp_path / "space.toml")
    words = ("tune", easy_store.path, "--out", tmp_path / "tuned", "--trials", 2, *space, *fixed, "-q")
    made = tsa(*words)
    assert (made.code, made.err) == (0, "")
    assert made.out.startswith("best of 2 trials: number ")
    assert made.out.endswith(f"settings: {tmp_path / 'tuned' / 'best.toml'}\n")
    assert "trial 1: {'training.learning_rate': " in (tmp_path / "tuned" / "tune.log").read_text()
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "tuned" / "trials").rglob("*")}
    assert tsa(*words) == made
    assert runs == {path: path.stat().st_mtime_ns for path in (tmp_path / "tuned" / "trials").rglob("*")}
    refused = tsa(*words, "--seed", 3)
    assert refused.code == 2
    assert "(that search, then this: seed: 0, 3)" in refused.err
