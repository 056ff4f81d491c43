"""The models of one fold: the product's, the one refitted on all known outcomes, and the baseline; and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tsa.backtest.measure import PAST, Payments, Rows, Scores
from tsa.backtest.settings import BacktestSettings
from tsa.bundle.bundle import Bundle
from tsa.calibration.calibration import Calibration
from tsa.data.store.store import EventStore
from tsa.errors import CalibrationError
from tsa.evaluation.baseline.lightgbm import compare
from tsa.evaluation.trained_run import TrainedRun
from tsa.inference.scorer import Scorer
from tsa.progress import Progress
from tsa.training.config import TrainingConfig
from tsa.training.finalize import Trained
from tsa.training.parts.warm_start import WarmStart
from tsa.training.refitting import Recipe, refit
from tsa.training.run_folder import read_run_metadata
from tsa.training.train_model import train_network

Array = NDArray[Any]
Windows = Mapping[str, tuple[Rows, float]]
"""By the name of a fold: the payments of its test range, and the age of the model when that begins."""


def train_fold(
    store: EventStore, settings: BacktestSettings, out: Path, progress: Progress, start: WarmStart | None
) -> TrainedRun:
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
        start=start,
    )
    return _as_run(trained)


def refit_fold(run: TrainedRun, store: EventStore, name: str, out: Path, progress: Progress) -> TrainedRun:
    """The fold's model, trained again on all outcomes that are known at its date, from the beginning."""
    recipe = Recipe.from_bundle(run.scorer.bundle, run.metadata, name)
    return _as_run(refit(recipe, out, store=store, progress=progress, resume=out.exists()))


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


def model_scores(
    run: TrainedRun, payments: Payments, windows: Windows, ranges: Sequence[str], progress: Progress
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


def baseline_scores(payments: Payments, windows: Windows, settings: BacktestSettings, progress: Progress) -> Scores:
    """Train LightGBM as `tsa compare` does, and score the same payments."""
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


def described(run: TrainedRun) -> dict[str, Any]:
    """What the fold's model is made of."""
    bundle: Bundle = run.scorer.bundle
    start = bundle.training.get("warm_start")
    return {
        "weights": bundle.model_sha256,
        "epochs": bundle.training.get("best_epoch"),
        "rows": bundle.training.get("rows"),
        "parts": list(bundle.joining.parts),
        "adapted": list(bundle.training.get("adapted") or ()),
        **({} if start is None else {"warm_start": dict(start)}),
    }
