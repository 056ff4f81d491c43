"""The ASGI application: routes, middleware, and the background task that watches the bundle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Route

from tsa.serving.errors import RefusedError
from tsa.serving.http.middleware import RequestMiddleware
from tsa.serving.http.routes.admin import admin_routes
from tsa.serving.http.routes.open_inference import inference_routes
from tsa.serving.http.routes.page import page_routes
from tsa.serving.http.routes.queue import queue_routes
from tsa.serving.http.routes.sagemaker import sagemaker_routes
from tsa.serving.http.routes.score import score_routes
from tsa.serving.problems import ProblemError
from tsa.serving.scoring.app_state import AppState
from tsa.serving.scoring.bundle_watch import bundle_file_id

logger = logging.getLogger(__name__)


__all__ = ["create_app"]

DETAILS = {
    404: ("not_found", "there is no such address"),
    405: ("method", "the address has no such method"),
}


def create_app(service: AppState) -> FastAPI:
    """Create the ASGI application around a service. The service is closed when the application ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watcher = asyncio.create_task(reload_on_change(service)) if service.settings.watch_seconds else None
        try:
            yield
        finally:
            if watcher is not None:
                watcher.cancel()
            await asyncio.get_running_loop().run_in_executor(None, service.close)

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False)
    app.state.service = service
    scoring, *others = routers(service)
    for router in (scoring, *others):
        app.include_router(router)
    app.add_exception_handler(StarletteHTTPException, _refuse)
    direct = {route.path: route.endpoint for route in scoring.routes if isinstance(route, Route)}
    app.add_middleware(RequestMiddleware, service=service, direct=direct)
    return app


def routers(service: AppState) -> list[APIRouter]:
    """All routes of a server; first those that score payments."""
    return [
        score_routes(service),
        sagemaker_routes(service),
        inference_routes(service),
        admin_routes(service),
        queue_routes(service),
        page_routes(),
    ]


async def _refuse(request: Request, error: Exception) -> Response:
    """Turn errors of the framework into problems, in the middleware."""
    assert isinstance(error, StarletteHTTPException | HTTPException)
    rule, detail = DETAILS.get(error.status_code, ("request", "the request cannot be read"))
    raise ProblemError(error.status_code, rule, detail, headers=dict(error.headers or {}))


async def reload_on_change(service: AppState) -> None:
    """Reload the bundle whenever its file id changes, until cancelled.

    A bundle that was refused is tried again whenever one of its files changes, so that a copy in progress is loaded once it
    is complete. A folder or file that changes in place is left alone until two checks find it unchanged.
    """
    seen = service.mark
    while True:
        await asyncio.sleep(service.settings.watch_seconds)
        await service.follow()
        before, seen = seen, await asyncio.to_thread(bundle_file_id, service.settings.bundle)
        moved = seen[0] != service.mark[0]
        if seen == service.mark or not seen[1] or not (moved or seen == before):
            continue
        try:
            await service.reload()
        except RefusedError:
            logger.warning("the old bundle stays in use; the new one is tried again when one of its files changes")
