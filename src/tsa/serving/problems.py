"""RFC 9457 problem documents for refused requests.

A problem has the field, the rule and the shortened value; never a path, a setting or a traceback of the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson

from tsa.data.values import RuleViolation
from tsa.data.wire.row_errors import TEXTS
from tsa.text import shorten, truncate_repr

CONTENT_TYPE = "application/problem+json"
TYPES = "urn:tsa:problem:"
PROBLEM_FIELDS: Mapping[str, str] = {
    "type": "urn:tsa:problem: and the rule",
    "title": "the name of the status",
    "status": "the HTTP status",
    "detail": "what is wrong, in a sentence",
    "field": "the field that breaks the rule",
    "value": "its value, shortened",
    "rule": "a short name for programs",
    "request_id": "the X-Request-Id of the request, or the one that the server gave it",
}
"""What the fields of a problem mean."""
UNREADABLE, TOO_LARGE, WRONG_TYPE, NOT_ACCEPTABLE = 400, 413, 415, 406
BROKEN_RULE = 422
RULES = frozenset(
    {
        *TEXTS,
        *("absurd_time", "accept", "bad_data", "bad_datatype", "bad_header", "bad_label"),
        *("bad_outcome", "bad_shape", "bad_tensor", "bad_time", "binary_tensors", "bundle"),
        *("bundle_unevaluated", "bundle_without_decisions"),
        *("coarse_time", "conflicting_id", "content_encoding", "content_type", "deadline", "decision_log"),
        *("deadline_header", "disconnected", "duplicate_id", "empty", "excluded", "future"),
        *(
            "future_time",
            "head_too_large",
            "history_unavailable",
            "history_lost",
            "inexact",
            "known_too_early",
            "leased",
            "inexact_number",
            "infinite",
        ),
        *("internal", "method", "missing_field", "negative_age", "no_admin", "no_analyst", "no_history"),
        *(
            "no_inputs",
            "no_queue",
            "no_webhook",
            "no_reasons",
            "no_role",
            "no_score",
            "not_a_list",
            "not_a_number",
            "not_a_text",
        ),
        *("not_an_object", "not_csv", "not_found", "not_json", "not_parquet", "null_id"),
        *("null_time", "out_of_range", "own_history", "query", "queue_full", "queue_unavailable", "rate", "webhook"),
        *("reader_down", "request", "role", "slow_body", "slow_head", "stopping", "token", "too_deep", "too_large"),
        *("too_late", "too_long", "too_many", "unknown_field", "unknown_history", "unknown_model"),
        *("unknown_output", "unknown_payment", "unreadable", "wrong_number_of_fields"),
    }
)
"""The names of all rules that a request or a payment can break. Metrics use only these names, never a client's text."""
STATUSES = {"decision_log": 503, "history_unavailable": 503, "history_lost": 503, "conflicting_id": 409}
"""Rule -> status of a payment's problem, if it is not BROKEN_RULE."""


class ProblemError(Exception):
    """A refused request: the status and the problem for its response."""

    def __init__(
        self,
        status: int,
        rule: str,
        detail: str,
        *,
        field: str | None = None,
        value: object = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(rule)
        self.status, self.rule, self.detail = status, rule, detail
        self.field, self.value = field, None if value is None else shorten_value(value)
        self.headers = dict(headers or {})
        self.more = dict(more or {})
        self.counted = False
        """Whether the metrics have counted it already."""

    @classmethod
    def of(cls, problem: RuleViolation, *, counted: bool = False) -> ProblemError:
        """The error for a request whose only payment breaks a rule. counted: the metrics have counted it already."""
        status = STATUSES.get(problem.rule, BROKEN_RULE)
        refused = cls(status, problem.rule, f"{problem.field} {problem.expectation}", field=problem.field)
        refused.value, refused.counted = problem.value, counted
        return refused

    def document(self, request_id: str) -> dict[str, Any]:
        """The problem, ready for JSON."""
        return {**_document(self.status, self.rule, self.detail, self.field, self.value, request_id), **self.more}


def shorten_value(value: object) -> str:
    """Shorten a value for display in a problem."""
    return shorten(value) if isinstance(value, str) else truncate_repr(value)


def item_problem(problem: RuleViolation, request_id: str) -> dict[str, Any]:
    """The problem document of one payment of a list."""
    return ProblemError.of(problem).document(request_id)


def encode(document: Mapping[str, Any]) -> bytes:
    """Encode a problem as JSON."""
    return orjson.dumps(document)


def _document(
    status: int, rule: str, detail: str, field: str | None, value: str | None, request_id: str
) -> dict[str, Any]:
    return {
        "type": f"{TYPES}{rule}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "field": field,
        "value": value,
        "rule": rule,
        "request_id": request_id,
    }
