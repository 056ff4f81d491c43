"""The answer that a client gets for each exception: status, rule, headers; nothing of an unexpected one."""

from __future__ import annotations

import logging

import pytest

from tsa.data.values import RuleViolation
from tsa.errors import HistoryLost, HistoryUnavailable
from tsa.serving.errors import (
    BatcherClosedError,
    DeadlineExceededError,
    PaymentRefusedError,
    QueueFullError,
    RateLimitedError,
    RefusedError,
)
from tsa.serving.http.exceptions import STATUSES, problem_from_exception
from tsa.serving.problems import RULES, ProblemError


@pytest.mark.parametrize(
    ("error", "status", "rule"),
    [
        (ProblemError(404, "not_found", "there is no such file"), 404, "not_found"),
        (QueueFullError(3), 429, "queue_full"),
        (RateLimitedError(2), 429, "rate"),
        (DeadlineExceededError(), 504, "deadline"),
        (BatcherClosedError(), 503, "stopping"),
        (HistoryUnavailable("x", "away"), 503, "history_unavailable"),
        (HistoryLost("x", "lost"), 503, "history_lost"),
        (PaymentRefusedError(RuleViolation("too_late", "time", "must be later", "1")), 422, "too_late"),
        (PaymentRefusedError(RuleViolation("conflicting_id", "id", "must be new", "1")), 409, "conflicting_id"),
        *((RefusedError(name, "no"), status, name) for name, status in STATUSES.items()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_the_problem_of_an_exception(error: Exception, status: int, rule: str) -> None:
    problem = problem_from_exception(error)
    assert (problem.status, problem.rule) == (status, rule)
    assert rule in RULES
    assert ("Retry-After" in problem.headers) == (status in (429, 503))


def test_retry_after_is_what_the_exception_says() -> None:
    assert problem_from_exception(QueueFullError(3)).headers["Retry-After"] == "3"
    assert problem_from_exception(RateLimitedError(2)).headers["Retry-After"] == "2"


def test_a_refusal_keeps_its_field() -> None:
    problem = problem_from_exception(RefusedError("no_reasons", "explain must be false", field="explain"))
    assert (problem.field, problem.detail) == ("explain", "explain must be false")


def test_an_unexpected_exception_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        problem = problem_from_exception(ZeroDivisionError("card 4711"))
    assert (problem.status, problem.rule) == (500, "internal")
    assert "4711" not in str(problem.document("r1")) + caplog.text
