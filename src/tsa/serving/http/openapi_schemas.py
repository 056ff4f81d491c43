"""Schemas and examples of the OpenAPI document in a market's columns, and the description for the form.

Written by hand, because the routes parse bodies themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsa.config.market import Market, Serving
from tsa.data.derived import input_columns, inputs_of
from tsa.data.encoding.encoder import Encoder
from tsa.data.log.rules import needed_columns
from tsa.data.wire.layout import FieldLayout
from tsa.serving.problems import CONTENT_TYPE, PROBLEM_FIELDS, TYPES
from tsa.serving.results import CHALLENGER, CHAMPION, RESULT_FIELDS

FORM_KINDS = {"latitude": "number", "longitude": "number", "number": "number", "time": "time"}
"""Kinds of columns that only derived features are computed from."""
MAX_CHOICES = 100
"""A feature with more known values is a free text field in the form."""
DECIMAL = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}
ANY_TEXT, ANY_NUMBER = ["string", "number", "boolean", "null"], ["number", "string", "boolean", "null"]
EXAMPLE_TIME, EXAMPLE_EPOCH = "2025-04-20T12:00:00Z", 1_745_150_400
UNITS = {"s": 1, "ms": 1000, "us": 1_000_000}

REFUSALS = {
    "400": "The body cannot be read, or a header is wrong",
    "401": "No valid token",
    "403": "The token does not have the role, or there is no token with it",
    "406": "No format that Accept allows",
    "408": "The body took too long to arrive",
    "409": "The id is that of another payment",
    "413": "Too large, or too many payments",
    "415": "Content-Type is none of those that are read",
    "422": "The payment breaks a rule",
    "429": "Too much waits, or this client sends too much; see Retry-After",
    "503": "Histories cannot be read, or the server is being stopped",
    "504": "Not scored before the deadline",
}


class Specification:
    """Describes the requests and answers of a market's endpoint."""

    def __init__(self, market: Market, encoder: Encoder) -> None:
        self.market, self._encoder = market, encoder
        privacy = market.privacy
        self._pseudonymized = frozenset(() if privacy is None else privacy.pseudonymise)

    @property
    def columns(self) -> list[dict[str, Any]]:
        """The columns of a payment in the order of the form: name, kind (id, time, key, text, number), known values."""
        market = self.market
        keys = set(market.key_columns)
        derived = input_columns(market)
        listed = [{"name": market.event.id, "kind": "id"}, {"name": market.event.time, "kind": "time"}]
        for name in needed_columns(market, need_label=False):
            if name in (market.event.id, market.event.time):
                continue
            kind = "key" if name in keys else "text"
            if name in market.number_columns:
                kind = "number"
            elif name not in market.raw_columns and name in derived:
                kind = FORM_KINDS.get(derived[name], "text")
            listed.append({"name": name, "kind": kind})
        choices = self._choices()
        return [{**column, "choices": choices.get(column["name"], [])} for column in listed]

    def _choices(self) -> dict[str, list[str]]:
        return {
            vocabulary.name: list(vocabulary.values)
            for vocabulary in self._encoder.categorical_vocabularies
            if len(vocabulary.values) <= MAX_CHOICES and vocabulary.name not in self._pseudonymized
        }

    def form(self) -> dict[str, Any]:
        """The description of the form of the page at /."""
        market = self.market
        return {
            "market": market.name,
            "columns": self.columns,
            "time_unit": market.event.time_unit,
            "amount": market.event.amount,
            "histories": [{"name": h.name, "key": h.key, "length": h.length} for h in market.views],
            "wire": market.wire is not None,
            "example": self.example(),
        }

    def example(self) -> dict[str, Any]:
        """A payment in the market's columns."""
        if self.market.wire is not None:
            return self._wire_example()
        return {column["name"]: self._example_of(column) for column in self.columns}

    def _example_of(self, column: dict[str, Any]) -> Any:
        match column["kind"]:
            case "id":
                return "example-1"
            case "time":
                return self._example_time(column["name"])
            case "number":
                return 12.5
            case "key":
                return f"example-{column['name']}"
        return column["choices"][0] if column["choices"] else "example"

    def _example_time(self, name: str | None = None) -> Any:
        """name: the column; None: event.time."""
        own = name in (None, self.market.event.time)
        units = [item.time_unit for item in inputs_of(self.market).values() if item.column == name]
        unit = self.market.event.time_unit if own else units[0]
        return EXAMPLE_TIME if unit is None else EXAMPLE_EPOCH * UNITS[unit]

    def _wire_example(self) -> dict[str, Any]:
        """A first payment: its histories are empty."""
        layout, wire = FieldLayout(self.market), self.market.wire
        assert wire is not None
        own: dict[str, Any] = dict.fromkeys(layout.current, wire.missing[0] if wire.missing else "")
        own |= dict.fromkeys((*layout.numerical, *layout.engineered), "1")
        own |= dict.fromkeys(layout.history_fields, wire.missing[0] if wire.missing else "")
        return own | {self.market.event.id: "example-1", self.market.event.time: str(self._example_time())}

    def payment(self) -> dict[str, Any]:
        """The JSON schema of a payment."""
        if self.market.wire is not None:
            example = self._wire_example()
            properties = {name: {"type": ANY_TEXT} for name in example}
            required = [name for name in example if name != self.market.event.id]
            return {"type": "object", "properties": properties, "required": required, "examples": [example]}
        columns = self.columns
        properties = {c["name"]: {"type": ANY_NUMBER if c["kind"] == "number" else ANY_TEXT} for c in columns}
        needed = needed_columns(self.market, need_label=False)
        extra = (self.market.serving or Serving()).unknown_fields == "ignore"
        return {
            "type": "object",
            "properties": properties,
            "required": [c["name"] for c in columns if c["name"] in needed],
            "additionalProperties": extra,
            "examples": [self.example()],
        }

    def schemas(self) -> dict[str, Any]:
        """The named schemas."""
        number, text = {"type": ["number", "null"]}, {"type": ["string", "null"]}
        raw: dict[str, Any] = {"type": "number"} if self.market.event.scored is None else number
        scores = {"raw_score": raw, "percentile": number, "probability": number, "decision": text}
        id_ = text if self.market.wire is not None else {"type": "string"}
        flags = {"degraded": {"type": "boolean"}, "replayed": {"type": "boolean"}}
        one = {"anyOf": [ref("Payment"), ref("PaymentWithHistories")]}
        own: dict[str, Any] = {"Payment": self.payment(), "PaymentWithHistories": self._with_histories()}
        if self.market.wire is not None:
            own["PaymentWithHistories"] = {"type": "object", "properties": {"payment": ref("Payment")}}
            own["PaymentWithHistories"]["required"] = ["payment"]
        return {
            **own,
            "Payments": {"anyOf": [*one["anyOf"], {"type": "array", "items": one, "minItems": 1}]},
            "Answer": {
                "type": "object",
                "properties": _described(
                    RESULT_FIELDS,
                    {
                        "id": id_,
                        **scores,
                        "version": {"type": "string"},
                        "arm": {"type": "string", "enum": [CHAMPION, CHALLENGER]},
                        **flags,
                        "reasons": {"type": ["array", "null"], "items": {"type": "object"}},
                        "explanation": {"type": ["object", "null"]},
                    },
                ),
                "required": ["id", "raw_score", "version"],
            },
            "Result": {"anyOf": [ref("Answer"), ref("ItemProblem")]},
            "Answers": {"anyOf": [ref("Answer"), {"type": "array", "items": ref("Result")}]},
            "Predictions": {
                "type": "object",
                "properties": {
                    "predictions": {"type": "array", "items": {"anyOf": [ref("Result"), ref("OriginalScores")]}}
                },
                "required": ["predictions"],
            },
            "OriginalScores": {
                "description": "Of an imported model. A score that the bundle is not calibrated for is left out.",
                "type": "object",
                "properties": dict.fromkeys(("score-percentile", "legacy-score", "ProbabilityScore"), DECIMAL),
                "required": ["legacy-score"],
                "additionalProperties": False,
            },
            "ItemProblem": {"type": "object", "properties": {"problem": ref("Problem")}, "required": ["problem"]},
            "Problem": _problem(),
            "Outcome": _outcome(),
            "Inference": self._inference(),
        }

    def _with_histories(self) -> dict[str, Any]:
        events = {"type": "array", "items": {"type": "object"}}
        histories = {
            "type": "object",
            "properties": {view.name: events for view in self.market.views},
            "additionalProperties": False,
        }
        return {
            "type": "object",
            "properties": {"payment": ref("Payment"), "histories": histories},
            "required": ["payment"],
            "additionalProperties": False,
        }

    def _inference(self) -> dict[str, Any]:
        tensors = [{**tensor, "shape": [1], "data": [None]} for tensor in tensors_of(self.market)]
        example = self.example()
        for tensor in tensors:
            value = example.get(tensor["name"])
            tensor["data"] = [str(value) if tensor["datatype"] == "BYTES" and value is not None else value]
        tensor = {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "shape": {"type": "array", "items": {"type": "integer"}},
                "datatype": {"enum": ["BYTES", "FP64", "FP32", "INT64", "INT32", "BOOL"]},
                "data": {"type": "array"},
            },
            "required": ["name", "shape", "datatype", "data"],
        }
        return {
            "type": "object",
            "properties": {"inputs": {"type": "array", "items": tensor, "minItems": 1}},
            "required": ["inputs"],
            "examples": [{"inputs": tensors}],
        }


def tensors_of(market: Market) -> list[dict[str, Any]]:
    """The columns of a market as tensors of n payments."""
    if market.wire is not None:
        layout = FieldLayout(market)
        names = dict.fromkeys((*layout.current, *layout.history_fields))
        return [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in names]
    derived = {name for name, kind in input_columns(market).items() if FORM_KINDS.get(kind) == "number"}
    kinds = dict.fromkeys(market.number_columns | (derived - {*market.raw_columns}), "FP64")
    if market.event.time_unit is not None:
        kinds[market.event.time] = "INT64"
    names = dict.fromkeys((market.event.id, market.event.time, *needed_columns(market, need_label=False)))
    return [{"name": name, "datatype": kinds.get(name, "BYTES"), "shape": [-1]} for name in names]


def ref(name: str) -> dict[str, str]:
    """A reference to a named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def _described(meanings: Mapping[str, str], properties: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {**schema, "description": meanings[name]} for name, schema in properties.items()}


def _problem() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    return {
        "type": "object",
        "properties": _described(
            PROBLEM_FIELDS,
            {
                "type": {"type": "string", "examples": [f"{TYPES}not_a_number"]},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "field": text,
                "value": text,
                "rule": {"type": "string"},
                "request_id": {"type": "string"},
            },
        ),
        "required": ["type", "title", "status", "detail", "rule", "request_id"],
    }


def _outcome() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "id": {"type": ["string", "number", "boolean"], "minLength": 1, "description": RESULT_FIELDS["id"]},
            "fraud": {"type": "boolean", "description": "whether it was fraud"},
            "at": {"type": ["string", "number", "null"], "description": "when it became known; now if absent"},
        },
        "required": ["id", "fraud"],
        "additionalProperties": False,
        "examples": [{"id": "example-1", "fraud": True}],
    }


def problem_response(status: str) -> dict[str, Any]:
    """The OpenAPI response of a refusal."""
    return {"description": REFUSALS[status], "content": {CONTENT_TYPE: {"schema": ref("Problem")}}}
