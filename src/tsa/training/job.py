"""Evaluate a trained run, then write its bundle with the metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from tsa.evaluation.evaluate import comparison_on, metrics_of, report_on
from tsa.evaluation.run import TrainedRun, for_evaluation
from tsa.inference.scorer import Scorer
from tsa.progress import Progress, silent
from tsa.training.ending.time_limit import TimeLimit
from tsa.training.train_model import Trained

COMPARED_SHARE = 0.8
"""Share of the time left that LightGBM may take; the rest is for measuring it."""

logger = logging.getLogger(__name__)


def measure_trained(
    trained: Trained,
    *,
    comparison: bool,
    limit: TimeLimit | None = None,
    overrides: Sequence[str] = (),
    progress: Progress = silent,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluate a trained run, optionally compare it with LightGBM, then write its bundle.

    Writes the same files as `train`, `evaluate` and `compare_run` in turn, without scoring anything twice. If evaluation
    fails, the bundle is still written, with the metrics so far.

    Args:
        trained: The result of training.
        comparison: Whether to train LightGBM for comparison.
        limit: Time for all of it. LightGBM stops when it is up, and is not trained if there is none left.
        overrides: `evaluation.KEY=value` settings over the market.
        progress: Reports progress.
        settings: As for `evaluate`.

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
        market=for_evaluation(trained.store.market, overrides),
        weights_hash=trained.bundle.model_sha256,
        scored=trained.scores,
    )
    report: dict[str, Any] = {}
    try:
        report = report_on(run, progress=progress, **settings)
        seconds = None if limit is None else COMPARED_SHARE * limit.seconds_left()
        if comparison and seconds is not None and seconds <= 0:
            logger.warning("no time is left for the comparison with LightGBM; run: tsa compare %s", trained.out)
        elif comparison:
            report["comparison"] = comparison_on(run, report, seconds=seconds, progress=progress)
    finally:
        trained.write(metrics_of(report) if report else None)
    return report
