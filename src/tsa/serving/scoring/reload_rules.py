"""Decide whether a new bundle may replace the running one without anybody asking for it by hand.

A bundle that was just trained into the served folder must not go live before it was evaluated, and a bundle without
thresholds must not turn decisions into nulls.
"""

from __future__ import annotations

from tsa.bundle.bundle import Bundle
from tsa.errors import BundleError, ConfigError

ALLOW = "--allow-unevaluated"


class TakeoverRefusedError(BundleError):
    """A valid bundle that may not replace the running one.

    Attributes:
        outcome: What is missing, as `tsa_reloads_total` names it: "unevaluated" or "without_decisions".
    """

    def __init__(self, outcome: str, text: str) -> None:
        super().__init__(text)
        self.outcome = outcome


def is_evaluated(bundle: Bundle) -> bool:
    """Whether the bundle contains the metrics of an evaluation."""
    return bundle.metrics is not None and "evaluation" in bundle.metrics


def check_takeover(running: Bundle, new: Bundle, *, allow_unevaluated: bool) -> None:
    """Check that a new bundle may replace the running one.

    Args:
        running: The bundle in use.
        new: A valid bundle.
        allow_unevaluated: Skip the checks for an evaluation and for decisions.

    Raises:
        ConfigError: The new bundle is of another market.
        TakeoverRefusedError: It was not evaluated, or lacks decisions that the running one has.
    """
    if new.market.name != running.market.name or (new.market.wire is None) != (running.market.wire is None):
        raise ConfigError(f"the new bundle must be of market {running.market.name} (got {new.market.name})")
    if allow_unevaluated:
        return
    if not is_evaluated(new):
        rule = "the new bundle must be evaluated (it has no metrics)"
        raise TakeoverRefusedError("unevaluated", f"{rule}; run tsa evaluate, or serve with {ALLOW}")
    if running.thresholds is not None and new.thresholds is None:
        names = ", ".join(decision.name for decision in running.thresholds.decisions)
        rule = f"the new bundle must have decisions, as the running one has ({names})"
        advice = f"run tsa bundle set-thresholds or tsa thresholds --save, or serve with {ALLOW}"
        raise TakeoverRefusedError("without_decisions", f"{rule}; {advice}")
