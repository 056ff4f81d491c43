"""Hyper-parameter search with Optuna (Akiba et al. 2019) and its TPE sampler (Bergstra et al. 2011).

A search can be resumed: the choice of each trial depends only on the seed and the trials before it.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import polars as pl

from tsa.errors import ConfigError, TrainingError, TrainingStopped
from tsa.files.locking import used_alone
from tsa.files.writing import atomic_file, write_text
from tsa.optional import need
from tsa.progress import Progress, silent
from tsa.training.tracking import epochs_of
from tsa.training.train_model import train
from tsa.tuning.search import Search, Settings, acquire_folder
from tsa.tuning.space import SECTIONS, Choice, Range

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)

N_STARTUP_TRIALS = 5
"""The number of trials that are completed before one can be stopped for being worse than their median."""


@dataclass(frozen=True, kw_only=True)
class BestTrial:
    """The best trial: its number, its value and all settings that differ from the preset."""

    trial: int
    metric: str
    value: float
    settings: Settings
    tried: int


def tune(search: Search, out: str | Path, *, trials: int = 20, progress: Progress = silent) -> BestTrial:
    """Search until the folder `out` has `trials` trials, or resume a search. The first trial has the default settings.

    Writes `trials.csv`, and `best.toml` for `tsa train --settings`.

    Raises:
        ConfigError: If the folder has other content or another search.
        TrainingError: If no trial was completed.
    """
    need("a search", "optuna", extra="tune")
    out = Path(out)
    if trials < 1:
        raise ConfigError(f"trials must be at least 1 (got {trials})")
    acquire_folder(search, out)
    with used_alone(out, "tsa tune"), progress("tuning", trials) as advance:
        study = _open(search, out)
        advance(min(len(_counted_trials(study)), trials))
        while (number := len(_counted_trials(study))) < trials:
            _run_trial(search, study, number, out, progress)
            _write(search, study, out)
            advance(1)
        return _write(search, study, out) or _no_trial_completed(study)


def _run_trial(search: Search, study: Study, number: int, out: Path, progress: Progress) -> None:
    """Run one trial. A trial that is pruned or cannot be trained counts.

    One that is stopped by a signal does not: the next search resumes its training.
    """
    from optuna import TrialPruned
    from optuna.trial import TrialState

    trial = _ask(search, study, number)
    chosen = {key: _suggested(trial, key, entry) for key, entry in search.space.entries.items()}
    logger.info("trial %d: %s", number, chosen)
    try:
        value = _value(search, trial, chosen, out / "trials" / f"{number:04}", progress)
    except TrialPruned:
        logger.info("trial %d is worse than the median of the earlier trials: stopped", number)
        study.tell(trial, state=TrialState.PRUNED)
    except TrainingStopped:
        raise
    except (ConfigError, TrainingError) as error:
        if number == 0:
            raise  # the default settings cannot be trained: the space is not the cause
        logger.warning("trial %d cannot be trained: %s", number, error)
        trial.set_user_attr("refused", str(error))
        study.tell(trial, state=TrialState.PRUNED)
    else:
        logger.info("trial %d: %s %.5f", number, search.metric, value)
        study.tell(trial, value)


def _ask(search: Search, study: Study, number: int) -> Trial:
    """The next trial. Its choice is seeded by its number, so that it is the same after an interruption."""
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    study.sampler = TPESampler(seed=seed, multivariate=True)
    if number == 0 and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(search.default_settings)
    return study.ask()


def _value(search: Search, trial: Trial, chosen: Settings, out: Path, progress: Progress) -> float:
    """Train with the chosen settings, or resume; returns the best epoch's metric. Raises TrialPruned for a poor trial."""
    from optuna import TrialPruned

    reported: set[int] = set()

    def report(records: Sequence[dict[str, Any]]) -> None:
        for record in records:
            if record["epoch"] not in reported:
                trial.report(record[search.metric], record["epoch"])
                reported.add(record["epoch"])

    def on_epoch(record: dict[str, Any]) -> None:
        before = (
            [] if reported else epochs_of(out)
        )  # also those before an interruption: later trials are compared with them
        report([*before, record])
        if trial.should_prune():
            raise TrialPruned

    training, model = search.build_config(chosen)
    # trials are compared by the epochs of the network; trees would only take time
    settings: dict[str, Any] = {"preset": search.preset, "model": {"parts": "network", **model}, "training": training}
    bundle = train(search.store, out, **settings, progress=progress, on_epoch=on_epoch, resume=out.exists())
    epochs = bundle.training["epochs"]
    report(epochs)
    values = [float(epoch[search.metric]) for epoch in epochs]
    return max(values) if search.higher_is_better else min(values)


def _suggested(trial: Trial, key: str, entry: Range | Choice) -> Any:
    if isinstance(entry, Choice):
        return trial.suggest_categorical(key, list(entry.values))
    if entry.is_integer:
        return trial.suggest_int(key, int(entry.low), int(entry.high), log=entry.log)
    return trial.suggest_float(key, entry.low, entry.high, log=entry.log)


def _open(search: Search, out: Path) -> Study:
    """The study in the folder; interrupted trials are marked as failed."""
    import optuna

    optuna.logging.disable_default_handler()
    # a connection instead of a URL, in which some characters of a path are not allowed
    connect = partial(sqlite3.connect, out / "study.db", check_same_thread=False)
    study = optuna.create_study(
        study_name="tsa",
        storage=optuna.storages.RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect}),
        direction="maximize" if search.higher_is_better else "minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=N_STARTUP_TRIALS, n_warmup_steps=1),
        load_if_exists=True,
    )
    state = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
        study.tell(trial.number, state=state.FAIL)
    return study


def _counted_trials(study: Study) -> list[FrozenTrial]:
    """The trials that count, in order."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _best(search: Search, study: Study) -> BestTrial | None:
    """The best completed trial; None if there is none."""
    tried = _counted_trials(study)
    sign = 1 if search.higher_is_better else -1
    # a pruned trial has a value too, its last
    values = [trial.value if trial.state.name == "COMPLETE" else None for trial in tried]
    ended = [(sign * value, -number) for number, value in enumerate(values) if value is not None]
    if not ended:
        return None
    value, number = max(ended)  # of equal ones the first
    settings = {**search.fixed, **tried[-number].params}
    return BestTrial(trial=-number, metric=search.metric, value=sign * value, settings=settings, tried=len(tried))


def _no_trial_completed(study: Study) -> NoReturn:
    raise TrainingError(f"at least one trial must be completed (got none of {len(_counted_trials(study))})")


def _write(search: Search, study: Study, out: Path) -> BestTrial | None:
    """The table of all trials so far, and the preset of the best."""
    rows = [
        {
            "trial": number,
            "state": trial.state.name.lower(),
            search.metric: trial.value,
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            **trial.params,
            "refused": trial.user_attrs.get("refused"),
        }
        for number, trial in enumerate(_counted_trials(study))
    ]
    with atomic_file(out / "trials.csv") as temporary:
        pl.DataFrame(rows, infer_schema_length=None, strict=False).write_csv(temporary)
    if best := _best(search, study):
        write_text(out / "best.toml", _preset(search, best))
    return best


def _preset(search: Search, best: BestTrial) -> str:
    """The best settings as TOML, with the sections that `tsa train --settings` reads."""
    lines = [
        f"# The best of {best.tried} trials: number {best.trial}, {best.metric} {best.value:.5f}.",
        f"# Over the preset {search.preset}: tsa train STORE --preset {search.preset} --settings best.toml --out RUN",
    ]
    for section in SECTIONS:
        own = {key.partition(".")[2]: value for key, value in best.settings.items() if key.startswith(f"{section}.")}
        # JSON writes numbers, texts, truth values and lists of them as TOML reads them
        lines += ["", f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in sorted(own.items()))]
    return "\n".join(lines) + "\n"
