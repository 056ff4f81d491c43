"""GET /ping and POST /invocations, as SageMaker calls them."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from tsa.serving import formats
from tsa.serving.formats import JSON, PARQUET
from tsa.serving.http.invocations import READ, answered_in, as_original, rows_of, written
from tsa.serving.http.request import READING, Exchange
from tsa.serving.http.routes.score import add_reasons, wants_reasons
from tsa.serving.results import document, only
from tsa.serving.scoring.app_state import Service


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
        kind = formats.media_type(exchange.header(b"content-type"), READ)
        out = answered_in(exchange.header(b"accept"), kind, imported=service.imported)
        body = await exchange.body()
        bounds = settings.max_list, settings.max_bytes
        if kind == PARQUET:  # another process reads it, for which nobody else is to wait
            found = await asyncio.to_thread(rows_of, body, kind, *bounds)
        else:
            found = rows_of(body, kind, *bounds)
        entries = service.contract.entries(found)
        if explain:
            service.reasoner.check(len(entries))
        results = await service.score(entries, client=exchange.client, deadline=exchange.deadline)
        documents = [document(result, exchange.request_id) for result in results]
        if found.single:
            only(results, documents)
        if service.imported:
            documents = as_original(service.calibration, results, documents)
        elif explain:
            await add_reasons(service, exchange, entries, documents)
        content, media_type = written(out, documents)
        return Response(content, media_type=media_type)

    router.add_api_route("/ping", ping, methods=READING)
    router.add_route("/invocations", invocations, methods=["POST"])
    return router
