"""uvicorn around the application: workers, TLS, and an end in which nothing that was accepted is lost.

After SIGTERM a worker says 503 to what is new for `drain_seconds`, so that load balancers turn elsewhere, then closes its
socket, finishes what it accepted, and ends. A second signal ends the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from dataclasses import replace
from types import FrameType
from typing import Any

import uvicorn

from tsa.serving.app import create_app
from tsa.serving.descriptors import allow_many, log_once_a_while
from tsa.serving.figures import Figures
from tsa.serving.protocol import Protocol
from tsa.serving.renewal import Renewal
from tsa.serving.service import Service
from tsa.serving.settings import ServeSettings
from tsa.serving.starting import hangup
from tsa.serving.tls import Certificates
from tsa.serving.workers import bind, supervise

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0002
"""How long a thread may hold the interpreter while another waits: the model's thread is busy, answers must not wait for it."""
KEEP_ALIVE_SECONDS = 75
LAST_SECONDS = 0.2
"""Between closing the listening sockets and closing connections: connections that were just opened hear 503."""


class Server(uvicorn.Server):
    """One worker. Its application is made in its own process."""

    def __init__(self, settings: ServeSettings, figures: Figures | None = None) -> None:
        """figures: where it is one of several workers."""
        super().__init__(_config(settings))
        self.settings = settings
        self.service: Service | None = None
        """While it serves: what its routes share."""
        self.renewal: Renewal | None = None
        self._figures = figures
        self._certificates = None if settings.ssl_certificate is None else Certificates(settings)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[Any] | None = None) -> None:
        """Serve until a signal, and to the end of what was accepted."""
        _prepare(self.settings)
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(log_once_a_while)
        service = self.service = Service(self.settings)
        self.config.app = create_app(service)
        try:
            await super().serve(sockets)
        finally:
            hangup.tell(None)
            if self.renewal is not None:
                self.renewal.stop()
            service.close()

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Say where it listens."""
        assert self.service is not None
        if self._certificates is not None:
            self.config.ssl = self._certificates.context
        await super().startup(sockets)
        if self._figures is not None:
            self._figures.serve(self.service.metrics.registry.collect)
            self.service.metrics.total = self._figures.total
        # what has been made so far stays: looking through it for garbage again and again held answers up by 0.2 s
        gc.collect()
        gc.freeze()
        for server in self.servers:
            for socket in server.sockets:
                logger.info("listening on %s", socket.getsockname()[:2])
        self.renewal = Renewal(self.service, self._certificates)
        self.renewal.start()
        hangup.tell(self.renew)

    def renew(self) -> None:
        """Read bundle, tokens and certificate again. From any thread, or a signal's handler."""
        if self._loop is not None and self.renewal is not None:
            self._loop.call_soon_threadsafe(self.renewal.ask)

    def end_now(self) -> None:
        """Take nothing more and finish what was accepted. From any thread."""
        if self.service is not None and self.service.ends_at is None:
            self.service.ends_at = time.monotonic() + self.settings.stop_seconds
        self.should_exit = True

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Close the listening sockets, then tell those that came at the last moment, then end: an idle connection that is
        closed while a request is on its way to it looks to a client like a payment that was lost."""
        for server in self.servers:
            server.close()
        if self.settings.drain_seconds and not self.force_exit:
            await asyncio.sleep(LAST_SECONDS)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, which is no failure: the process ends with 0. The second one hurries it."""
        if self._figures is not None and sig == signal.SIGINT:
            return  # a terminal sends it to all; the parent ends its workers
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
        app="tsa.serving.app:create_app",
        http=Protocol,
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
    """What holds for the whole process."""
    import torch

    allow_many()
    torch.set_num_threads(settings.threads)
    sys.setswitchinterval(SWITCH_SECONDS)


def run(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises what opening the bundle or the history store raises, and ConfigError for the port."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        logger.warning("running as root: a user without rights is enough, and safer")
    if settings.workers == 1:
        with contextlib.closing(bind(settings)) as own:
            Server(settings).run(sockets=[own])
        return
    if settings.ssl_certificate is not None:
        Certificates(settings)
    first = Service(settings)  # what is wrong with the settings is said once, and here
    seen = None if first.store is None else first.store.seen
    first.close()
    # a worker that is started later must meet the same store, and not make a new one
    supervise(replace(settings, new_store=False, history_seen=seen))
