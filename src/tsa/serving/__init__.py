"""The HTTP endpoint that scores payments and stores their histories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsa.optional_libraries import need

if TYPE_CHECKING:
    from tsa.serving.settings import ServeSettings


def run(settings: ServeSettings) -> None:
    """Serve until SIGTERM. Raises ConfigError if a library of the endpoint is not installed."""
    from tsa.serving.startup_signals import starting

    with starting():
        _serve(settings)


def _serve(settings: ServeSettings) -> None:
    need("tsa serve", "fastapi", "uvicorn", extra="serve")
    from tsa.serving.server import run as serve
    from tsa.serving.worker import log_to_terminal

    log_to_terminal()
    serve(settings)
