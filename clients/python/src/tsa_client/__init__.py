"""A typed client of the TSA endpoint: payments in, scores out, with deadlines and retries."""

from __future__ import annotations

from tsa_client.answers import Answer, Problem
from tsa_client.client import Client
from tsa_client.errors import (
    ConnectionLostError,
    DeadlineError,
    EndpointError,
    InvalidPaymentError,
    NotAllowedError,
    OverloadedError,
    RefusedError,
    UnavailableError,
    UnexpectedAnswerError,
)

__all__ = [
    "Answer",
    "Client",
    "ConnectionLostError",
    "DeadlineError",
    "EndpointError",
    "InvalidPaymentError",
    "NotAllowedError",
    "OverloadedError",
    "Problem",
    "RefusedError",
    "UnavailableError",
    "UnexpectedAnswerError",
]
