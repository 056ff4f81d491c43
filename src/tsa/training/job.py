"""The end of the main job: a trained run is measured, and its bundle written once, with what was measured."""

from __future__ import annotations

import json
from typing import Any

from tsa.evaluation.evaluate import comparison_on, metrics_of, report_on
from tsa.evaluation.run import TrainedRun
from tsa.inference.scorer import Scorer
from tsa.progress import Progress, silent
from tsa.training.train_model import Trained


def measure_trained(trained: Trained, *, comparison: bool, progress: Progress = silent) -> dict[str, Any]:
    """Evaluate a trained run, and where asked for compare it with LightGBM; then write its bundle, once.

    The store, the network and the scores of the validation and calibration ranges are taken as training left them. What
    is written is what `train`, `evaluate` and `compare_run` write one after the other. Where measuring fails, the bundle
    is written all the same, with what was measured until then.

    Args:
        trained: What training came to.
        comparison: Whether to train LightGBM beside it.
        progress: Told of what takes long.

    Returns:
        What report.json holds.

    Raises:
        DataError: Where no outcome of the test range is known, or LightGBM cannot be trained on these rows.
    """
    run = TrainedRun(
        path=trained.out,
        scorer=Scorer(trained.bundle),
        store=trained.store,
        metadata=json.loads(json.dumps(trained.account)),
        market=trained.store.market,
        weights_hash=trained.weights_sha256,
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
