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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from tsa.backtest.measure import PAST, Payments, Rows, Scores, measure
from tsa.backtest.plan import Fold
from tsa.bundle.bundle import Bundle
from tsa.calibration.calibration import Calibration
from tsa.data.store.resplit import resplit
from tsa.data.store.store import EventStore
from tsa.data.store.summary import split_summary
from tsa.errors import CalibrationError, DataError
from tsa.evaluation.baseline.lightgbm import compare, not_comparable
from tsa.evaluation.daily_queue import Costs
from tsa.evaluation.metrics.paired import paired_difference
from tsa.evaluation.report.plain import to_plain
from tsa.evaluation.run import TrainedRun
from tsa.files.writing import atomic_file, write_json
from tsa.inference.scorer import Scorer
from tsa.progress import Progress, silent
from tsa.training.config import TrainingConfig
from tsa.training.refitting import Recipe, refit
from tsa.training.run_folder import read_run_metadata
from tsa.training.train_model import train_network
from tsa.training.training_run import Trained

Array = NDArray[Any]

RESULT, BUNDLE, SCORES, WORK = "fold.json", "bundle", "scores.parquet", "work"
REFIT_BUNDLE = "refitted"
MODEL, BASELINE, REFIT = "model", "baseline", "refit"
NAMES = {MODEL: "TSA", BASELINE: "LightGBM", REFIT: "TSA refitted"}
"""What each model is called."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BacktestSettings:
    """How each fold trains and measures.

    Attributes:
        preset: The network's.
        model: BacktestSettings of the network that differ from the preset.
        training: The training settings.
        costs: Costs of reviews and missed frauds.
        amount_column: The column with the loss of a missed fraud; None: the market's amount.
        baseline: Whether to train LightGBM in each fold too.
        refit: Whether to train each model again on all known outcomes too (`tsa.training.refitting`).
        max_age: How many later test ranges a model scores, to measure how it ages; None: all.
        replicates: Bootstrap samples for the intervals.
    """

    preset: str = "default"
    model: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    costs: Costs = field(default_factory=lambda: Costs(review=5.0))
    amount_column: str | None = None
    baseline: bool = True
    refit: bool = False
    max_age: int | None = None
    replicates: int = 200

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            **{
                name: getattr(self, name)
                for name in ("preset", "amount_column", "baseline", "refit", "max_age", "replicates")
            },
            "model": dict(self.model),
            "training": self.training.model_dump(mode="json"),
            "costs": asdict(self.costs),
        }


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
    run = _trained(store, settings, work / "run", progress)
    unlearned = [name for name in PAST if name not in settings.training.train_on]
    scores = {MODEL: _model_scores(run, payments, windows, unlearned, progress)}
    run.scorer.bundle.save(folder / BUNDLE)
    if settings.baseline:
        if (reason := not_comparable(store)) is None:
            scores[BASELINE] = _baseline_scores(payments, windows, settings, progress)
        else:
            logger.warning("the fold of %s has no baseline: %s", fold.name, reason)
    if settings.refit:
        again = _refitted(run, store, fold, work / "refitted", progress)
        again.scorer.bundle.save(folder / REFIT_BUNDLE)
        scores[REFIT] = _model_scores(again, payments, windows, PAST, progress)
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
        "training": _training_of(run),
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


def _windows(payments: Payments, folds: Sequence[Fold], at: int, max_age: int | None) -> dict[str, tuple[Rows, float]]:
    """The payments of each test range from the fold's own on, and the age of its model then."""
    last = None if max_age is None else at + max_age + 1
    windows = {}
    for later in folds[at:last]:
        rows = payments.window(*later.ranges["test"])
        if len(rows):
            windows[later.name] = rows, later.now - folds[at].now
    if folds[at].name not in windows:
        raise DataError(f"the test range from {folds[at].name} on must hold payments whose outcome is known (got none)")
    return windows


def _trained(store: EventStore, settings: BacktestSettings, out: Path, progress: Progress) -> TrainedRun:
    """Train on the fold's store, or continue a training that was interrupted."""
    trained = train_network(
        store,
        out,
        preset=settings.preset,
        model=settings.model,
        training=settings.training,
        progress=progress,
        resume=bool(read_run_metadata(out)),
        with_bundle=True,
    )
    return _as_run(trained)


def _as_run(trained: Trained) -> TrainedRun:
    return TrainedRun(
        path=trained.out,
        scorer=Scorer(trained.bundle),
        store=trained.store,
        metadata=trained.metadata,
        market=trained.store.market,
        weights_hash=trained.bundle.model_sha256,
        scored=trained.scores,
    )


def _refitted(run: TrainedRun, store: EventStore, fold: Fold, out: Path, progress: Progress) -> TrainedRun:
    """The fold's model, trained again on all outcomes that are known at its date."""
    recipe = Recipe.from_bundle(run.scorer.bundle, run.metadata, fold.name)
    return _as_run(refit(recipe, out, store=store, progress=progress, resume=out.exists()))


def _model_scores(
    run: TrainedRun,
    payments: Payments,
    windows: Mapping[str, tuple[Rows, float]],
    ranges: Sequence[str],
    progress: Progress,
) -> Scores:
    """ranges: those before the test range from which the model did not learn."""
    store = run.store
    past = [run.range_scores(name, progress)[store.labels(name) >= 0] for name in ranges]
    rows = np.unique(np.concatenate([rows for rows, _ in windows.values()]))
    every = run.score(rows, "scoring test payments", progress)
    later = {name: every[np.searchsorted(rows, own)] for name, (own, _) in windows.items()}
    return Scores(
        past_rows=payments.known(ranges),
        past=np.concatenate([np.empty(0, np.float32), *past]),
        later=later,
        calibration=run.scorer.bundle.calibration,
    )


def _baseline_scores(
    payments: Payments, windows: Mapping[str, tuple[Rows, float]], settings: BacktestSettings, progress: Progress
) -> Scores:
    store, before = payments.store, payments.known(PAST)
    rows = np.unique(np.concatenate([before, *(rows for rows, _ in windows.values())]))
    with progress("training LightGBM", 1) as advance:
        made = compare(
            store,
            rows_train=store.labelled("train"),
            rows_validation=store.labelled("validation"),
            rows_test=rows,
            seed=settings.training.seed,
            threads=torch.get_num_threads(),
        )
        advance(1)
    past = made.scores[np.searchsorted(rows, before)]
    later = {name: made.scores[np.searchsorted(rows, own)] for name, (own, _) in windows.items()}
    return Scores(
        past_rows=before, past=past, later=later, calibration=_baseline_calibration(payments, past, settings.training)
    )


def _baseline_calibration(payments: Payments, past: Array, training: TrainingConfig) -> Calibration | None:
    """Fitted as the model's, on the calibration range."""
    store = payments.store
    own = past[len(store.labelled("validation")) :]
    method = "bspline" if training.calibration == "sampling" else training.calibration
    try:
        return Calibration.fit(scores=own, labels=np.asarray(store.label[store.labelled("calibration")]), method=method)
    except CalibrationError:
        return None


def _differences(payments: Payments, rows: Rows, scores: Mapping[str, Scores], own: str) -> dict[str, Any]:
    """The model minus each other one, on the same payments, with intervals."""
    ours = np.asarray(scores[MODEL].later[own], np.float64)
    of = payments.of(rows, ours)
    return {
        name: paired_difference(ours, np.asarray(other.later[own], np.float64), of, replicates=payments.replicates)
        for name, other in scores.items()
        if name != MODEL
    }


def _training_of(run: TrainedRun) -> dict[str, Any]:
    """What the fold's model is made of."""
    bundle: Bundle = run.scorer.bundle
    return {
        "weights": bundle.model_sha256,
        "epochs": bundle.training.get("best_epoch"),
        "rows": bundle.training.get("rows"),
        "parts": list(bundle.joining.parts),
        "adapted": list(bundle.training.get("adapted") or ()),
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
