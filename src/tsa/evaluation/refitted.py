"""What a report says of a run that was refitted on all known outcomes (`tsa.training.refitting`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def refit_notes(metadata: Mapping[str, Any]) -> list[str]:
    """The sentences of a report on a refitted run; none for another."""
    origin = metadata.get("refit")
    if not origin:
        return []
    trees = "" if origin["trees"] is None else f" and {origin['trees']} trees"
    return [
        f"This model was refitted from the run {origin['run']}, with its {origin['epochs']} epochs{trees}: it learned from all "
        f"payments whose outcomes were known by {origin['until']}, so it can be measured on later payments only. Calibration, "
        "thresholds and the weights of its parts come from models that did not learn from the payments used for them. "
        "LightGBM learned from the training range alone. What refitting brings is measured by tsa backtest --refit."
    ]
