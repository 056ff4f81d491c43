"""Evaluate a trained run, then write its bundle with the metrics."""

from __future__ import annotations

import json
from typing import Any

from tsa.evaluation.evaluate import comparison_on, metrics_of, report_on
from tsa.evaluation.run import TrainedRun
from tsa.inference.scorer import Scorer
from tsa.progress import Progress, silent
from tsa.training.train_model import Trained


def measure_trained(trained: Trained, *, comparison: bool, progress: Progress = silent) -> dict[str, Any]:
    """Evaluate a trained run, optionally compare it with LightGBM, then write its bundle.

    Writes the same files as `train`, `evaluate` and `compare_run` in turn, without scoring anything twice. If evaluation
    fails, the bundle is still written, with the metrics so far.

    Args:
        trained: The result of training.
        comparison: Whether to train LightGBM for comparison.
        progress: Reports progress.

    Returns:
        The content of report.json.

    Raises:
        DataError: If no outcome of the test range is known, or LightGBM cannot be trained on these rows.
    """
    run = TrainedRun(
        path=trained.out,
        scorer=Scorer(trained.bundle),
        store=trained.store,
        metadata=json.loads(json.dumps(trained.metadata)),
        market=trained.store.market,
        weights_hash=trained.bundle.model_sha256,
        scored=trained.scores,
    )
    report: dict[str, Any] = {}
    try:
        report = report_on(run, progress=progress)
        if comparison:
            report["comparison"] = comparison_on(run, report, progress=progress)
    finally:
        trained.write(metrics_of(report) if report else None)
    return report
