"""Several seeds of one run: their spread on the test range, and the best of them by the validation range."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from tsa.data.store.store import EventStore
from tsa.evaluation.trained_run import TrainedRun
from tsa.files.writing import atomic_file
from tsa.progress import Progress, silent
from tsa.training.finalize import Trained
from tsa.training.run_folder import store_reference

SEEDS = "seeds"
"""Folder of the runs, one for each seed, in the folder of the run."""
COPIED = ("validation_scores.parquet", "calibration_scores.parquet", "metrics.jsonl")
METRICS = {"average_precision": "average precision", "roc_auc": "ROC AUC"}


def seed_folders(out: Path, first: int, count: int) -> dict[int, Path]:
    """The folder of each seed's run."""
    return {seed: out / SEEDS / str(seed) for seed in range(first, first + count)}


def best_of_seeds(out: Path, store: EventStore, folders: Mapping[int, Path], *, progress: Progress = silent) -> Trained:
    """The run with the best average precision on the validation range, as the run of the folder `out`.

    Its metadata has `seeds`: what each seed reached on the validation and test range, and a summary. The test range
    chooses nothing.

    Args:
        out: The folder; `Trained.write` writes the bundle into it.
        store: The store of all of them.
        folders: Their finished runs.
        progress: Reports progress.
    """
    runs = {seed: TrainedRun.open(folder) for seed, folder in folders.items()}
    measured: list[dict[str, Any]] = [{"seed": seed, **_measured(run, seed, progress)} for seed, run in runs.items()]
    best: int = max(measured, key=lambda one: (one["validation"]["average_precision"] or 0.0, -one["seed"]))["seed"]
    for name in COPIED:
        if (source := folders[best] / name).is_file():
            with atomic_file(out / name) as temporary:
                shutil.copyfile(source, temporary)
    metadata = {name: value for name, value in runs[best].metadata.items() if name != "finished"}
    metadata["store"] = store_reference(store, out)
    metadata["seeds"] = {"runs": measured, "chosen": best, "summary": summary_of(measured, best)}
    return Trained(out=out, store=store, bundle=runs[best].scorer.bundle, metadata=metadata)


def summary_of(measured: list[dict[str, Any]], best: int) -> str:
    """The spread of the seeds in one sentence."""
    parts = []
    for name, title in METRICS.items():
        values = [one["test"][name] for one in measured if one["test"][name] is not None]
        if len(values) > 1:
            every = ", ".join(f"{value:.3f}" for value in values)
            parts.append(f"{title} {every} (mean {mean(values):.3f}, standard deviation {stdev(values):.3f})")
    seeds = f"{len(measured)} seeds from {measured[0]['seed']} on"
    chosen = f"The model is that of seed {best}, the best on the validation range."
    return f"{seeds}, on the test range: {'; '.join(parts)}. {chosen}" if parts else f"{seeds}. {chosen}"


def _measured(run: TrainedRun, seed: int, progress: Progress) -> dict[str, dict[str, float | None]]:
    known = run.store.labels("validation") >= 0
    validation = run.range_scores("validation", progress)[known]
    test = run.score(run.rows, f"scoring the test range, seed {seed}", progress)
    return {
        "validation": _metrics(run.store.label[run.store.labelled("validation")], validation),
        "test": _metrics(run.store.label[run.rows], test),
    }


def _metrics(label: np.ndarray, score: np.ndarray) -> dict[str, float | None]:
    label = np.asarray(label)
    if len(np.unique(label)) < 2:
        return dict.fromkeys(METRICS)
    return {
        "average_precision": float(average_precision_score(label, score)),
        "roc_auc": float(roc_auc_score(label, score)),
    }
