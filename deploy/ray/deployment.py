"""The endpoint as a Ray Serve application: each replica is a server of its own, behind Ray's proxy. See config.yaml.

All routes of `tsa serve` are there. Replicas share the history store, so it must be Redis with more than one of them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tsa.serving.http.app import create_app, reload_on_change
from tsa.serving.scoring.app_state import AppState
from tsa.serving.settings import ServeSettings


class Endpoint:
    """One replica. settings: those of `ServeSettings`, by name."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.service = AppState(ServeSettings.make(settings))
        self.watching: asyncio.Task[None] | None = None
        self.app = create_app(self.service)

    async def __call__(self, request: Request) -> Response:
        """Answer one request, as the server would."""
        if self.watching is None and self.service.settings.watch_seconds:
            # the application's lifespan, in which a new bundle is looked for, is none of Ray's business
            self.watching = asyncio.create_task(reload_on_change(self.service))
        response = Response()
        parts: list[bytes] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                response.status_code, response.raw_headers = message["status"], list(message.get("headers", ()))
            else:
                parts.append(message.get("body", b""))

        await self.app(request.scope, request.receive, send)
        response.body = b"".join(parts)
        if not any(name == b"content-length" for name, _ in response.raw_headers):
            response.raw_headers.append((b"content-length", str(len(response.body)).encode()))
        return response

    def check_health(self) -> None:
        """Ray replaces a replica whose check raises."""
        if self.service.draining:
            raise RuntimeError("this replica is being stopped")

    def __del__(self) -> None:
        if hasattr(self, "service"):
            self.service.close()


def application(settings: dict[str, Any]) -> Any:
    """What Ray Serve builds from the `args` of config.yaml."""
    from ray import serve

    return serve.deployment(Endpoint).options(name="Endpoint").bind(settings)
