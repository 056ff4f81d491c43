"""One worker of the server: uvicorn with a graceful shutdown that answers every accepted request.

After SIGTERM a worker answers new requests with 503 for `drain_seconds`, so that load balancers use other servers, then
closes its socket, finishes its requests and exits. A second signal skips the wait.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any, NoReturn

import uvicorn

from tsa.errors import TSAError
from tsa.printable import LineFormatter
from tsa.serving.file_descriptors import allow_many, log_once_a_while
from tsa.serving.http.app import create_app
from tsa.serving.http.protocol import Protocol
from tsa.serving.reload_files import Renewal
from tsa.serving.scoring.app_state import AppState
from tsa.serving.settings import ServeSettings
from tsa.serving.startup_signals import hangup
from tsa.serving.tls import Certificates
from tsa.serving.worker_metrics import WorkerMetrics, WorkerPipes
from tsa.system_errors import resource_problem

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0002
"""Switch interval of the interpreter: short, so that answers do not wait for the busy model thread."""
KEEP_ALIVE_SECONDS = 75
BEAT_SECONDS = 0.5
"""How often the event loop of a worker shows that it runs."""
LAST_SECONDS = 0.2
"""Between closing the listening sockets and closing connections: connections opened just before still get a 503."""
REFUSED = 2
"""Exit code of a worker that cannot start."""


class Server(uvicorn.Server):
    """One worker. Its application is created in its own process."""

    def __init__(self, settings: ServeSettings, shared_metrics: WorkerMetrics | None = None) -> None:
        """Args:
        shared_metrics: metrics shared with the other workers; None if this is the only one.
        """
        super().__init__(_config(settings))
        self.settings = settings
        self.service: AppState | None = None
        """State that the routes share, while it serves."""
        self.renewal: Renewal | None = None
        self._shared_metrics = shared_metrics
        self._certificates = None if settings.ssl_certificate is None else Certificates(settings)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[Any] | None = None) -> None:
        """Serve until a signal, and until all accepted requests are answered."""
        _prepare(self.settings)
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(log_once_a_while)
        service = self.service = AppState(self.settings)
        self.config.app = create_app(service)
        try:
            await super().serve(sockets)
        finally:
            hangup.tell(None)
            if self.renewal is not None:
                self.renewal.stop()
            service.close()

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Start to listen, log the addresses and start watching the files."""
        assert self.service is not None
        if self._certificates is not None:
            self.config.ssl = self._certificates.context
        await super().startup(sockets)
        if self._shared_metrics is not None:
            self._shared_metrics.serve(self.service.metrics.registry.collect)
            self.service.metrics.total = self._shared_metrics.total
            self._beat()
        # exclude all objects so far from garbage collection: full collections delayed answers by 0.2 s
        gc.collect()
        gc.freeze()
        for server in self.servers:
            for listening in server.sockets:
                logger.info("listening on %s", listening.getsockname()[:2])
        self.renewal = Renewal(self.service, self._certificates)
        self.renewal.start()
        hangup.tell(self.renew)

    def _beat(self) -> None:
        if self._shared_metrics is not None and self._loop is not None:
            self._shared_metrics.beat()
            self._loop.call_later(BEAT_SECONDS, self._beat)

    def renew(self) -> None:
        """Reload bundle, tokens and certificate. Callable from any thread or a signal handler."""
        if self._loop is not None and self.renewal is not None:
            self._loop.call_soon_threadsafe(self.renewal.ask)

    def end_now(self) -> None:
        """Accept no more requests and finish the accepted ones. Callable from any thread."""
        if self.service is not None and self.service.ends_at is None:
            self.service.ends_at = time.monotonic() + self.settings.stop_seconds
        self.should_exit = True

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Close the listening sockets, answer the last requests with 503, then end.

        If an idle connection is closed while a request is in transit, the client cannot tell whether it was scored.
        """
        logger.info("shutting down: new requests are refused, accepted ones are finished")
        for server in self.servers:
            server.close()
        if self.settings.drain_seconds and not self.force_exit:
            await asyncio.sleep(LAST_SECONDS)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the graceful shutdown (exit code 0) at the first signal; skip the wait at the second."""
        if self._shared_metrics is not None and sig == signal.SIGINT:
            return  # a terminal sends it to all processes; the parent stops its workers
        service, loop = self.service, self._loop
        if service is not None and service.ends_at is None:
            service.ends_at = time.monotonic() + self.settings.drain_seconds + self.settings.stop_seconds
        if service is None or loop is None or service.draining or not self.settings.drain_seconds:
            self.force_exit = self.should_exit
            self.should_exit = True
            return
        service.draining = True
        loop.call_soon_threadsafe(loop.call_later, self.settings.drain_seconds, setattr, self, "should_exit", True)


def _config(settings: ServeSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app="tsa.serving.http.app:create_app",
        http=Protocol,
        ws="none",
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, int(settings.stop_seconds)),
        backlog=2048,
    )


def _prepare(settings: ServeSettings) -> None:
    """Apply settings of the process: file limit, threads, switch interval."""
    import torch

    allow_many()
    torch.set_num_threads(settings.threads)
    sys.setswitchinterval(SWITCH_SECONDS)


FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_terminal(level: int = logging.INFO) -> None:
    """Log to standard error: TSA's messages from `level` on, and only errors of uvicorn."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(FORMAT))
    for name, min_level in (("tsa", level), ("uvicorn", logging.ERROR)):
        target = logging.getLogger(name)
        target.setLevel(min_level)
        target.handlers[:] = [handler]
        target.propagate = False


def run_worker(settings: ServeSettings, listening: socket.socket, line: WorkerPipes) -> None:
    """Worker process: serve until stopped, or until the parent process is gone."""
    signal.signal(signal.SIGHUP, hangup)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the parent stops its workers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGINT})
    orphan = Orphan(settings.stop_seconds)
    shared_metrics = WorkerMetrics(line, orphan.end)

    log_to_terminal()
    try:
        server = orphan.server = Server(settings, shared_metrics)
        server.run(sockets=[listening])
    except Exception as error:
        if (text := str(error) if isinstance(error, TSAError) else resource_problem(error)) is None:
            raise
        logger.error("a worker cannot start: %s", text)
        raise SystemExit(REFUSED) from None


class Orphan:
    """Ends a worker whose parent is gone: no new requests, finish the accepted ones, exit."""

    def __init__(self, stop_seconds: float) -> None:
        self.server: object = None
        self._seconds = stop_seconds

    def end(self) -> None:
        """End the worker. Called from a separate thread."""
        if not isinstance(self.server, Server) or not self.server.started:
            os._exit(1)
        logger.error("the parent process is gone: this worker ends")
        threading.Thread(target=self._end_hard, daemon=True).start()
        self.server.end_now()

    def _end_hard(self) -> NoReturn:
        time.sleep(self._seconds + 1.0)
        os._exit(1)
