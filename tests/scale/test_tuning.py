"""A search whose trials are trained by a Ray cluster: the trials of one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from support.easy_log import FAST, TINY
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.tuning import tune as tuning
from tsa.tuning.search import Search, SharedSearch
from tsa.tuning.space import Space
from tsa.tuning.trial import PlannedTrial, TrialResult, run_in_cluster
from tsa.tuning.tune import tune

pytestmark = pytest.mark.slow
pytest.importorskip("optuna")

SPACE = "[training]\nlearning_rate = { low = 1e-3, high = 0.05, log = true }\n"
FIXED = {"batch_size": FAST["batch_size"], "epochs": 1}


def tried(out: Path) -> pl.DataFrame:
    return pl.read_csv(out / "trials.csv").drop("seconds")


def test_trials_are_those_of_one_process(
    ray: Any, easy_store: EventStore, tmp_path: Path, tsa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a worker is killed in a trial."""
    (tmp_path / "space.toml").write_text(SPACE)
    fixed = {f"training.{name}": value for name, value in FIXED.items()} | {f"model.{k}": v for k, v in TINY.items()}
    here = tune(
        Search(store=easy_store, fixed=fixed, space=Space.read(tmp_path / "space.toml"), round=2),
        tmp_path / "here",
        trials=3,
    )
    marker, kill = str(tmp_path / "killed"), int(signal.SIGKILL)

    def killed_once(shared: SharedSearch, trial: PlannedTrial) -> TrialResult:
        result = run_in_cluster(shared, trial)
        if trial.number == 1 and not os.path.exists(marker):
            open(marker, "w").close()
            trial.result.unlink()
            os.kill(os.getpid(), kill)
        return result

    monkeypatch.setattr(tuning, "run_in_cluster", killed_once)
    sets = [word for key, value in fixed.items() for word in ("--set", f"{key}={value}")]
    words = ("tune", easy_store.path, "--out", tmp_path / "there", "--trials", 3, "--space", tmp_path / "space.toml")
    outcome = tsa(*words, *sets, "--round", 2, "--executor", "ray")
    assert outcome.code == 0, outcome.err
    assert os.path.exists(marker)
    assert tried(tmp_path / "there").equals(tried(tmp_path / "here"))
    assert (tmp_path / "there" / "best.toml").read_text() == (tmp_path / "here" / "best.toml").read_text()
    assert f"best of 3 trials: number {here.trial}," in outcome.out


def test_a_folder_that_is_not_shared_is_refused(
    ray: Any, easy_store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(shared: SharedSearch, trial: PlannedTrial) -> TrialResult:
        return TrialResult(value=0.5, curve={1: 0.5}, seconds=1.0)

    monkeypatch.setattr(tuning, "run_in_cluster", elsewhere)
    with pytest.raises(ConfigError, match="must be a folder that all nodes of the cluster share"):
        tune(Search(store=easy_store), tmp_path / "out", trials=1, cluster=ray)
