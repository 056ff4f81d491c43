"""How each fold of a backtest trains and measures, and what its models are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tsa.evaluation.daily_queue import Costs
from tsa.training.config import TrainingConfig

MODEL, BASELINE, REFIT = "model", "baseline", "refit"
NAMES = {MODEL: "TSA", BASELINE: "LightGBM", REFIT: "TSA refitted"}
"""What each model is called."""


@dataclass(frozen=True, kw_only=True)
class BacktestSettings:
    """How each fold trains and measures.

    Attributes:
        preset: The network's.
        model: Settings of the network that differ from the preset.
        training: The training settings.
        costs: Costs of reviews and missed frauds.
        amount_column: The column with the loss of a missed fraud; None: the market's amount.
        baseline: Whether to train LightGBM in each fold too.
        refit: Whether to train each model again on all known outcomes too (`tsa.training.refitting`).
        warm_start: Whether each network starts from the weights of the fold before (`tsa.training.parts.warm_start`).
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
    warm_start: bool = False
    max_age: int | None = None
    replicates: int = 200

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        plain = ("preset", "amount_column", "baseline", "refit", "warm_start", "max_age", "replicates")
        return {
            **{name: getattr(self, name) for name in plain},
            "model": dict(self.model),
            "training": self.training.model_dump(mode="json"),
            "costs": asdict(self.costs),
        }
