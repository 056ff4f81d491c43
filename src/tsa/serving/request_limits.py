"""Validate the shape and the size limits of requests; values are checked later by the payment reader.

A payment is an object of the market's columns or, with its history events,
`{"payment": {…}, "histories": {NAME: [{…}, …]}}`. Columns never contain objects, so the two cannot be confused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tsa.config.market import Market
from tsa.data.spelling import MAX_EXACT
from tsa.data.values import RuleViolation, invalid_unicode
from tsa.serving.formats import RequestRows
from tsa.serving.problems import shorten_value
from tsa.serving.settings import ServeSettings

JSON_TYPES: dict[type, str] = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
JSON_TYPES |= {int: "number", float: "number"}
Events = Sequence[Mapping[str, Any]]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """A payment as it was sent. histories: history events from the request; None: use those of the store."""

    row: Mapping[str, Any]
    histories: Mapping[str, Events] | None = None


class RequestValidator:
    """Checks the requests of one market."""

    def __init__(self, market: Market, settings: ServeSettings) -> None:
        self.market = market
        self._histories = frozenset(view.name for view in market.views)
        self._texts = frozenset({*market.raw_columns} - market.number_columns)
        self._wire = market.wire is not None
        self._max_depth, self._max_list = settings.max_depth, settings.max_list
        self._max_text = settings.max_bytes if self._wire else settings.max_text

    @staticmethod
    def in_place(
        entries: Sequence[PaymentRequest | RuleViolation], results: Iterable[Result]
    ) -> list[Result | RuleViolation]:
        """Merge the results of the valid entries with the problems of the others, in the order of the entries."""
        answered = iter(results)
        return [next(answered) if isinstance(entry, PaymentRequest) else entry for entry in entries]

    def entries(self, request: RequestRows) -> list[PaymentRequest | RuleViolation]:
        """Convert each row into a payment, or the rule that it violates."""
        return [row if isinstance(row, RuleViolation) else self._entry(row) for row in request.rows]

    def _entry(self, row: Any) -> PaymentRequest | RuleViolation:
        if type(row) is not dict:
            text = "must be a JSON object with the columns of a payment"
            return RuleViolation("not_an_object", "payment", text, _json_type(row))
        if isinstance(row.get("payment"), dict):
            return self._with_histories(row)
        return self._check_limits(row) or PaymentRequest(row)

    def _with_histories(self, row: dict[str, Any]) -> PaymentRequest | RuleViolation:
        if unknown := sorted(set(row) - {"payment", "histories"}):
            text = "must not be given together with payment and histories"
            return RuleViolation("unknown_field", shorten_value(unknown[0]), text, shorten_value(unknown[0]))
        payment, histories = row["payment"], row.get("histories")
        if problem := self._check_limits(payment):
            return problem
        if histories is None:
            return PaymentRequest(payment)
        if self._wire:
            text = "must not be given: rows of this market carry their own"
            return RuleViolation("own_history", "histories", text, "histories")
        return self._bad_histories(histories) or PaymentRequest(payment, histories)

    def _bad_histories(self, histories: Any) -> RuleViolation | None:
        if not isinstance(histories, dict):
            text = "must be an object of lists of events"
            return RuleViolation("not_an_object", "histories", text, _json_type(histories))
        for name, events in histories.items():
            if name not in self._histories:
                text = f"must be one of {', '.join(sorted(self._histories))}"
                return RuleViolation("unknown_history", "histories", text, shorten_value(name))
            if not isinstance(events, list) or len(events) > self._max_list:
                text = f"must be a list of at most {self._max_list} events"
                return RuleViolation("not_a_list", f"histories.{name}", text, _json_type(events))
            for event in events:
                if not isinstance(event, dict):
                    text = "must contain objects of the market's columns"
                    return RuleViolation("not_an_object", f"histories.{name}", text, _json_type(event))
                if problem := self._check_limits(event):
                    return problem
        return None

    def id_problem(self, value: Any) -> RuleViolation | None:
        """The problem of an id outside a payment; the limits are those of a payment's id."""
        return invalid_unicode({self.market.event.id: value}) or self._check_limits({self.market.event.id: value})

    def _check_limits(self, row: Mapping[str, Any]) -> RuleViolation | None:
        """The problem of a row with a value that is too long, nested too deep, or too large a number."""
        for name, value in row.items():
            kind = type(value)
            if kind is str:
                if len(value) > self._max_text:
                    text = f"must have at most {self._max_text} characters"
                    return RuleViolation("too_long", shorten_value(name), text, shorten_value(value))
            elif kind is float:
                if (value >= MAX_EXACT or value <= -MAX_EXACT) and name in self._texts:
                    text = "must be written as a text: a number of this size is not exact"
                    return RuleViolation("inexact_number", name, text, shorten_value(value))
            elif (kind is dict or kind is list) and exceeds_depth(value, self._max_depth - 1):
                text = f"must not be nested deeper than {self._max_depth}"
                return RuleViolation("too_deep", shorten_value(name), text, _json_type(value))
        return None


def _json_type(value: Any) -> str:
    """The name of a value's type in JSON; a request may also come from Parquet, which has more types."""
    return JSON_TYPES.get(type(value), type(value).__name__)


def exceeds_depth(value: Any, max_depth: int) -> bool:
    """Whether lists and objects are nested deeper than `max_depth`. Not recursive, because recursion is limited."""
    level = [value]
    for _ in range(max_depth):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return False
    return any(isinstance(outer, dict | list) for outer in level)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [inner for inner in value.values() if isinstance(inner, dict | list)]
    return [inner for inner in value if isinstance(inner, dict | list)] if isinstance(value, list) else []
