"""Every error that the client raises: by what its caller can do about it.

EndpointError
├── ProblemError             the endpoint said no: `problem` says why
│   ├── InvalidPaymentError  409, 422: the payment breaks a rule, or cannot be sent; sending it again does not help
│   ├── NotAllowedError      401, 403: the token
│   ├── OverloadedError      429, to the last attempt
│   ├── UnavailableError     502, 503, to the last attempt
│   └── DeadlineError        504, or the deadline passed on this side; `problem` is then None
├── ConnectionLostError      no answer came, to the last attempt
└── UnexpectedAnswerError    what answered does not speak as the endpoint does
"""

from __future__ import annotations

from tsa_client.answers import Problem


class EndpointError(Exception):
    """Base of all errors of the client."""

    retry_after_seconds: float = 0.0
    """What the endpoint asked to wait before the next attempt."""


class RefusedError(EndpointError):
    """The endpoint refused the request."""

    def __init__(self, text: str, problem: Problem | None = None) -> None:
        super().__init__(text)
        self.problem = problem


class InvalidPaymentError(RefusedError):
    """The payment breaks a rule of its market, or its id is another payment's."""


class NotAllowedError(RefusedError):
    """The token is missing, or does not open this door."""


class OverloadedError(RefusedError):
    """Too many payments wait at the endpoint, or this client sends more than its share."""


class UnavailableError(RefusedError):
    """The endpoint is being stopped, or cannot read its histories."""


class DeadlineError(RefusedError):
    """There was no answer before the deadline."""


class ConnectionLostError(EndpointError):
    """The endpoint could not be reached, or the connection broke."""


class UnexpectedAnswerError(EndpointError):
    """The answer is none that the endpoint would give."""


BY_STATUS: dict[int, type[RefusedError]] = {
    401: NotAllowedError,
    403: NotAllowedError,
    409: InvalidPaymentError,
    422: InvalidPaymentError,
    429: OverloadedError,
    502: UnavailableError,
    503: UnavailableError,
    504: DeadlineError,
}


def refusal(problem: Problem) -> RefusedError:
    """The error for a problem."""
    kind = BY_STATUS.get(problem.status, RefusedError)
    return kind(f"{problem.status} {problem.rule}: {problem.detail} (request {problem.request_id})", problem)
