"""What payments got, as JSON documents: an answer, or a problem, for each. It knows no server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tsa.data.payments import Problem
from tsa.serving.answers import Answer
from tsa.serving.problems import RefusedError, item_document


def document(result: Answer | Problem, request_id: str) -> dict[str, Any]:
    """An answer, or the problem of one payment of a list."""
    if isinstance(result, Answer):
        return result.to_dict()
    return {"problem": item_document(result, request_id)}


def only(results: Sequence[Answer | Problem], documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The answer to a request of one payment. RefusedError where it has a problem."""
    if isinstance(results[0], Problem):
        raise RefusedError.of(results[0], counted=True)
    return documents[0]
