"""Train and measure one fold: the model, the model refitted on all known outcomes, and the baseline.

A fold is one folder. `fold.json` is written last, so a fold that has it is complete; training that was interrupted continues
from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.backtest.measure import PAST, Payments, Rows, Scores, measure
from tsa.backtest.models import Windows, baseline_scores, described, model_scores, refit_fold, train_fold
from tsa.backtest.plan import Fold
from tsa.backtest.settings import BASELINE, MODEL, NAMES, REFIT, BacktestSettings
from tsa.bundle.bundle import Bundle
from tsa.data.store.resplit import resplit
from tsa.data.store.store import EventStore
from tsa.data.store.summary import split_summary
from tsa.errors import DataError
from tsa.evaluation.baseline.lightgbm import not_comparable
from tsa.evaluation.metrics.paired import paired_difference
from tsa.evaluation.report.json_values import to_plain
from tsa.files.writing import atomic_file, write_json
from tsa.progress import Progress, silent
from tsa.training.config import TrainingConfig
from tsa.training.parts.warm_start import WarmStart

Array = NDArray[Any]

RESULT, BUNDLE, SCORES, WORK = "fold.json", "bundle", "scores.parquet", "work"
REFIT_BUNDLE = "refitted"

logger = logging.getLogger(__name__)


def run_fold(
    source: EventStore,
    folds: Sequence[Fold],
    at: int,
    settings: BacktestSettings,
    folder: Path,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train and measure the fold `folds[at]`, or read its result if it is complete.

    The store's ranges and encoder are not used: the fold has its own, of what was known when its model is trained.

    Args:
        source: The payments.
        folds: All folds.
        at: The number of the fold, from 0.
        settings: How to train and measure.
        folder: The folder of the fold.
        progress: Reports progress.

    Returns:
        The content of fold.json. A fold that cannot be trained or measured has a `skipped` with the reason.
    """
    if (done := read_fold(folder)) is not None:
        return done
    began, fold = time.perf_counter(), folds[at]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        measured = _measured(source, folds, at, settings, folder, progress)
    except DataError as error:
        logger.warning("the fold of %s is left out: %s", fold.name, error)
        measured = {"skipped": str(error)}
    result: dict[str, Any] = to_plain({**fold.to_dict(), **measured, "seconds": round(time.perf_counter() - began, 1)})
    write_json(folder / RESULT, result)
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return result


def read_fold(folder: Path) -> dict[str, Any] | None:
    """The result of a complete fold; None if there is none."""
    try:
        result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return result
    except (OSError, ValueError):
        return None


def _measured(
    source: EventStore, folds: Sequence[Fold], at: int, settings: BacktestSettings, folder: Path, progress: Progress
) -> dict[str, Any]:
    fold, work = folds[at], folder / WORK
    store = _store_of(source, fold, settings.training, work / "store", progress)
    payments = Payments(
        store=store, costs=settings.costs, amount_column=settings.amount_column, replicates=settings.replicates
    )
    _check_learnable(payments, settings.training, fold)
    windows = _windows(payments, folds, at, settings.max_age)
    start = _start(folds, at, settings, folder) if settings.warm_start else None
    run = train_fold(store, settings, work / "run", progress, start)
    unlearned = [name for name in PAST if name not in settings.training.train_on]
    scores = {MODEL: model_scores(run, payments, windows, unlearned, progress)}
    run.scorer.bundle.save(folder / BUNDLE)
    if settings.baseline:
        if (reason := not_comparable(store)) is None:
            scores[BASELINE] = baseline_scores(payments, windows, settings, progress)
        else:
            logger.warning("the fold of %s has no baseline: %s", fold.name, reason)
    if settings.refit:
        again = refit_fold(run, store, fold.name, work / "refitted", progress)
        again.scorer.bundle.save(folder / REFIT_BUNDLE)
        scores[REFIT] = model_scores(again, payments, windows, PAST, progress)
    models = {}
    for name, of_model in scores.items():
        with progress(f"measuring {NAMES[name]}", 1) as advance:
            models[name] = measure(payments, of_model, windows, fold.name)
            advance(1)
    rows, _ = windows[fold.name]
    _write_scores(store, rows, {name: of_model.later[fold.name] for name, of_model in scores.items()}, folder / SCORES)
    return {
        "splits": split_summary(store),
        "models": models,
        "differences": _differences(payments, rows, scores, fold.name),
        "training": described(run),
    }


def _store_of(source: EventStore, fold: Fold, training: TrainingConfig, out: Path, progress: Progress) -> EventStore:
    """The fold's store. Its encoder knows the payments that are trained on, and nothing later."""
    learned = [name for name in ("train", "validation", "calibration") if name in ("train", *training.train_on)]
    empty = [name for name in PAST if training.train_on == ("train", *PAST)]
    return resplit(source, fold.ranges, out, learned=learned, may_be_empty=empty, progress=progress)


def _check_learnable(payments: Payments, training: TrainingConfig, fold: Fold) -> None:
    """Raise DataError if the payments to train on lack one of the two outcomes."""
    label = np.asarray(payments.store.label[payments.known(training.train_on)])
    frauds = int((label == 1).sum())
    if frauds in (0, len(label)):
        rule = f"a model trained at {fold.name} needs frauds and genuine payments whose outcomes were known by then"
        raise DataError(f"{rule} (got {frauds:,} frauds of {len(label):,} payments)")


def _windows(payments: Payments, folds: Sequence[Fold], at: int, max_age: int | None) -> Windows:
    """The payments of each test range from the fold's own on, and the age of its model then."""
    last = None if max_age is None else at + max_age + 1
    windows: dict[str, tuple[Rows, float]] = {}
    for later in folds[at:last]:
        rows = payments.window(*later.ranges["test"])
        if len(rows):
            windows[later.name] = rows, later.now - folds[at].now
    if folds[at].name not in windows:
        raise DataError(f"the test range from {folds[at].name} on must hold payments whose outcome is known (got none)")
    return windows


def _start(folds: Sequence[Fold], at: int, settings: BacktestSettings, folder: Path) -> WarmStart:
    """The model of the latest earlier fold that was trained, unless it learned from payments that judge this fold's model."""
    learned = ("train", *settings.training.train_on)
    judging = [start for name, (start, _) in folds[at].ranges.items() if name not in learned]
    for earlier in reversed(folds[:at]):
        done = read_fold(folder.parent / earlier.name)
        if done is None or "skipped" in done:
            continue
        last = max(end for name, (_, end) in earlier.ranges.items() if name in learned)
        if last > min(judging):
            rule = (
                f"the model of {earlier.name} learned from payments by which this one is stopped, joined or calibrated"
            )
            return WarmStart(bundle=None, reason=rule)
        return WarmStart(bundle=Bundle.open(folder.parent / earlier.name / BUNDLE), name=earlier.name)
    return WarmStart(bundle=None, reason="no earlier fold was trained")


def _differences(payments: Payments, rows: Rows, scores: Mapping[str, Scores], own: str) -> dict[str, Any]:
    """The model minus each other one, on the same payments, with intervals."""
    ours = np.asarray(scores[MODEL].later[own], np.float64)
    of = payments.of(rows, ours)
    return {
        name: paired_difference(ours, np.asarray(other.later[own], np.float64), of, replicates=payments.replicates)
        for name, other in scores.items()
        if name != MODEL
    }


def _write_scores(store: EventStore, rows: Rows, scores: Mapping[str, Array], out: Path) -> None:
    """`scores.parquet`: id, time, label and each model's raw score of the fold's test payments."""
    frame = pl.DataFrame(
        {
            "id": store.ids_of(rows),
            "time": (np.asarray(store.time_seconds[rows]) * 1e6).round().astype(np.int64),
            "label": np.asarray(store.label[rows]),
            **{f"{name}_score": np.asarray(values, np.float64) for name, values in scores.items()},
        }
    )
    with atomic_file(out) as temporary:
        frame.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC"))).write_parquet(temporary)
