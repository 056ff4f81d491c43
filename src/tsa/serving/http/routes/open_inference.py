"""The Open Inference Protocol, version 2: a market's columns are named tensors of n payments, scores are tensors of n.

A tensor cannot carry a problem: if one payment has one, the request is refused with the problems of all. Its valid payments
are scored and stored all the same; sent again, they get the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from tsa.data.values import RuleViolation
from tsa.serving import formats
from tsa.serving.formats import JSON, RequestRows
from tsa.serving.http.openapi_schemas import tensors_of
from tsa.serving.http.request_context import READING, RequestContext
from tsa.serving.problems import BROKEN_RULE, ProblemError, item_problem, shorten_value
from tsa.serving.request_limits import exceeds_depth
from tsa.serving.results import ScoreResult
from tsa.serving.scoring.app_state import AppState

DATATYPES = {
    "BYTES": (str,),
    "FP64": (int, float),
    "FP32": (int, float),
    "INT64": (int,),
    "INT32": (int,),
    "BOOL": (bool,),
}
OUTPUTS = {"raw_score": "FP64", "percentile": "FP64", "probability": "FP64", "id": "BYTES", "decision": "BYTES"}
PLATFORM = "tsa"
VERSION = "2"
MODEL = ("/models/{name}", "/models/{name}/versions/{version}")
"""Addresses of a model: by name, or by name and version."""


def inference_routes(service: AppState) -> APIRouter:
    """The routes under /v2."""
    router = APIRouter(prefix="/v2")

    async def server() -> Response:
        """Server metadata."""
        return _json({"name": PLATFORM, "version": VERSION, "extensions": []})

    async def live() -> Response:
        """Whether the server runs."""
        return _json({"live": True})

    async def ready() -> Response:
        """Whether the server can score."""
        return _json({"ready": True})

    async def model(name: str, version: str | None = None) -> Response:
        """Model metadata: its columns and scores."""
        _known(name, version, service)
        return _json(
            {
                "name": service.market.name,
                "versions": [service.version],
                "platform": PLATFORM,
                "inputs": tensors_of(service.market),
                "outputs": [{"name": key, "datatype": kind, "shape": [-1]} for key, kind in OUTPUTS.items()],
            }
        )

    async def model_ready(name: str, version: str | None = None) -> Response:
        """Whether this model can score."""
        _known(name, version, service)
        return _json({"name": name, "ready": True})

    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        """Score the payments whose columns are given as tensors."""
        exchange = RequestContext.of(request.scope)
        _known(name, version, service)
        if exchange.header(b"inference-header-content-length") is not None:
            raise ProblemError(415, "binary_tensors", "tensors must be given as JSON")
        formats.media_type(exchange.header(b"content-type"), (JSON,))
        formats.negotiate(exchange.header(b"accept"), (JSON,))
        content = await exchange.body()
        body = _object(formats.read_json(content).rows)
        outputs = _outputs(body)
        rows = rows_of(body, service.settings.max_list)
        results = await service.score(
            service.contract.entries(RequestRows(rows, single=False)),
            client=exchange.client,
            deadline=exchange.deadline,
        )
        answers = [result for result in results if isinstance(result, ScoreResult)]
        if len(answers) < len(results):
            raise _refused(results, exchange)
        return _json(
            {
                "model_name": service.market.name,
                "model_version": service.version,
                **({"id": body["id"]} if isinstance(body.get("id"), str) else {}),
                "outputs": [_tensor(output, answers) for output in outputs if _has(output, answers)],
            }
        )

    for path, route in (("", server), ("/health/live", live), ("/health/ready", ready)):
        router.add_api_route(path, route, methods=READING)
    for address in MODEL:
        router.add_api_route(address, model, methods=READING)
        router.add_api_route(f"{address}/ready", model_ready, methods=READING)
        router.add_api_route(f"{address}/infer", infer, methods=["POST"])
    return router


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type=JSON)


def _known(name: str, version: str | None, service: AppState) -> None:
    """Raise ProblemError for another model than the served one, or another version of it."""
    if name != service.market.name:
        raise ProblemError(404, "unknown_model", f"the model is {service.market.name}", field="name", value=name)
    if version is not None and version != service.version:
        detail = f"the version of the model is {service.version}"
        raise ProblemError(404, "unknown_model", detail, field="version", value=version)


def _object(rows: Sequence[Any]) -> dict[str, Any]:
    if len(rows) != 1 or not isinstance(rows[0], dict):
        raise ProblemError(BROKEN_RULE, "not_an_object", "the body must be an inference request")
    return rows[0]


def _outputs(body: dict[str, Any]) -> list[str]:
    """The names of the requested outputs; all if the request names none."""
    asked = body.get("outputs")
    if asked is None:
        return list(OUTPUTS)
    names = []
    for entry in asked if isinstance(asked, list) else [asked]:
        name = entry.get("name") if isinstance(entry, dict) else entry
        if not isinstance(name, str) or name not in OUTPUTS:
            detail = f"outputs must name some of {', '.join(OUTPUTS)}"
            raise ProblemError(BROKEN_RULE, "unknown_output", detail, field="outputs", value=name)
        names.append(name)
    return names


def rows_of(body: dict[str, Any], max_rows: int) -> list[dict[str, Any]]:
    """Convert the tensors of a request into rows. Raises ProblemError if they do not fit together."""
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise ProblemError(BROKEN_RULE, "no_inputs", "inputs must be a list of tensors", field="inputs")
    columns: dict[str, list[Any]] = {}
    for tensor in inputs:
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise ProblemError(BROKEN_RULE, "bad_tensor", "a tensor must have a name", field="inputs", value=tensor)
        name = tensor["name"]
        if name in columns:
            raise ProblemError(BROKEN_RULE, "bad_tensor", "a column must be given once", field=shorten_value(name))
        columns[name] = _values(tensor, name, max_rows)
    sizes = {len(values) for values in columns.values()}
    if len(sizes) > 1:
        detail = "all tensors must have the same number of payments"
        raise ProblemError(BROKEN_RULE, "bad_shape", detail, field="inputs", value=sorted(sizes))
    if sizes == {0}:
        raise ProblemError(BROKEN_RULE, "empty", "a request must hold at least one payment")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _values(tensor: dict[str, Any], name: str, max_rows: int) -> list[Any]:
    """The n values of a tensor of shape [n] or [n, 1]."""
    kind, shape, data = tensor.get("datatype"), tensor.get("shape"), tensor.get("data")
    allowed = DATATYPES.get(kind) if isinstance(kind, str) else None
    if allowed is None:
        detail = f"datatype must be one of {', '.join(DATATYPES)}"
        raise ProblemError(BROKEN_RULE, "bad_datatype", detail, field=shorten_value(name), value=kind)
    if not isinstance(data, list) or exceeds_depth(data, 2):
        raise ProblemError(BROKEN_RULE, "bad_data", "data must be a list of values", field=shorten_value(name))
    values = [value for entry in data for value in (entry if isinstance(entry, list) else [entry])]
    if len(values) > max_rows:
        raise formats.too_many(max_rows)
    is_shape = isinstance(shape, list) and all(type(size) is int for size in shape)
    if not is_shape or shape not in ([len(values)], [len(values), 1]):
        detail = f"shape must be [{len(values)}] or [{len(values)}, 1], as the data has it"
        raise ProblemError(BROKEN_RULE, "bad_shape", detail, field=shorten_value(name), value=shape)
    for value in values:
        if value is not None and (not isinstance(value, allowed) or (isinstance(value, bool) and kind != "BOOL")):
            raise ProblemError(BROKEN_RULE, "bad_data", f"data must be {kind}", field=shorten_value(name), value=value)
    return values


def _has(output: str, answers: Sequence[ScoreResult]) -> bool:
    """Whether a payment has this output: a bundle may be uncalibrated, and some events are not scored."""
    return any(getattr(answer, output) is not None for answer in answers)


def _tensor(output: str, answers: Sequence[ScoreResult]) -> dict[str, Any]:
    data = [getattr(answer, output) for answer in answers]
    return {"name": output, "datatype": OUTPUTS[output], "shape": [len(data)], "data": data}


def _refused(results: Sequence[ScoreResult | RuleViolation], exchange: RequestContext) -> ProblemError:
    """The error with the problems of all payments, by index."""
    problems = [
        {"index": at, **item_problem(result, exchange.request_id)}
        for at, result in enumerate(results)
        if isinstance(result, RuleViolation)
    ]
    first = next(result for result in results if isinstance(result, RuleViolation))
    refused = ProblemError.of(first, counted=True)
    refused.more = {"problems": problems}
    return refused
