"""Exceptions of the endpoint, and the problem that a client gets for each."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path

from tsa.errors import HistoryLost, HistoryUnavailable
from tsa.serving.history.base import REASONS
from tsa.serving.problems import ProblemError

logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """The queue is full. `retry_seconds`: when the client should try again."""

    def __init__(self, retry_seconds: int) -> None:
        super().__init__("queue full")
        self.retry_seconds = retry_seconds


class DeadlineExceededError(Exception):
    """The deadline passed before scoring started."""


class BatcherClosedError(Exception):
    """The batcher is closed."""


RETRY_SECONDS = "1"


MAX_PLACES = 12


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


def safe_traceback(error: BaseException) -> str:
    """The class of an error and its traceback in one line, without its text, which may contain a payment's values."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"{os.sep}tsa{os.sep}" in frame.filename]
    places = [f"{frame.filename.rsplit(os.sep, 2)[-2]}/{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
    return f"{type(error).__name__} at " + " < ".join(reversed(places[-MAX_PLACES:]))
