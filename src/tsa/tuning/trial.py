"""One trial of a search: train with the chosen settings, in this process or by a worker of a cluster."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tsa.errors import ConfigError, TrainingError, TrainingStopped
from tsa.files.writing import write_json
from tsa.progress import Progress, silent
from tsa.training.tracking import epochs_of
from tsa.training.train_model import train
from tsa.tuning.search import Search, Settings, SharedSearch

if TYPE_CHECKING:
    from optuna import Trial

logger = logging.getLogger(__name__)

N_STARTUP_TRIALS = 5
"""The number of trials that are completed before one can be stopped for being worse than their median."""

Curve = dict[int, float]
"""The metric after each epoch."""


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """A trial before it is run."""

    number: int
    settings: Settings
    """The settings that were chosen."""
    earlier: tuple[Curve, ...]
    """The curves of the completed trials that it is compared with."""
    folder: Path
    """Of its run. Its result is in the file of the same name with the ending `.json`."""

    @property
    def result(self) -> Path:
        """The file of the result. A trial that has it is not run again."""
        return self.folder.with_name(f"{self.folder.name}.json")


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """How a trial ended."""

    value: float | None
    """The metric of its best epoch; None if it was stopped, or could not be trained."""
    refused: str | None = None
    """Why it could not be trained."""
    curve: Curve
    seconds: float


def run_in_cluster(shared: SharedSearch, trial: PlannedTrial) -> TrialResult:
    """`run_trial` in a worker of a cluster, with one thread."""
    torch.set_num_threads(1)
    return run_trial(shared.open(), trial)


def run_trial(search: Search, trial: PlannedTrial, progress: Progress = silent) -> TrialResult:
    """Run a trial, continue it from its checkpoint, or read its result if it has ended already.

    Raises:
        TrainingStopped: After a signal to stop; the same call continues.
        ConfigError, TrainingError: If the default settings (trial 0) cannot be trained: the space is not the cause.
    """
    if (done := read_result(trial)) is not None:
        return done
    logger.info("trial %d: %s", trial.number, trial.settings)
    began, curve = time.perf_counter(), Curve()
    value, refused = None, None
    try:
        value = _value(search, trial, curve, progress)
    except _WorseError:
        logger.info("trial %d is worse than the median of the earlier trials: stopped", trial.number)
    except TrainingStopped:
        raise
    except (ConfigError, TrainingError) as error:
        if trial.number == 0:
            raise
        logger.warning("trial %d cannot be trained: %s", trial.number, error)
        refused = str(error)
    else:
        logger.info("trial %d: %s %.5f", trial.number, search.metric, value)
    result = TrialResult(value=value, refused=refused, curve=curve, seconds=time.perf_counter() - began)
    trial.folder.parent.mkdir(parents=True, exist_ok=True)
    write_json(trial.result, {**asdict(result), "settings": trial.settings})
    return result


def read_result(trial: PlannedTrial) -> TrialResult | None:
    """The result of a trial with these settings that has ended; None if there is none."""
    try:
        content = json.loads(trial.result.read_text(encoding="utf-8"))
        if content.pop("settings") != trial.settings:
            return None
        curve = {int(epoch): value for epoch, value in content.pop("curve").items()}
        return TrialResult(**content, curve=curve)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class _WorseError(Exception):
    """The trial is worse than the median of the earlier ones."""


def _value(search: Search, trial: PlannedTrial, curve: Curve, progress: Progress) -> float:
    """Train; returns the best epoch's metric and fills `curve`. Raises _WorseError for a poor trial."""
    compared = _compared(search, trial.earlier)

    def report(records: Iterable[Mapping[str, Any]]) -> None:
        for record in records:
            if record["epoch"] not in curve:
                curve[record["epoch"]] = float(record[search.metric])
                compared.report(curve[record["epoch"]], record["epoch"])

    def on_epoch(record: dict[str, Any]) -> None:
        # also the epochs before an interruption: later trials are compared with them
        report([*([] if curve else epochs_of(trial.folder)), record])
        if compared.should_prune():
            raise _WorseError

    training, model = search.build_config(trial.settings)
    # trials are compared by the epochs of the network; trees would only take time
    settings: dict[str, Any] = {"preset": search.preset, "model": {"parts": "network", **model}, "training": training}
    resume = trial.folder.exists()
    bundle = train(search.store, trial.folder, **settings, progress=progress, on_epoch=on_epoch, resume=resume)
    epochs = bundle.training["epochs"]
    report(epochs)
    values = [float(epoch[search.metric]) for epoch in epochs]
    return max(values) if search.higher_is_better else min(values)


def _compared(search: Search, earlier: Iterable[Curve]) -> Trial:
    """A trial that is stopped where it is worse than the median of earlier ones; in memory, so that a worker can make it."""
    import optuna

    study = optuna.create_study(
        direction=search.direction,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=N_STARTUP_TRIALS, n_warmup_steps=1),
    )
    study.add_trials([optuna.create_trial(value=0.0, intermediate_values=curve) for curve in earlier])
    return study.ask()
