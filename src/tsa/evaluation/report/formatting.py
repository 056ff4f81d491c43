"""Numbers of the report as text, and the names of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MODEL = "TSA"
DASH = "–"

METRICS = {
    "average_precision": ("Average precision", "Precision averaged over all frauds, from the highest score down"),
    "roc_auc": ("ROC AUC", "Chance that a fraud scores higher than a genuine payment"),
    "pr_auc": ("PR AUC", "Area under precision over recall, by trapezoids"),
    "precision_at_k": ("Card precision@{k}", "Share of frauds among the {k} highest cards or customers of a day"),
    "precision": ("Precision at threshold", "Share of frauds among the flagged payments"),
    "recall": ("Recall at threshold", "Share of the frauds that are flagged"),
    "f1": ("F1", "Harmonic mean of precision and recall"),
    "accuracy": ("Accuracy", "Share of payments classified correctly; high for any model if fraud is rare"),
    "value_weighted_recall": ("Recall by value", "Share of the fraudulent amount that is flagged"),
    "value_weighted_recall_at_fpr_0.01": ("Recall by value at 1% false positives", "The same, with 1% false alarms"),
}


def metric_name(name: str, k: int | None = None) -> tuple[str, str]:
    """Title and one-line explanation of a metric."""
    if name.startswith("recall_at_fpr_"):
        rate = share(float(name.removeprefix("recall_at_fpr_")), digits=None)
        return (
            f"Recall at {rate} false positives",
            f"Share of the frauds found while {rate} of genuine payments are flagged",
        )
    if name.startswith("recall_at_precision_"):
        level = share(float(name.removeprefix("recall_at_precision_")), digits=None)
        return f"Recall at {level} precision", f"Share of the frauds found while {level} of the flagged are fraud"
    title, explanation = METRICS.get(name, (name, ""))
    return title.format(k=k or "k"), explanation.format(k=k or "k")


def count(value: Any) -> str:
    """12,345; a dash for None."""
    return DASH if value is None else f"{value:,}"


def decimal(value: float | None, digits: int = 3) -> str:
    """0.762; a dash for None."""
    return DASH if value is None else f"{value:.{digits}f}"


def share(value: float | None, digits: int | None = 2) -> str:
    """0.0078 as 0.78%; with digits=None as many digits as needed."""
    if value is None:
        return DASH
    return f"{value * 100:.6g}%" if digits is None else f"{value * 100:.{digits}f}%"


def signed(value: float) -> str:
    """+0.012, -0.012, and 0.000 without a sign."""
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text


def moment(text: str | None) -> str:
    """2026-01-05T12:00:00+00:00 as 2026-01-05 12:00:00 UTC; empty for None."""
    return (text or "").replace("T", " ").replace("+00:00", " UTC")


def interval(metric: Mapping[str, Any], digits: int = 3) -> str:
    """0.751–0.772; empty if there is no interval."""
    if metric.get("low") is None:
        return ""
    return f"{metric['low']:.{digits}f}–{metric['high']:.{digits}f}"
