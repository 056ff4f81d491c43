"""The summary sentences of the report: which model is better, at which operating point, and what is flagged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsa.evaluation.report.formatting import MODEL, interval, share, signed

CLEAR_F1 = 0.02
"""A difference in F1 from which it is mentioned where average precision shows no clear difference."""


def headline(evaluation: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> dict[str, str]:
    """The verdict as {tone: better | worse | unclear, sentence, also}: `sentence` by average precision, `also` by ROC AUC."""
    if not comparison:
        own = evaluation["metrics"]["average_precision"]
        if own["value"] is None:
            sentence = f"The average precision of {MODEL} is not known: {own.get('reason', 'undefined')}."
        else:
            text = interval(own)
            sentence = f"{MODEL} reaches an average precision of {own['value']:.3f}" + (f" ({text})." if text else ".")
        return {"tone": "unclear", "sentence": sentence, "also": "It was not compared with another model."}
    other = comparison["model_name"]
    level = share(evaluation["settings"]["confidence"], digits=0)
    tone, sentence = _verdict(other, "average precision", comparison["difference"]["average_precision"], level)
    _, also = _verdict(other, "ROC AUC", comparison["difference"]["roc_auc"], level)
    return {"tone": tone, "sentence": sentence, "also": f"By ROC AUC: {also}"}


def _verdict(other: str, metric: str, difference: Mapping[str, Any], level: str) -> tuple[str, str]:
    a, b = difference.get("a"), difference.get("b")
    values = f"{metric} {a:.3f} against {b:.3f}" if a is not None and b is not None else metric
    if difference["low"] is None:
        return (
            "unclear",
            f"{MODEL} and {other} cannot be compared: {values} ({difference.get('reason', 'no interval')}).",
        )
    low, high = difference["low"], difference["high"]
    spread = f"{level} interval {signed(low)} to {signed(high)}"
    values += f" (difference {signed(difference['difference'])}, {spread})."
    if difference["verdict"] == "a better":
        return "better", f"{MODEL} is better than {other}: {values}"
    if difference["verdict"] == "b better":
        return "worse", f"{MODEL} is worse than {other}: {values}"
    return "unclear", f"No clear difference between {MODEL} and {other}: {values}"


def operating_point(evaluation: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> str | None:
    """Precision, recall and F1 of both models at their thresholds, if these say something else than average precision.

    That is: the other model has the higher F1, or average precision shows no clear difference where F1 does (`CLEAR_F1`).
    """
    if not comparison:
        return None
    own, other = evaluation["metrics"], comparison["evaluation"]["metrics"]
    names = ("precision", "recall", "f1")
    if any(metrics.get(name, {}).get("value") is None for metrics in (own, other) for name in names):
        return None
    verdict = comparison["difference"]["average_precision"].get("verdict")
    gain = round(own["f1"]["value"], 3) - round(other["f1"]["value"], 3)
    agrees = {"a better": gain >= 0, "b better": gain <= 0}.get(verdict or "", abs(gain) < CLEAR_F1)
    if agrees:
        return None
    better = MODEL if gain > 0 else comparison["model_name"]
    values = (
        f"{title} {own[name]['value']:.3f} against {other[name]['value']:.3f}"
        for name, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
    )
    return f"At their thresholds, {better} is ahead: {', '.join(values)} ({MODEL} first)."


def decision(evaluation: Mapping[str, Any]) -> str:
    """The numbers of payments that are flagged at the threshold, in one sentence."""
    tally = evaluation["confusion"]
    hits, alarms = tally["true_positives"], tally["false_positives"]
    frauds = hits + tally["false_negatives"]
    flagged = f"{MODEL} flags {hits + alarms:,} of {evaluation['n']:,} payments"
    text = f"{hits:,} of the {frauds:,} frauds, and {alarms:,} genuine payments"
    return f"At a threshold of {evaluation['threshold']:.4g}, {flagged}: {text}."
