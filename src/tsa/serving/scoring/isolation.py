"""Payments over the scoring service, such that one that fails does not fail the others. It knows no server."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tsa.data.online.payments import RuleViolation
from tsa.errors import DataError, HistoryUnavailable
from tsa.serving.errors import safe_traceback
from tsa.serving.request_schema import PaymentRequest
from tsa.serving.results import ScoreResult
from tsa.serving.scoring.scoring_service import ScoringService

logger = logging.getLogger(__name__)


def score_isolating_failures(
    scoring_service: ScoringService, entries: Sequence[PaymentRequest]
) -> list[ScoreResult | RuleViolation]:
    """An answer or a problem for each. Raises HistoryUnavailable, and what is a fault of the program."""
    try:
        return scoring_service.score([entry.row for entry in entries], [entry.histories for entry in entries])
    except HistoryUnavailable:
        raise
    except Exception as error:
        if len(entries) > 1:  # whatever it is: one payment must not fail those that share its batch
            return [result for entry in entries for result in score_isolating_failures(scoring_service, [entry])]
        if not isinstance(error, DataError):
            raise
        logger.warning("a payment cannot be scored: %s", safe_traceback(error))
        return [RuleViolation("no_score", "payment", "must be one that can be scored", "it cannot")]
