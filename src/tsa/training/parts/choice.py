"""Decide how the parts of a model are joined: fit their weights, and with `parts = "auto"` keep the simplest form.

Everything is fitted and measured on payments that neither part has learned from.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.evaluation.metrics.bootstrap import MINIMUM_EVENTS
from tsa.evaluation.metrics.paired import paired_difference
from tsa.evaluation.metrics.scored_payments import ScoredPayments
from tsa.model.joining import ALONE, MEAN, Joining, fit_joining

Array = NDArray[Any]
FORMS = ("network", "trees", "combined")
"""From simple to less simple."""
CONFIDENCE = 0.5
"""A form is worse if the interval of this confidence lies below that of the best form: if the best form has the higher
average precision in three of four resamples."""

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
        parts: "network", "trees" or "combined": this form; "auto": the simplest that is not worse than the best.
        log_odds: (n,) of each part, of payments that neither has learned from; n may be 0.
        label: (n,) 1 fraud, 0 genuine.
        seed: Of the bootstrap.
    """
    if parts in ALONE:
        return PartsChoice(parts, ALONE[parts], {"reason": "set"})
    frauds, n = int((label == 1).sum()), len(label)
    counts = {"payments": n, "frauds": frauds}
    if min(frauds, n - frauds) < MINIMUM_EVENTS:
        reason = f"with fewer than {MINIMUM_EVENTS} frauds or genuine payments to compare on, the mean of both is taken"
        logger.warning("parts: %s (got %d payments, %d frauds)", reason, n, frauds)
        return PartsChoice("combined", MEAN, {**counts, "reason": reason})
    joining = fit_joining(log_odds, label)
    if parts == "combined":
        return PartsChoice("combined", joining, {**counts, "reason": "set"})
    scores = {**log_odds, "combined": joining(log_odds)}
    form, differences = _simplest(scores, label, seed)
    chosen = PartsChoice(form, {**ALONE, "combined": joining}[form], {**counts, "reason": "measured", **differences})
    logger.info("parts: %s", describe(chosen))
    return chosen


def _simplest(scores: Mapping[str, Array], label: Array, seed: int) -> tuple[str, dict[str, Any]]:
    """The simplest form that is not worse than the best; and the average precision of each, with its difference to it."""
    payments = ScoredPayments(label=label, score=np.zeros(len(label)), time_seconds=np.zeros(len(label)))

    def difference(form: str, other: str) -> dict[str, Any]:
        first, second = (np.asarray(scores[name], np.float64) for name in (form, other))
        return paired_difference(first, second, payments, seed=seed, confidence=CONFIDENCE)["average_precision"]

    precision = {form: difference(form, form)["a"] for form in FORMS}
    best = max(reversed(FORMS), key=lambda form: precision[form])
    compared = {form: difference(form, best) for form in FORMS if form != best}
    form = next(form for form in FORMS if form == best or not compared[form]["high"] < 0)
    return form, {
        "average_precision": precision,
        "best": best,
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
