"""Score a batch so that one payment that fails does not fail the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tsa.data.values import RuleViolation
from tsa.errors import DataError, HistoryUnavailable
from tsa.serving.errors import safe_traceback
from tsa.serving.request_limits import PaymentRequest
from tsa.serving.results import ScoreResult
from tsa.serving.scoring.scoring_service import ScoringService

logger = logging.getLogger(__name__)


def score_isolating_failures(
    scoring_service: ScoringService, entries: Sequence[PaymentRequest]
) -> list[ScoreResult | RuleViolation]:
    """Return a result or a rule violation for each entry. Raises HistoryUnavailable, and errors that are bugs."""
    try:
        return scoring_service.score([entry.row for entry in entries], [entry.histories for entry in entries])
    except HistoryUnavailable:
        raise
    except Exception as error:
        if len(entries) > 1:  # one payment must not fail the others in its batch, whatever the error
            return [result for entry in entries for result in score_isolating_failures(scoring_service, [entry])]
        if not isinstance(error, DataError):
            raise
        logger.warning("a payment cannot be scored: %s", safe_traceback(error))
        return [RuleViolation("no_score", "payment", "must be one that can be scored", "it cannot")]
