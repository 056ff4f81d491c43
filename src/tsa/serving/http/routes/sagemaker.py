"""GET /ping and POST /invocations, as SageMaker calls them."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from tsa.serving import formats
from tsa.serving.formats import JSON, PARQUET
from tsa.serving.http.invocations import READ, response_format, rows_of, serialize, to_legacy_format
from tsa.serving.http.request_context import READING, RequestContext
from tsa.serving.http.routes.score import add_reasons, reasons_requested
from tsa.serving.results import single_result, to_json
from tsa.serving.scoring.app_state import AppState


def sagemaker_routes(service: AppState) -> APIRouter:
    """The two routes."""
    router = APIRouter()

    async def ping() -> Response:
        """Whether this server can score."""
        return Response(b"{}", media_type=JSON)

    async def invocations(request: Request) -> Response:
        """Score payments. A list has a prediction or a problem for each."""
        exchange, settings = RequestContext.of(request.scope), service.settings
        explain = reasons_requested(request.scope.get("query_string", b"")) and not service.imported
        kind = formats.media_type(exchange.header(b"content-type"), READ)
        out = response_format(exchange.header(b"accept"), kind, imported=service.imported)
        body = await exchange.body()
        bounds = settings.max_list, settings.max_bytes
        if kind == PARQUET:  # another process reads it, for which nobody else is to wait
            rows = await asyncio.to_thread(rows_of, body, kind, *bounds)
        else:
            rows = rows_of(body, kind, *bounds)
        entries = service.contract.entries(rows)
        if explain:
            service.reasoner.check(len(entries))
        results = await service.score(entries, client=exchange.client, deadline=exchange.deadline)
        documents = [to_json(result, exchange.request_id) for result in results]
        if rows.single:
            single_result(results, documents)
        if service.imported:
            documents = to_legacy_format(service.calibration, results, documents)
        elif explain:
            await add_reasons(service, exchange, entries, documents)
        content, media_type = serialize(out, documents)
        return Response(content, media_type=media_type)

    router.add_api_route("/ping", ping, methods=READING)
    router.add_route("/invocations", invocations, methods=["POST"])
    return router
