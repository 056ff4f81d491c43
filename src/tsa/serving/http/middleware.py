"""ASGI middleware for every request: authentication, rate limit, and translation of errors into RFC 9457 problems.

Answers never contain a traceback, a path, or the text of an exception, which might contain a payment's value. Internal errors
are logged with their class and location, without their text.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from tsa.serving.auth import bearer
from tsa.serving.http.request_context import KEY, Message, Receive, RequestContext, Scope, Send
from tsa.serving.http.route_roles import check_access, needed_roles
from tsa.serving.problems import CONTENT_TYPE, ProblemError, encode

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from tsa.serving.scoring.app_state import AppState

from tsa.serving.http.exceptions import problem_from_exception, rate_limited, stopping

logger = logging.getLogger(__name__)

PROTOCOL = "/v2"
WORK = ("/score", "/score/flat", "/outcome", "/invocations", "/infer")
ALIVE = "/v2/health/live"
Endpoint = Callable[[Request], Awaitable[Response]]
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


class RequestMiddleware:
    """ASGI middleware around the routes."""

    def __init__(self, app: ASGIApp, service: AppState, direct: Mapping[str, Endpoint]) -> None:
        """Args:
        direct: by address, endpoints of POST requests that are called without the framework, which takes as long as they do.
        """
        self._app, self._service, self._direct = app, service, direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        exchange = RequestContext(scope, receive, self._service.settings)
        scope[KEY] = exchange

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                own = [(b"x-request-id", exchange.request_id.encode()), *HEADERS]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        try:
            self._authorize(exchange)
            await self._route(scope, receive, answer)
        except asyncio.CancelledError:
            if exchange.status or self._service.ends_at is None:
                raise
            # the server is stopping and no longer waits for this request
            await self._refuse(stopping(), exchange, answer)
        except Exception as error:
            if exchange.status:
                raise
            await self._refuse(problem_from_exception(error), exchange, answer)
        finally:
            # a plain route leaves its endpoint in the scope, and its address is a fixed one
            route = getattr(scope.get("route"), "path", exchange.path if "endpoint" in scope else "other")
            self._service.metrics.request(route, exchange.status, time.monotonic() - exchange.begun)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._direct.get(scope["path"]) if scope["method"] == "POST" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        scope["endpoint"] = endpoint
        response = await endpoint(Request(scope))
        await response(scope, receive, send)

    def _authorize(self, exchange: RequestContext) -> None:
        """Raise ProblemError for a client without access, over its rate limit, or while the server is busy."""
        service, path = self._service, exchange.path
        if service.draining and path != ALIVE:
            raise stopping()
        roles = needed_roles(path)
        if roles is None:
            return
        token = bearer(exchange.header(b"authorization"))
        exchange.grant = grant = service.secrets.tokens.grant(token)
        if token and (grant is not None or not service.secrets.is_open):
            client = hashlib.sha256(token.encode("latin-1", "replace")).hexdigest()[:16]
        else:
            client = exchange.client
        try:
            check_access(service.secrets, roles, grant)
        except ProblemError:
            # limits the guessing of tokens
            if (wait := service.buckets.take(exchange.client if grant is None else client)) is not None:
                raise rate_limited(wait) from None
            raise
        exchange.client = client
        if (wait := service.buckets.take(exchange.client)) is not None:
            raise rate_limited(wait)
        if path.endswith(WORK):
            service.batcher.ensure_capacity()  # while the queue is full, do no work for requests that will be refused

    async def _refuse(self, refused: ProblemError, exchange: RequestContext, send: Send) -> None:
        if not refused.counted:
            self._service.metrics.refused(refused.rule)
        document = refused.document(exchange.request_id)
        if exchange.path.startswith(PROTOCOL):
            document["error"] = refused.detail  # as the Open Inference Protocol has it
        body = encode(document)
        headers = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in refused.headers.items()]
        await send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
