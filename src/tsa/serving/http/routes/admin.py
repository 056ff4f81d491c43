"""Routes for operators and developers: metrics, the OpenAPI document, the form's description, and reload."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter, Response

from tsa.serving.formats import JSON
from tsa.serving.http.openapi import document
from tsa.serving.http.openapi_schemas import Specification
from tsa.serving.http.request_context import READING
from tsa.serving.scoring.app_state import AppState


def admin_routes(service: AppState) -> APIRouter:
    """/metrics, /openapi.json, /v1/form and /v1/admin/reload."""
    router = APIRouter()

    def _specification() -> Specification:
        return Specification(service.market, service.scorer.bundle.encoder)

    async def metrics() -> Response:
        """The page that Prometheus reads."""
        service.metrics.queue.set(service.batcher.waiting)
        page, kind = await asyncio.get_running_loop().run_in_executor(None, service.metrics.text)
        return Response(page, headers={"content-type": kind})

    async def openapi() -> Response:
        """The OpenAPI document."""
        secured, with_queue = not service.secrets.is_open, service.review is not None
        return _json(document(_specification(), secured, with_queue=with_queue))

    async def form() -> Response:
        """The columns of a payment, for the form."""
        policy = service.scorer.bundle.thresholds
        decisions = None if policy is None else policy.to_dict()
        return _json({**_specification().form(), "version": service.version, "decisions": decisions})

    async def reload() -> Response:
        """Load the bundle that is now at the server's path."""
        return _json({"version": await service.reload()})

    for path, route in (("/metrics", metrics), ("/openapi.json", openapi), ("/v1/form", form)):
        router.add_api_route(path, route, methods=READING)
    router.add_api_route("/v1/admin/reload", reload, methods=["POST"])
    return router


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type=JSON)
