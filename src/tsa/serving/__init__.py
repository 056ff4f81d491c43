"""The endpoint: payments over HTTP, and the histories it remembers between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsa.errors import ConfigError

if TYPE_CHECKING:
    from tsa.serving.settings import ServeSettings


def run(settings: ServeSettings) -> None:
    """Serve until SIGTERM. ConfigError where a library of the endpoint is not installed."""
    from tsa.serving.startup_signals import starting

    with starting():
        _serve(settings)


def _serve(settings: ServeSettings) -> None:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise ConfigError(
            "tsa serve needs FastAPI and uvicorn (pip install 'tsa-fraud[serve]'), but they are not installed"
        ) from None
    from tsa.serving.server import log_to_terminal
    from tsa.serving.server import run as serve

    log_to_terminal()
    serve(settings)
