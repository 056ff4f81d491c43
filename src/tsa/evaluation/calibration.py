"""Measure the calibration of a run on its test range: before and after, by segment, and the drift since it was fitted."""

from __future__ import annotations

import zlib
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.evaluation.metrics.calibration import frauds_by_day, measure_calibration, population_stability, reliability
from tsa.evaluation.metrics.scored_payments import Array, ScoredPayments
from tsa.evaluation.metrics.segments import by_value
from tsa.evaluation.trained_run import TrainedRun
from tsa.progress import Progress, silent

SEED = 0
PART_METRICS = ("ece", "ratio", "brier", "expected")


def assess_calibration(
    run: TrainedRun, payments: ScoredPayments, scores: Array, *, replicates: int = 200, progress: Progress = silent
) -> dict[str, Any]:
    """The calibration section of the report: test payments with raw `scores` (n,) (before) and probabilities (after).

    `after` is None if the bundle has no probability; `note` then says why. `drift` compares the test range with the
    range that calibration was fitted on.
    """
    calibration = run.scorer.bundle.calibration
    probability = None if calibration is None else calibration.probability
    raw = np.asarray(scores, np.float64)
    forms: dict[str, Array | None] = {"before": raw, "after": None if probability is None else probability(raw)}
    measure = partial(_measured, payments.label, replicates=replicates)
    best = raw if forms["after"] is None else forms["after"]
    note = "The bundle has no calibration." if calibration is None else calibration.note
    return {
        "method": None if probability is None else probability.method,
        "note": note if probability is None else None,
        "fitted_on": {} if calibration is None else dict(calibration.counts),
        **{name: None if values is None else measure(values, name) for name, values in forms.items()},
        "reliability": {k: None if v is None else reliability(payments.label, v) for k, v in forms.items()},
        "per_day": frauds_by_day(payments.label, best, payments.time_seconds),
        "segments": {
            name: by_value(values, partial(_part, payments.label, forms, f"segment {name}", replicates))
            for name, values in payments.segments.items()
        },
        "drift": _drift(run, raw, progress),
    }


def _measured(label: Array, probability: Array, purpose: str, *, replicates: int) -> dict[str, Any]:
    generator = np.random.default_rng([SEED, zlib.crc32(purpose.encode())])
    return measure_calibration(label, probability, generator=generator, replicates=replicates)


def _part(
    label: Array, forms: dict[str, Array | None], purpose: str, replicates: int, rows: NDArray[np.intp]
) -> dict[str, Any]:
    """n, frauds, and the metrics of a segment before and after."""
    result: dict[str, Any] = {"n": len(rows), "frauds": int(label[rows].sum())}
    for name, values in forms.items():
        if values is not None:
            measured = _measured(label[rows], values[rows], f"{purpose} {name} {rows[0]}", replicates=replicates)
            result[name] = {metric: measured["metrics"][metric] for metric in PART_METRICS}
    return result


def _drift(run: TrainedRun, scores: Array, progress: Progress) -> dict[str, Any]:
    """How the scores of the test range differ from those of the range that calibration was fitted on."""
    if not run.store.manifest["splits"]:
        return {
            "reference": None,
            "psi": None,
            "reason": "a single log has no reference; use tsa monitor to compare two",
        }
    # the scores of a refitted run on these ranges come from models that did not learn from them
    learned = [] if run.metadata.get("refit") else run.metadata["training"].get("train_on", ["train"])
    ranges = [name for name in ("calibration", "validation") if name not in learned and _size(run, name)]
    if not ranges:
        return {"reference": None, "psi": None}
    name = ranges[0]
    label, before = run.store.labels(name), run.range_scores(name, progress).astype(np.float64)
    result: dict[str, Any] = {"reference": name, "psi": population_stability(before, scores)}
    calibration = run.scorer.bundle.calibration
    if calibration is not None and calibration.probability is not None:
        known = label >= 0
        expected = float(calibration.probability(before[known]).sum())
        result |= {"payments": int(known.sum()), "observed": int(label[known].sum()), "expected": expected}
    return result


def _size(run: TrainedRun, name: str) -> int:
    return len(run.store.split_rows(name))
