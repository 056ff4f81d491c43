"""Why a payment got its score. docs/reasons.md tells how this is found, and what it does not say."""

from __future__ import annotations

from tsa.scoring.explain.attribution import need_captum
from tsa.scoring.explain.explainer import Explainer
from tsa.scoring.explain.explanation import Explanation, Reason
from tsa.scoring.explain.facts import Payment
from tsa.scoring.explain.logs import explain_log, write_explanations

__all__ = ["Explainer", "Explanation", "Payment", "Reason", "explain_log", "need_captum", "write_explanations"]
