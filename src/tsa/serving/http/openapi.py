"""The paths of the OpenAPI document; for the schemas of bodies see `tsa.serving.http.openapi_schemas`."""

from __future__ import annotations

from typing import Any

from tsa.serving.analyst_queue.case_database import STATES
from tsa.serving.http.openapi_schemas import REFUSALS, Specification, problem_response, ref
from tsa.serving.problems import CONTENT_TYPE

JSON, LINES, CSV, PARQUET = "application/json", "application/jsonlines", "text/csv", "application/x-parquet"
DEADLINE = {
    "name": "X-Deadline-Ms",
    "in": "header",
    "description": "Scoring must start within this many milliseconds",
    "schema": {"type": "integer", "minimum": 1, "maximum": 600_000},
}
EXPLAIN = {"name": "explain", "in": "query", "description": "With reasons", "schema": {"type": "boolean"}}
NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
MODEL_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
OPEN: list[Any] = [{}]
PLAIN = ("401", "403", "429", "503")


def document(specification: Specification, secured: bool, *, with_queue: bool = False) -> dict[str, Any]:
    """Create the complete document. secured: the server requires tokens. with_queue: it has the analysts' queue."""
    schemes = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Fraud scores of market {specification.market.name}", "version": "1"},
        "paths": {**_paths(specification), **(_queue_paths() if with_queue else {})},
        "components": {"schemas": specification.schemas(), "securitySchemes": schemes},
        "security": [{"token": []}] if secured else [],
    }


def _paths(specification: Specification) -> dict[str, Any]:
    example = specification.example()
    name = {**NAME, "schema": {"type": "string", "examples": [specification.market.name]}}
    payments = {JSON: {"schema": ref("Payments"), "example": example}, LINES: {"schema": {"type": "string"}}}
    tables = {CSV: {"schema": {"type": "string"}}, PARQUET: {"schema": {"type": "string", "format": "binary"}}}
    lines, table = {LINES: {"schema": {"type": "string"}}}, {CSV: {"schema": {"type": "string"}}}
    answers = {JSON: {"schema": ref("Answers")}, **lines}
    anything = {JSON: {"schema": {"type": "object"}}}
    return {
        "/v1/score": _post("Score one payment or a list of them", payments, answers, [EXPLAIN, DEADLINE]),
        "/v1/score/flat": _post(
            "Score payments, and answer with a list of numbers",
            {JSON: payments[JSON]},
            {JSON: {"schema": {"type": "array", "items": {"type": ["number", "null"]}}}},
            [DEADLINE],
        ),
        "/v1/outcome": _post(
            "Record the outcome of a payment", {JSON: {"schema": ref("Outcome")}}, anything, [], more=("404",)
        ),
        "/invocations": _post(
            "Score payments, as SageMaker calls it",
            {**payments, **tables},
            {JSON: {"schema": ref("Predictions")}, **lines, **table},
            [EXPLAIN, DEADLINE],
        ),
        "/ping": _get("Whether this server can score", anything, security=OPEN),
        "/metrics": _get("Metrics for Prometheus", {"text/plain": {"schema": {"type": "string"}}}),
        "/v1/form": _get("What a payment is made of", anything),
        "/v2": _get("What this server is", anything),
        "/v2/health/live": _get("Whether this server runs", anything, security=OPEN),
        "/v2/health/ready": _get("Whether this server can score", anything, security=OPEN),
        **_model("/v2/models/{name}", [name]),
        **_model("/v2/models/{name}/versions/{version}", [name, MODEL_VERSION]),
        "/v1/admin/reload": _admin(anything),
    }


def _model(address: str, parameters: list[Any]) -> dict[str, Any]:
    """The paths of a model at `address`."""
    anything = {JSON: {"schema": {"type": "object"}}}
    inference = {JSON: {"schema": ref("Inference")}}
    more = ("404",)
    return {
        address: _get("Columns and scores of the model", anything, parameters, more),
        f"{address}/ready": _get("Whether the model can score", anything, parameters, more),
        f"{address}/infer": _post(
            "Score payments given as tensors", inference, anything, [*parameters, DEADLINE], more=more
        ),
    }


def _queue_paths() -> dict[str, Any]:
    """The paths of the analysts' queue."""
    anything, table = {JSON: {"schema": {"type": "object"}}}, {CSV: {"schema": {"type": "string"}}}
    own: list[Any] = [{"token": []}]
    id_ = {"type": "string", "minLength": 1}
    fields = {
        "state": {"enum": list(STATES)},
        "decision": {"type": "string", "maxLength": 200},
        "min_loss": {"type": "number", "minimum": 0},
        "text": {"type": "string", "maxLength": 200},
    }
    filters = [{"name": name, "in": "query", "schema": schema} for name, schema in fields.items()]
    claim = _object({"id": id_, **fields})
    decide = _object({"id": id_, "answer": {"enum": ["fraud", "genuine", "later"]}}, ["id", "answer"])
    posts = {
        "claim": ("Lease a payment, and show why it is risky", claim),
        "decide": ("Record what an analyst says of a payment", decide),
        "hand-on": ("Send a payment to the webhook", _object({"id": id_}, ["id"])),
    }
    more = ("400", "404", "422")
    paths = {
        "/v1/queue": _get("Payments for analysts, by expected loss", anything, filters, more, own),
        "/v1/queue/cases.csv": _get("The same payments as CSV", table, filters, more, own),
    }
    for name, (summary, body) in posts.items():
        post = _post(summary, {JSON: {"schema": body}}, anything, [], more=("404", "502"))
        post["post"]["security"] = own
        paths[f"/v1/queue/{name}"] = post
    return paths


def _object(fields: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": required or [], "additionalProperties": False}


def _post(
    summary: str, body: dict[str, Any], response: dict[str, Any], parameters: list[Any], more: tuple[str, ...] = ()
) -> dict[str, Any]:
    responses = {"200": {"description": summary, "content": response}}
    responses |= {status: problem_response(status) for status in REFUSALS}
    responses |= {status: _other(status) for status in more}
    request = {"required": True, "content": body}
    return {"post": {"summary": summary, "requestBody": request, "parameters": parameters, "responses": responses}}


def _get(
    summary: str,
    response: dict[str, Any],
    parameters: list[Any] | None = None,
    more: tuple[str, ...] = (),
    security: list[Any] | None = None,
) -> dict[str, Any]:
    responses = {"200": {"description": summary, "content": response}}
    responses |= {status: problem_response(status) for status in PLAIN}
    responses |= {status: _other(status) for status in more}
    operation = {"summary": summary, "parameters": parameters or [], "responses": responses}
    return {"get": operation if security is None else {**operation, "security": security}}


def _admin(response: dict[str, Any]) -> dict[str, Any]:
    summary = "Load the bundle that is now at the server's path"
    responses: dict[str, Any] = {"200": {"description": summary, "content": response}}
    responses |= {status: problem_response(status) for status in (*PLAIN, "409")}
    return {"post": {"summary": summary, "parameters": [], "responses": responses, "security": [{"token": []}]}}


def _other(status: str) -> dict[str, Any]:
    text = {
        "400": "The query cannot be read",
        "404": "There is no such thing",
        "422": "A parameter is wrong",
        "502": "The webhook did not accept the payment",
    }[status]
    return {"description": text, "content": {CONTENT_TYPE: {"schema": ref("Problem")}}}
