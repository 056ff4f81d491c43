"""GET /ping and POST /invocations, as SageMaker calls them: JSON, JSON lines, CSV or Parquet in; JSON, JSON lines or CSV out.

A model that was imported answers in the original's shape, word for word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from tsa.scoring.response import original_response
from tsa.serving import formats
from tsa.serving.answers import Answer
from tsa.serving.exchange import Exchange
from tsa.serving.formats import CSV, JSON, LINES, PARQUET, Rows
from tsa.serving.routes_score import add_reasons, document, only, wants_reasons
from tsa.serving.service import Result, Service

COLUMNS = ("id", "raw_score", "percentile", "probability", "decision", "version", "problem")
PREDICTIONS = "predictions"
INSTANCES = "instances"
"""Some clients put their list under this name."""


def sagemaker_routes(service: Service) -> APIRouter:
    """The two routes."""
    router = APIRouter()

    async def ping() -> Response:
        """Whether this server can score."""
        return Response(b"{}", media_type=JSON)

    async def invocations(request: Request) -> Response:
        """Score payments. A list has a prediction or a problem for each."""
        exchange, settings = Exchange.of(request.scope), service.settings
        explain = wants_reasons(request.scope.get("query_string", b"")) and not service.imported
        kind = formats.media_type(exchange.header(b"content-type"), (JSON, LINES, CSV, PARQUET))
        default = LINES if kind == LINES else CSV if kind == CSV and not service.imported else JSON
        out = formats.accepted(exchange.header(b"accept"), (JSON, LINES, CSV), default=default)
        body = await exchange.body()
        service.batcher.check_room()
        found = _unwrapped(formats.read(body, kind, settings.max_list, settings.max_bytes), settings.max_list)
        entries = service.contract.entries(found)
        if explain:
            service.reasoner.check(len(entries))
        results = await service.score(exchange, entries)
        documents = [document(result, exchange) for result in results]
        if found.single:
            only(results, documents)
        if service.imported:
            documents = _as_original(service, results, documents)
        elif explain:
            await add_reasons(service, exchange, entries, documents)
        return _response(out, documents)

    router.add_api_route("/ping", ping, methods=["GET"])
    router.add_api_route("/invocations", invocations, methods=["POST"])
    return router


def _unwrapped(found: Rows, most: int) -> Rows:
    """The list of `{"instances": […]}`."""
    row = found.rows[0]
    if not (found.single and isinstance(row, dict) and set(row) == {INSTANCES} and isinstance(row[INSTANCES], list)):
        return found
    return formats.bounded(Rows(row[INSTANCES], single=False), most)


def _as_original(
    service: Service, results: Sequence[Result], documents: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The same scores as the original spells them; problems stay."""
    raw = [result.raw_score for result in results if isinstance(result, Answer)]
    said = iter(original_response(raw, service.calibration)[PREDICTIONS] if raw else ())
    return [
        next(said) if isinstance(result, Answer) else found for result, found in zip(results, documents, strict=True)
    ]


def _response(out: str, documents: Sequence[dict[str, Any]]) -> Response:
    if out == LINES:
        return Response(formats.lines_of(documents), media_type=LINES)
    if out == CSV:
        own = any("raw_score" in found or "problem" in found for found in documents)
        columns = COLUMNS if own else tuple(documents[0])
        return Response(formats.csv_of(documents, columns, _cell), media_type="text/csv; charset=utf-8")
    return Response(orjson.dumps({PREDICTIONS: documents}), media_type=JSON)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value['rule']}: {value['detail']}" if isinstance(value, dict) else str(value)
