"""The problem that a client gets for each exception."""

from __future__ import annotations

import logging

from tsa.errors import HistoryLost, HistoryUnavailable
from tsa.serving.errors import (
    BatcherClosedError,
    DeadlineExceededError,
    PaymentRefusedError,
    QueueFullError,
    RateLimitedError,
    RefusedError,
    safe_traceback,
)
from tsa.serving.history.base import REASONS
from tsa.serving.problems import BROKEN_RULE, TOO_LARGE, ProblemError

logger = logging.getLogger(__name__)

STATUSES = {
    "bundle": 409,
    "bundle_unevaluated": 409,
    "bundle_without_decisions": 409,
    "no_reasons": BROKEN_RULE,
    "too_many": TOO_LARGE,
}
"""Rule of a RefusedError -> status."""
RETRY_SECONDS = "1"


def rate_limited(seconds: int) -> ProblemError:
    """The problem for a client over its rate limit."""
    detail = f"fewer payments must be sent: try again in {seconds} s"
    return ProblemError(429, "rate", detail, headers={"Retry-After": str(seconds)})


def stopping() -> ProblemError:
    """The problem for requests while the server is being stopped."""
    headers = {"Retry-After": RETRY_SECONDS, "Connection": "close"}
    return ProblemError(503, "stopping", "this server is being stopped", headers=headers)


def problem_from_exception(error: Exception) -> ProblemError:
    """The problem that a client gets for an exception."""
    match error:
        case ProblemError():
            return error
        case RefusedError():
            return ProblemError(STATUSES[error.rule], error.rule, error.detail, field=error.field)
        case PaymentRefusedError():
            return ProblemError.of(error.violation)
        case RateLimitedError():
            return rate_limited(error.retry_seconds)
        case QueueFullError():
            headers = {"Retry-After": str(error.retry_seconds)}
            return ProblemError(429, "queue_full", "too many payments wait already", headers=headers)
        case DeadlineExceededError():
            return ProblemError(504, "deadline", "the payment could not be scored before its deadline")
        case BatcherClosedError():
            return stopping()
        case HistoryUnavailable():
            headers = {"Retry-After": RETRY_SECONDS}
            rule = "history_lost" if isinstance(error, HistoryLost) else "history_unavailable"
            detail = f"histories cannot be read or written at the moment: {REASONS[error.reason]}"
            return ProblemError(503, rule, detail, headers=headers)
    logger.error("%s", safe_traceback(error))
    return ProblemError(500, "internal", "internal error; see the log of the server")
