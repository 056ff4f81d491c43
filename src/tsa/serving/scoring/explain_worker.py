"""Reasons of single payments, made in a thread of their own: they take longer than scores, and no score waits for them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tsa.data.online.payments import RuleViolation
from tsa.errors import ConfigError
from tsa.explain.explainer import Explainer
from tsa.explain.explanation import Explanation
from tsa.explain.integrated_gradients import need_captum
from tsa.inference.scorer import Scorer
from tsa.model.collate import request_batch
from tsa.serving.history.base import HistoryStore
from tsa.serving.problems import ProblemError
from tsa.serving.request_schema import PaymentRequest
from tsa.serving.scoring.batcher import Batcher
from tsa.serving.scoring.pipeline import ScoringPipeline
from tsa.serving.scoring.preview import load_scoring_input

MAX_EXPLAINED = 16
"""Payments of one request that are explained, and those of all requests that wait for it."""
PARTS = ("score", "baseline", "total", "residual", "features", "histories")


class ExplanationWorker:
    """Explains payments with the bundle that scores, as their histories stand when they are asked for."""

    def __init__(self, store: HistoryStore | None) -> None:
        self._store = store
        self._batcher: Batcher[PaymentRequest, dict[str, Any]] = Batcher(
            self._explain, max_batch=1, max_queue=MAX_EXPLAINED
        )

    def set_bundle(self, scorer: Scorer, version: str) -> None:
        """Explain with this bundle from now on."""
        self._with = ScoringPipeline(scorer, version, time.time), Explainer(scorer.bundle)

    def check(self, count: int) -> None:
        """ProblemError for more payments than are explained at once, or where a library is missing."""
        try:
            need_captum()
        except ConfigError:
            detail = "explain must be false: this server was installed without it"
            raise ProblemError(422, "no_reasons", detail, field="explain") from None
        if count > MAX_EXPLAINED:
            raise ProblemError(413, "too_many", f"at most {MAX_EXPLAINED} payments are explained at once")

    async def reasons(self, entries: Sequence[PaymentRequest], deadline: float) -> list[dict[str, Any]]:
        """What is added to the answer of each: `reasons`, and the `explanation` that they come from."""
        return await self._batcher.submit(entries, deadline)

    def _explain(self, entries: Sequence[PaymentRequest]) -> list[dict[str, Any]]:
        pipeline, explainer = self._with
        found = []
        for entry in entries:
            seen = load_scoring_input(pipeline, self._store, entry.row, entry.histories)
            if isinstance(seen, RuleViolation):
                raise ProblemError.of(seen)
            found.append(_told(explainer.explain(request_batch(seen.requests), seen.payment, seen.earlier)))
        return found

    def close(self, within: float | None = None) -> None:
        """Finish what waits, `within` so many seconds."""
        self._batcher.close(within)


def _told(explanation: Explanation) -> dict[str, Any]:
    whole = explanation.to_dict()
    return {"reasons": whole["reasons"], "explanation": {name: whole[name] for name in PARTS}}
