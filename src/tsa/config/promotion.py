"""`[promotion]`: what a candidate has to reach before it may replace the model in use."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tsa.config.base import Column, ConfigModel


class Promotion(ConfigModel):
    """Rules for a candidate, measured on the payments of the test range that both models score. A rule without a limit is
    left out.

    Attributes:
        metric: The metric whose difference (candidate - champion) counts.
        min_difference: The smallest difference.
        min_difference_low: The smallest lower end of the 95 % interval of the difference.
        max_calibration_error: The largest expected calibration error of the candidate's probabilities.
        segments: Columns whose values may not get worse; by default those of `evaluation.segments`.
        max_segment_drop: The largest fall of the metric in a segment.
        min_segment_frauds: Segments with fewer frauds are left out.
        max_score_psi: The largest population stability index of the candidate's raw scores against the champion's.
        max_latency_ms: The longest time of one payment, in milliseconds: 95 % of payments, scored one by one on the machine
            of the gate. The endpoint's own work comes on top.
        max_latency_ratio: The same, as a multiple of the champion's.
        max_changed_decisions: The largest share of payments that get another decision.
        min_frauds: With fewer known frauds nothing is promoted.
    """

    metric: Literal["average_precision", "roc_auc"] = "average_precision"
    min_difference: float = Field(default=-0.01, ge=-1, le=1)
    min_difference_low: float | None = Field(default=None, ge=-1, le=1)
    max_calibration_error: float | None = Field(default=None, gt=0, le=1)
    segments: tuple[Column, ...] | None = None
    max_segment_drop: float | None = Field(default=None, ge=0, le=1)
    min_segment_frauds: int = Field(default=20, ge=1)
    max_score_psi: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_latency_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_latency_ratio: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_changed_decisions: float | None = Field(default=None, ge=0, le=1)
    min_frauds: int = Field(default=10, ge=1)
