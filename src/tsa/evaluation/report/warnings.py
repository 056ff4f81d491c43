"""What a report warns of: a history that counts for nothing, validation clearly behind boosted trees, and a network that
adds nothing to the model's own trees.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsa.evaluation.report.formatting import MODEL, signed

NOTHING = 0.02
"""A history counts for nothing if it has less than this share of the weight that is free to move."""


def warnings_of(report: Mapping[str, Any]) -> list[str]:
    """The warnings of a report, each one or two sentences; empty if there are none."""
    return [
        *_ignored(report.get("history_weights")),
        *_behind(report.get("comparison")),
        *_no_network(report.get("parts")),
    ]


def _ignored(weights: Mapping[str, Any] | None) -> list[str]:
    if not weights:
        return []
    floor, n = weights["floor"], len(weights["histories"])
    free = 1.0 - n * floor
    least = f", near the least that model.fusion_floor allows ({floor:.2f})" if floor else ""
    return [
        f"The {history['name']} history counts for almost nothing: its mean weight is {history['mean']:.3f} of 1{least}. "
        "If its events should matter, try another training.seed, more epochs, or model.fusion=concat."
        for history in weights["histories"]
        if history["mean"] is not None and history["mean"] - floor < NOTHING * free
    ]


def _behind(comparison: Mapping[str, Any] | None) -> list[str]:
    difference = (comparison or {}).get("validation")
    if not comparison or not difference or difference["verdict"] != "b better":
        return []
    interval = f"95 % interval {signed(difference['low'])} to {signed(difference['high'])}"
    return [
        f"On the validation range, {MODEL} is clearly behind {comparison['model_name']}: average precision "
        f"{difference['a']:.3f} against {difference['b']:.3f} (difference {signed(difference['difference'])}, {interval}). "
        "Training may have gone wrong: try another training.seed or more epochs before this model is used."
    ]


def _no_network(parts: Mapping[str, Any] | None) -> list[str]:
    """Trees that were clearly better alone than with the network: the network may have gone wrong."""
    choice = (parts or {}).get("choice") or {}
    difference = (choice.get("differences") or {}).get("trees")
    if choice.get("form") != "trees" or choice.get("reason") != "measured" or not difference:
        return []
    precision, interval = choice["average_precision"], f"{signed(difference['low'])} to {signed(difference['high'])}"
    return [
        "The network counts for nothing: on payments that neither learned from, the trees alone were clearly better than "
        f"network and trees together (average precision {precision['trees']:.3f} against {precision['combined']:.3f}, "
        f"{round(100 * choice['confidence'])} % interval of the difference {interval}; the network alone has "
        f"{precision['network']:.3f}). Its training may have gone wrong: try another training.seed or more epochs."
    ]
