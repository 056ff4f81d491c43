"""The client: payments over HTTP, each call with a deadline, tried again where that is safe.

It is safe for whatever is sent: the endpoint answers a payment that it knows with the answer that it gave, and an
outcome that is told twice counts once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Self, TypeVar

import httpx

from tsa_client.answers import Answer, Problem
from tsa_client.errors import (
    ConnectionLostError,
    DeadlineError,
    InvalidPaymentError,
    OverloadedError,
    RefusedError,
    UnavailableError,
    UnexpectedAnswerError,
    refusal,
)
from tsa_client.retrying import Backoff, Deadline, seconds_of
from tsa_client.values import rows_of, scalar, sendable

Given = TypeVar("Given")
Found = TypeVar("Found")

Payment = Mapping[str, Any]
"""Columns of the market with their current values, or `{"payment": {…}, "histories": {NAME: [{…}, …]}}`. Values may be
Python's, NumPy's, pandas' or Polars' (`tsa_client.values`); a row of a frame is a payment too."""


class Client:
    """A client of one endpoint. Safe to use from several threads; a context manager that closes its connections."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        deadline_seconds: float = 10.0,
        backoff: Backoff | None = None,
        **options: Any,
    ) -> None:
        """url: such as https://scores.example:8080. token: a bearer token. deadline_seconds: of calls that name none.

        options: of `httpx.Client`, such as `verify` (an SSL context, with a client's certificate for mTLS) or `limits`.
        """
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, **options)
        self._seconds, self._backoff = deadline_seconds, backoff or Backoff()

    def score(self, payment: Payment, *, explain: bool = False, deadline_seconds: float | None = None) -> Answer:
        """Score one payment. explain: with reasons. Raises EndpointError; InvalidPaymentError says what is wrong with it."""
        found = self._call("/v1/score", _whole(sendable(payment)), explain, deadline_seconds)
        return _read(Answer.of, found)

    def score_many(
        self, payments: Any, *, explain: bool = False, deadline_seconds: float | None = None
    ) -> list[Answer | Problem]:
        """Score the payments of a list, or the rows of a Polars or pandas frame.

        Returns:
            An answer or a problem for each payment, in their order. A payment with a value that cannot be sent is not
            sent, and costs no other its score.

        Raises:
            EndpointError: where the request gets no answer.
            TypeError: where `payments` is neither a list nor a frame.
        """
        given = [sendable(payment) for payment in rows_of(payments)]
        sent = [payment for payment in given if not isinstance(payment, Problem)]
        found = self._call("/v1/score", sent, explain, deadline_seconds) if sent else []
        if not isinstance(found, list) or len(found) != len(sent):
            raise UnexpectedAnswerError(f"the answer must be a list of {len(sent)} (got {str(found)[:100]})")
        answers = iter([_read(_one, document) for document in found])
        return [payment if isinstance(payment, Problem) else next(answers) for payment in given]

    def outcome(
        self, id_: Any, *, fraud: bool, at: str | float | datetime | None = None, deadline_seconds: float | None = None
    ) -> None:
        """Say what became of a payment. at: when that became known, as the market writes times; None: now.

        Raises EndpointError; ProblemError with the rule `unknown_payment` where no such payment was scored.
        """
        moment = _whole(scalar(at, "at"))
        body = {"id": _whole(scalar(id_, "id")), "fraud": bool(fraud)} | ({} if moment is None else {"at": moment})
        self._call("/v1/outcome", body, False, deadline_seconds)

    def ready(self, *, timeout_seconds: float = 1.0) -> bool:
        """Whether the endpoint can score now. False where it cannot be reached; it is asked once."""
        try:
            return self._http.get("/v2/health/ready", timeout=timeout_seconds).is_success
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _call(self, path: str, body: Any, explain: bool, seconds: float | None) -> Any:
        """The JSON of an answer, after as many attempts as it takes. The last attempt's error where none was good."""
        deadline, backoff, failed = Deadline(self._seconds if seconds is None else seconds), self._backoff, 0
        while True:
            try:
                return self._attempt(path, body, {"explain": "true"} if explain else {}, deadline)
            except (OverloadedError, UnavailableError, ConnectionLostError) as error:
                failed += 1
                wait = backoff.seconds(failed, error.retry_after_seconds)
                if failed == backoff.attempts or wait >= deadline.left:
                    raise
            time.sleep(wait)

    def _attempt(self, path: str, body: Any, query: dict[str, str], deadline: Deadline) -> Any:
        headers = {"X-Deadline-Ms": deadline.header}
        try:
            answer = self._http.post(path, json=body, params=query, headers=headers, timeout=max(0.001, deadline.left))
        except httpx.TransportError as lost:
            if not deadline.left:
                raise DeadlineError("no answer came before the deadline") from lost
            raise ConnectionLostError(f"no answer came: {type(lost).__name__}: {lost}") from lost
        if not answer.is_success:
            raise _refusal(answer)
        return _read(httpx.Response.json, answer)


def _whole(given: Any) -> Any:
    """What is to be sent. InvalidPaymentError where it cannot be."""
    if isinstance(given, Problem):
        raise InvalidPaymentError(f"{given.rule}: {given.detail} (got {given.value}); it was not sent", given)
    return given


def _refusal(answer: httpx.Response) -> RefusedError:
    """The error for an answer that is a problem, or comes from something before the endpoint, which speaks otherwise."""
    try:
        problem = Problem.of(_read(httpx.Response.json, answer))
    except (UnexpectedAnswerError, KeyError, TypeError):
        problem = Problem.unsaid(answer.status_code, answer.reason_phrase)
    error = refusal(problem)
    error.retry_after_seconds = seconds_of(answer.headers.get("retry-after"))
    return error


def _one(document: Mapping[str, Any]) -> Answer | Problem:
    return Problem.of(document["problem"]) if "problem" in document else Answer.of(document)


def _read(read: Callable[[Given], Found], given: Given) -> Found:
    """What `read` makes of an answer. UnexpectedAnswerError where it cannot."""
    try:
        return read(given)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswerError(f"the answer is none of a TSA endpoint: {error!r}") from None
