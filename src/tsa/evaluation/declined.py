"""Payments that were declined (`label.decision`): how many, and how their scores differ from those of measured payments.

They have no outcome, so metrics are of the payments that earlier rules let pass (selective labels, Lakkaraju et al. 2017).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.clean_columns import DECLINED, ROLE
from tsa.evaluation.trained_run import TrainedRun
from tsa.progress import Progress, silent

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def declined_summary(
    run: TrainedRun, scores: NDArray[np.float32], threshold: float, progress: Progress = silent
) -> dict[str, Any] | None:
    """Counts and score quantiles of the declined payments among those of the range; None if the market names none.

    Args:
        run: The run.
        scores: (m,) raw scores of the measured payments.
        threshold: The raw score from which a payment counts as flagged.
    """
    if run.store.market.label.decision is None:
        return None
    declined = (run.store.clean.select(pl.col(ROLE) == DECLINED).collect().to_series()).to_numpy()
    rows = run.scored_rows[declined[run.scored_rows]]
    of_declined = run.score(rows, "scoring declined payments", progress) if len(rows) else scores[:0]
    return {
        "payments": len(rows),
        "share": len(rows) / max(1, len(run.scored_rows)),
        "flagged_share": float((of_declined >= threshold).mean()) if len(rows) else None,
        "flagged_share_measured": float((scores >= threshold).mean()) if len(scores) else None,
        "score_quantiles": _quantiles(of_declined),
        "score_quantiles_measured": _quantiles(scores),
    }


def declined_note(summary: dict[str, Any] | None) -> list[str]:
    """The sentences of the report on declined payments."""
    if summary is None or not summary["payments"]:
        return []
    return [
        f"{summary['payments']:,} payments ({summary['share']:.1%}) were declined and have no outcome: they are in no metric. "
        f"Their median score is {summary['score_quantiles']['0.5']:.4f} "
        f"(measured payments: {summary['score_quantiles_measured']['0.5']:.4f}), and {summary['flagged_share']:.1%} of them "
        f"are flagged (measured: {summary['flagged_share_measured']:.1%}). Precision and recall are of the payments that "
        "earlier decisions let pass; on all payments they may differ."
    ]


def _quantiles(scores: NDArray[np.float32]) -> dict[str, float] | None:
    if not len(scores):
        return None
    return {f"{q:g}": float(value) for q, value in zip(QUANTILES, np.quantile(scores, QUANTILES), strict=True)}
