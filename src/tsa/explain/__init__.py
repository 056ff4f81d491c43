"""Explanations of scores: use `explain_log` or `Explainer`. docs/concepts/reasons.md describes the method and its limits."""

from __future__ import annotations

from tsa.explain.explainer import Explainer
from tsa.explain.explanation import Explanation, Reason
from tsa.explain.integrated_gradients import need_captum
from tsa.explain.log import explain_log, write_explanations
from tsa.explain.raw_values import Payment

__all__ = ["Explainer", "Explanation", "Payment", "Reason", "explain_log", "need_captum", "write_explanations"]
