"""Explains single payments in a separate thread, because explanations are slow and no score may wait for them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tsa.data.values import RuleViolation
from tsa.errors import ConfigError
from tsa.explain.explainer import Explainer
from tsa.explain.explanation import Explanation
from tsa.explain.integrated_gradients import need_captum
from tsa.inference.scorer import Scorer
from tsa.serving.errors import PaymentRefusedError, RefusedError
from tsa.serving.history.base import HistoryStore
from tsa.serving.request_limits import PaymentRequest
from tsa.serving.scoring.batcher import Batcher
from tsa.serving.scoring.pipeline import ScoringPipeline
from tsa.serving.scoring.preview import load_scoring_input

MAX_EXPLAINED = 16
"""Largest number of payments to explain in one request, and in the queue."""
PARTS = ("score", "baseline", "total", "residual", "parts", "features", "histories")


class ExplanationWorker:
    """Explains payments with the serving bundle and their current histories."""

    def __init__(self, store: HistoryStore | None) -> None:
        self._store = store
        self._batcher: Batcher[PaymentRequest, dict[str, Any]] = Batcher(
            self._explain, max_batch=1, max_queue=MAX_EXPLAINED
        )

    def set_bundle(self, scorer: Scorer, version: str) -> None:
        """Explain with this bundle from now on."""
        self._with = ScoringPipeline(scorer, version, time.time), Explainer(scorer.bundle)

    def check(self, count: int) -> None:
        """Raise RefusedError for too many payments, or if a library is missing."""
        try:
            need_captum()
        except ConfigError:
            detail = "explain must be false: this server was installed without the libraries for explanations"
            raise RefusedError("no_reasons", detail, field="explain") from None
        if count > MAX_EXPLAINED:
            raise RefusedError("too_many", f"at most {MAX_EXPLAINED} payments are explained at once")

    async def reasons(self, entries: Sequence[PaymentRequest], deadline: float) -> list[dict[str, Any]]:
        """The fields to add to each answer: `reasons`, and the `explanation` that they come from."""
        return await self._batcher.submit(entries, deadline)

    def _explain(self, entries: Sequence[PaymentRequest]) -> list[dict[str, Any]]:
        pipeline, explainer = self._with
        explained = []
        for entry in entries:
            seen = load_scoring_input(pipeline, self._store, entry.row, entry.histories)
            if isinstance(seen, RuleViolation):
                raise PaymentRefusedError(seen)
            explained.append(_answer_fields(explainer.explain_request(seen.requests, seen.payment, seen.earlier)))
        return explained

    def close(self, within: float | None = None) -> None:
        """Finish the queued payments, within this many seconds."""
        self._batcher.close(within)


def _answer_fields(explanation: Explanation) -> dict[str, Any]:
    fields = explanation.to_dict()
    return {"reasons": fields["reasons"], "explanation": {name: fields[name] for name in PARTS}}
