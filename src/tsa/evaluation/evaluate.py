"""Evaluate a finished run: score its test range, measure, compare with LightGBM, write the report.

Adds `scores.parquet`, `comparison.json`, `report.json` and `report.html` to the run folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

from tsa.data.store.summary import refuse_unmeasured
from tsa.errors import ConfigError
from tsa.evaluation.baseline.lightgbm import BaselineResult, compare
from tsa.evaluation.calibration import assess_calibration
from tsa.evaluation.compare_parts import compare_parts
from tsa.evaluation.declined import declined_note, declined_summary
from tsa.evaluation.history_weights import measure_history_weights
from tsa.evaluation.metrics.evaluate_scores import ScoredPayments, evaluate_scores, paired_difference
from tsa.evaluation.refitted import refit_notes
from tsa.evaluation.report.json_values import to_plain
from tsa.evaluation.report.report import write_report
from tsa.evaluation.report.top_payments import explain_riskiest
from tsa.evaluation.trained_run import TrainedRun, read_report
from tsa.files.writing import atomic_file, write_json
from tsa.progress import Progress, silent

__all__ = [
    "TrainedRun",
    "best_f1",
    "best_f1_threshold",
    "compare_run",
    "evaluate",
    "read_report",
    "verdict_sentence",
]

Array = NDArray[Any]


def evaluate(
    run: TrainedRun | str | Path,
    *,
    segments: Sequence[str] = (),
    threshold: float | None = None,
    replicates: int = 200,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Score and measure the test range of a run; write `scores.parquet`, `report.json` and `report.html`.

    An earlier comparison made with the same weights stays in the report.

    Args:
        run: The run, or the path of its folder.
        segments: Columns to break the metrics down by, in addition to the market's.
        threshold: The raw score from which a payment counts as flagged; by default the one with the best F1 on the
            validation range.
        replicates: Bootstrap samples for the intervals.
        progress: Receives the progress of long steps.

    Returns:
        The content of report.json.

    Raises:
        DataError: If no outcome of the test range is known.

    Example:
        >>> report = tsa.evaluate("run", replicates=20)
        >>> report["evaluation"]["metrics"]["average_precision"]["value"] > 0
        True
    """
    run = run if isinstance(run, TrainedRun) else TrainedRun.open(run)
    report = report_on(run, segments=segments, threshold=threshold, replicates=replicates, progress=progress)
    attach_metrics(run, report)
    return report


def report_on(
    run: TrainedRun,
    *,
    segments: Sequence[str] = (),
    threshold: float | None = None,
    replicates: int = 200,
    progress: Progress = silent,
) -> dict[str, Any]:
    """As `evaluate`, but leave the bundle unchanged."""
    refuse_unmeasured(run.store)
    return measure(
        run,
        "scoring the test range",
        flagged_at=lambda: best_f1_threshold(run, progress) if threshold is None else threshold,
        comparison=_earlier_comparison(run),
        segments=segments,
        replicates=replicates,
        progress=progress,
    )


def measure(
    run: TrainedRun,
    what: str,
    *,
    flagged_at: Callable[[], float],
    comparison: dict[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
    segments: Sequence[str] = (),
    replicates: int = 200,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Score and measure `run.rows`; write `scores.parquet`, `report.json` and `report.html` into `run.path`.

    what: the label of the progress. flagged_at: returns the threshold. more: further entries of the report.
    """
    payments = run.payments(np.zeros(len(run.rows)), segments)  # rejects an unknown column before the long part
    scores = run.score_measured(what, progress)
    threshold = flagged_at()
    with progress("measuring", 1) as advance:
        measured = evaluate_scores(
            replace(payments, score=scores.astype(np.float64)),
            threshold=threshold,
            top_k=run.top_k,
            replicates=replicates,
        )
        advance(1)
    with progress("measuring calibration", 1) as advance:
        calibration = assess_calibration(run, payments, scores, replicates=replicates, progress=progress)
        advance(1)
    _write_scores(run, scores)
    reasons = explain_riskiest(run, scores, progress)
    declined = declined_summary(run, scores, threshold, progress)
    report = {**_report(run, measured, comparison), "calibration": calibration, "reasons": reasons, **(more or {})}
    report["parts"] = compare_parts(run, scores, replicates=replicates, progress=progress)
    report["history_weights"] = measure_history_weights(run)
    if notes := refit_notes(run.metadata):
        report["notes"] = [*report.get("notes", ()), *notes]
    if declined is not None:
        report |= {"declined": declined, "notes": [*report.get("notes", ()), *declined_note(declined)]}
    write_report(run.path, report)
    return report


def compare_run(
    run: TrainedRun | str | Path,
    *,
    seed: int = 0,
    replicates: int = 200,
    cluster: Any = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train LightGBM on the run's rows, compare it with the run on the test range, and rewrite the report.

    Args:
        run: The run or its folder.
        seed: Of LightGBM.
        replicates: Bootstrap samples for the intervals.
        cluster: A Ray cluster (`tsa.scale.cluster.ray_cluster`) whose workers compute the features. All nodes must see the
            store. The comparison is the same.
        progress: Reports progress.

    Returns:
        The comparison.

    Raises:
        ConfigError: If the run has not been evaluated with these weights (`tsa evaluate`).
    """
    run = run if isinstance(run, TrainedRun) else TrainedRun.open(run)
    report = read_report(run.path)
    if report["model"].get("weights") != run.weights_hash:
        raise ConfigError(f"{run.path} was trained again after its report was made; run: tsa evaluate {run.path}")
    comparison = comparison_on(run, report, seed=seed, replicates=replicates, cluster=cluster, progress=progress)
    attach_metrics(run, {**report, "comparison": comparison})
    return comparison


def comparison_on(
    run: TrainedRun,
    report: Mapping[str, Any],
    *,
    seed: int = 0,
    replicates: int = 200,
    seconds: float | None = None,
    cluster: Any = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """As `compare_run` with the run's report, but leave the bundle unchanged. seconds: after which LightGBM stops."""
    with progress("training LightGBM", 1) as advance:
        baseline = compare(
            run.store,
            rows_train=run.store.labelled("train"),
            rows_validation=run.store.labelled("validation"),
            rows_test=np.concatenate([run.store.labelled("validation"), run.rows]),
            seed=seed,
            threads=torch.get_num_threads(),
            seconds=seconds,
            cluster=cluster,
        )
        advance(1)
    with progress("measuring", 1) as advance:
        comparison = _comparison(run, baseline, replicates, top_k=report["evaluation"]["settings"]["top_k"])
        advance(1)
    write_json(run.path / "comparison.json", to_plain({**comparison, "weights": run.weights_hash}))
    write_report(run.path, {**report, "comparison": comparison})
    return comparison


def attach_metrics(run: TrainedRun, report: Mapping[str, Any]) -> None:
    """Store the metrics in the run's bundle and update its hashes; leave it unchanged if it has them already."""
    metrics = metrics_of(report)
    if metrics != run.scorer.bundle.metrics:
        replace(run.scorer.bundle, metrics=metrics).save(run.path / "bundle")


def metrics_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that a bundle stores, taken from a report. The same run gives the same, so times are left out."""
    keys = ("evaluation", "calibration", "comparison")
    metrics = {key: to_plain(report[key]) for key in keys if report.get(key) is not None}
    for evaluation in (metrics["evaluation"], metrics.get("comparison", {}).get("evaluation", {})):
        evaluation.pop("curves", None)
    metrics.get("comparison", {}).pop("seconds", None)
    return metrics


def best_f1_threshold(run: TrainedRun, progress: Progress = silent) -> float:
    """The raw score with the best F1 on the validation range; 0.5 if that range contains no fraud."""
    label = run.store.label[run.store.labelled("validation")]
    return best_f1(label, run.range_scores("validation", progress)[run.store.labels("validation") >= 0])


def best_f1(label: Array, score: Array) -> float:
    """The score with the best F1 of n scores with labels (n,); 0.5 without a fraud."""
    if not np.any(label):
        return 0.5
    precision, recall, thresholds = precision_recall_curve(label, score)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[np.argmax(f1[:-1])])


def _comparison(run: TrainedRun, baseline: BaselineResult, replicates: int, *, top_k: int) -> dict[str, Any]:
    """Measure the baseline like the run, and the differences with intervals from the same resamples."""
    store = run.store
    valid = store.labelled("validation")
    own = _own_scores(run)
    on_validation, on_test = np.split(baseline.scores, [len(valid)])
    payments = run.payments(on_test)
    threshold = best_f1(store.label[valid], on_validation)
    measured = evaluate_scores(payments, threshold=threshold, top_k=top_k, replicates=replicates)
    difference = paired_difference(own, on_test, payments, replicates=replicates)
    return {
        "model_name": "LightGBM",
        "note": baseline.note,
        "params": baseline.params,
        "evaluation": measured,
        "difference": difference,
        "validation": _on_validation(run, on_validation, replicates),
        "summary": verdict_sentence(difference),
        "features": [{"name": n, "importance": v} for n, v in list(baseline.feature_importance.items())[:25]],
        "seconds": baseline.seconds,
    }


def _on_validation(run: TrainedRun, baseline: Array, replicates: int) -> dict[str, Any]:
    """The paired difference of average precision to the baseline's scores (v,) on the validation range."""
    rows = run.store.labelled("validation")
    own = run.range_scores("validation")[run.store.labels("validation") >= 0].astype(np.float64)
    label, time_seconds = np.asarray(run.store.label[rows]), np.asarray(run.store.time_seconds[rows])
    payments = ScoredPayments(label=label, score=own, time_seconds=time_seconds)
    return paired_difference(own, baseline, payments, replicates=replicates)["average_precision"]


def _own_scores(run: TrainedRun) -> Array:
    """(n,) float64 raw scores of the test payments, as `evaluate` wrote them."""
    path = run.path / "scores.parquet"
    if not path.is_file():
        raise ConfigError(f"{path} is missing: tsa evaluate {run.path}")
    return pl.read_parquet(path)["raw_score"].to_numpy().astype(np.float64)


def verdict_sentence(difference: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence on which model is better by average precision, with the interval."""
    result = difference["average_precision"]
    if result["low"] is None:
        return f"TSA and LightGBM cannot be compared: {result['reason']}."
    values = f"average precision {result['a']:.3f} against {result['b']:.3f}"
    interval = f"difference {result['difference']:+.3f}, 95 % interval {result['low']:+.3f} to {result['high']:+.3f}"
    verdicts = {"a better": "TSA is better than LightGBM", "b better": "LightGBM is better than TSA"}
    plain = verdicts.get(result["verdict"], "No clear difference between TSA and LightGBM")
    return f"{plain}: {values} ({interval})."


def _write_scores(run: TrainedRun, scores: Array) -> None:
    """Write `scores.parquet` atomically: id, label and scores of each payment of the test range."""
    columns = run.scorer.with_calibration(scores.astype(np.float32))
    frame = pl.DataFrame({"id": run.store.ids()[run.rows], "label": run.store.label[run.rows], **columns})
    with atomic_file(run.path / "scores.parquet") as temporary:
        frame.write_parquet(temporary)


def _earlier_comparison(run: TrainedRun) -> dict[str, Any] | None:
    """The earlier comparison, if it was made with the same weights."""
    path = run.path / "comparison.json"
    if not path.exists():
        return None
    comparison: dict[str, Any] = json.loads(path.read_text())
    return comparison if comparison.pop("weights", None) == run.weights_hash else None


def _report(run: TrainedRun, measured: dict[str, Any], comparison: dict[str, Any] | None) -> dict[str, Any]:
    store, metadata, market = run.store, run.metadata, run.market
    return {
        "title": f"{market.name}: Temporal Self-Attention",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "market": {**market.to_dict(), "fingerprint": market.fingerprint},
        "data": {**store.data_report, "splits": run.ranges},
        "model": {
            "parameters": sum(p.numel() for p in run.scorer.bundle.network.parameters()),
            "preset": metadata["preset"],
            "config": metadata["model"],
            "training": metadata["training"],
            "sampling_rate_genuine": metadata["sampling_rate_genuine"],
            "weights": run.weights_hash,
        },
        "training": {name: metadata.get(name) for name in ("epochs", "best_epoch", "adapted", "outlook", "seeds")},
        "evaluation": measured,
        "comparison": comparison,
        "environment": metadata.get("environment"),
    }
