"""Exceptions of the scoring service. They know no HTTP: `tsa.serving.http.exceptions` has the answer to each."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from tsa.data.values import RuleViolation


class QueueFullError(Exception):
    """The queue is full. `retry_seconds`: when the client should try again."""

    def __init__(self, retry_seconds: int) -> None:
        super().__init__("queue full")
        self.retry_seconds = retry_seconds


class RateLimitedError(Exception):
    """A client sent too many payments. `retry_seconds`: when it should try again."""

    def __init__(self, retry_seconds: int) -> None:
        super().__init__("too many payments")
        self.retry_seconds = retry_seconds


class DeadlineExceededError(Exception):
    """The deadline passed before scoring started."""


class BatcherClosedError(Exception):
    """The batcher is closed."""


class RefusedError(Exception):
    """What was asked for is refused.

    Attributes:
        rule: Name of the rule, one of `tsa.serving.problems.RULES`.
        detail: The sentence for the client.
        field: The field of the request, if it is one.
    """

    def __init__(self, rule: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.rule, self.detail, self.field = rule, detail, field


class PaymentRefusedError(Exception):
    """A payment breaks a rule."""

    def __init__(self, violation: RuleViolation) -> None:
        super().__init__(violation.rule)
        self.violation = violation


MAX_PLACES = 12


def safe_traceback(error: BaseException) -> str:
    """The class of an error and its traceback in one line, without its text, which may contain a payment's values."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"{os.sep}tsa{os.sep}" in frame.filename]
    places = [f"{frame.filename.rsplit(os.sep, 2)[-2]}/{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
    return f"{type(error).__name__} at " + " < ".join(reversed(places[-MAX_PLACES:]))
