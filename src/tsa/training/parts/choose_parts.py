"""Decide how the parts of a model are joined: fit their weights, and with `parts = "auto"` use one alone if it is better.

Everything is fitted and measured on payments that neither part has learned from.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.errors import ModelError
from tsa.evaluation.metrics.bootstrap import MINIMUM_EVENTS
from tsa.evaluation.metrics.paired import paired_difference
from tsa.evaluation.metrics.scored_payments import ScoredPayments
from tsa.model.network_and_trees import ALONE, MEAN, Joining, fit_joining

Array = NDArray[Any]
CONFIDENCE = 0.95
"""A part is used alone if, at this confidence, it has the higher average precision."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartsChoice:
    """The form of a model: how its parts are joined, and what was measured to decide it."""

    form: str
    joining: Joining
    measured: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"form": self.form, **self.measured}


def choose_form(parts: str, log_odds: Mapping[str, Array], label: Array, *, seed: int = 0) -> PartsChoice:
    """Join both parts as the setting `parts` asks.

    Args:
        parts: "network", "trees" or "combined": this form; "auto": both, unless one alone is better.
        log_odds: (n,) of each part, of payments that neither has learned from; n may be 0.
        label: (n,) 1 fraud, 0 genuine.
        seed: Of the bootstrap.
    """
    if parts in ALONE:
        return PartsChoice(parts, ALONE[parts], {"reason": "set"})
    frauds, n = int((label == 1).sum()), len(label)
    counts = {"payments": n, "frauds": frauds}
    if min(frauds, n - frauds) < MINIMUM_EVENTS:
        reason = (
            f"with fewer than {MINIMUM_EVENTS} frauds or genuine payments to compare on, network and trees are averaged"
        )
        logger.warning("parts: %s (got %d payments, %d frauds)", reason, n, frauds)
        return PartsChoice("combined", MEAN, {**counts, "reason": reason})
    try:
        joining = fit_joining(log_odds, label)
    except ModelError as error:
        reason = f"network and trees are averaged, since {error}"
        logger.warning("parts: %s", reason)
        return PartsChoice("combined", MEAN, {**counts, "reason": reason})
    if parts == "combined":
        return PartsChoice("combined", joining, {**counts, "reason": "set"})
    form, measured = _best({**log_odds, "combined": joining(log_odds)}, label, seed)
    choice = PartsChoice(form, {**ALONE, "combined": joining}[form], {**counts, "reason": "measured", **measured})
    logger.info("parts: %s", describe(choice))
    return choice


def _best(scores: Mapping[str, Array], label: Array, seed: int) -> tuple[str, dict[str, Any]]:
    """The form, and what was measured: both parts together, unless one alone is better beyond chance."""
    payments = ScoredPayments(label=label, score=np.zeros(len(label)), time_seconds=np.zeros(len(label)))
    combined = np.asarray(scores["combined"], np.float64)
    compared = {
        form: paired_difference(
            np.asarray(scores[form], np.float64), combined, payments, seed=seed, confidence=CONFIDENCE
        )["average_precision"]
        for form in ALONE
    }
    precision = {**{form: values["a"] for form, values in compared.items()}, "combined": compared["trees"]["b"]}
    better = [form for form, values in compared.items() if values["low"] > 0]
    form = max(better, key=lambda form: precision[form], default="combined")
    return form, {
        "average_precision": precision,
        "differences": {
            name: {key: values[key] for key in ("difference", "low", "high")} for name, values in compared.items()
        },
        "confidence": CONFIDENCE,
    }


def describe(choice: PartsChoice) -> str:
    """The form and what was measured, in one sentence."""
    precision = choice.measured.get("average_precision", {})
    shown = ", ".join(f"{form} {value:.3f}" for form, value in precision.items())
    weights = choice.joining
    return f"{choice.form} (average precision: {shown}; weights {weights.network:.3g} and {weights.trees:.3g})"
