"""The uvicorn server: worker processes, TLS, and a graceful shutdown that answers every accepted request.

After SIGTERM a worker answers new requests with 503 for `drain_seconds`, so that load balancers use other servers, then
closes its socket, finishes its requests and exits. A second signal skips the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NoReturn

import uvicorn

from tsa.errors import ConfigError, ServerError, TSAError
from tsa.printable import LineFormatter
from tsa.serving.file_descriptors import allow_many, log_once_a_while
from tsa.serving.http.app import create_app
from tsa.serving.http.protocol import Protocol
from tsa.serving.reload_files import Renewal
from tsa.serving.scoring.app_state import AppState
from tsa.serving.settings import ServeSettings
from tsa.serving.startup_signals import hangup
from tsa.serving.tls import Certificates
from tsa.serving.worker_metrics import Figures, Line, Member, Together
from tsa.system_errors import lack

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0002
"""Switch interval of the interpreter: short, so that answers do not wait for the busy model thread."""
KEEP_ALIVE_SECONDS = 75
LAST_SECONDS = 0.2
"""Between closing the listening sockets and closing connections: connections opened just before still get a 503."""


class Server(uvicorn.Server):
    """One worker. Its application is created in its own process."""

    def __init__(self, settings: ServeSettings, figures: Figures | None = None) -> None:
        """Args:
        figures: metrics shared with the other workers; None if this is the only one.
        """
        super().__init__(_config(settings))
        self.settings = settings
        self.service: AppState | None = None
        """State that the routes share, while it serves."""
        self.renewal: Renewal | None = None
        self._figures = figures
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
        if self._figures is not None:
            self._figures.serve(self.service.metrics.registry.collect)
            self.service.metrics.total = self._figures.total
        # exclude all objects so far from garbage collection: full collections delayed answers by 0.2 s
        gc.collect()
        gc.freeze()
        for server in self.servers:
            for listening in server.sockets:
                logger.info("listening on %s", listening.getsockname()[:2])
        self.renewal = Renewal(self.service, self._certificates)
        self.renewal.start()
        hangup.tell(self.renew)

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
        """Close the listening sockets, then tell those that came at the last moment, then end: an idle connection that is
        closed while a request is on its way to it looks to a client like a payment that was lost."""
        logger.info("the server ends: nothing new is taken, what was accepted is finished")
        for server in self.servers:
            server.close()
        if self.settings.drain_seconds and not self.force_exit:
            await asyncio.sleep(LAST_SECONDS)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the graceful shutdown (exit code 0) at the first signal; skip the wait at the second."""
        if self._figures is not None and sig == signal.SIGINT:
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


def run(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: the port is not free, or the settings do not fit. Also raises what opening the bundle or store raises.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        logger.warning("running as root: an unprivileged user is enough, and safer")
    if settings.workers == 1:
        with contextlib.closing(bind(settings)) as own:
            Server(settings).run(sockets=[own])
        return
    if settings.ssl_certificate is not None:
        Certificates(settings)
    first = AppState(settings)  # report errors in the settings here, once, and not in each worker
    seen = None if first.store is None else first.store.seen
    first.close()
    # workers started later must use the same store and not create a new one
    supervise(settings.model_copy(update={"new_store": False, "history_seen": seen}))


FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_terminal(level: int = logging.INFO) -> None:
    """Log to standard error: TSA's messages from `level` on, and only errors of uvicorn."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(FORMAT))
    for name, least in (("tsa", level), ("uvicorn", logging.ERROR)):
        target = logging.getLogger(name)
        target.setLevel(least)
        target.handlers[:] = [handler]
        target.propagate = False


LOOK_SECONDS = 1.0
MAX_SECONDS = 30.0
"""Time limit for workers to end; their settings allow no more."""
TRIES = 5
"""The server stops if no worker is healthy and each place had this many quick failures in a row."""
STEADY_SECONDS = 10.0
"""A worker that ran this long has started well: it is healthy, and its end does not count as a quick failure."""
START_SECONDS = 600.0
"""Time limit for a worker to start."""
MAX_WAIT_SECONDS = 60.0
"""Longest wait between the end of a worker and its restart; the wait doubles with each quick failure."""
ADDRESS_SECONDS = 3.0
"""How long to wait for an address in use: workers of a killed server release it shortly after."""
REFUSED = 2


class Place:
    """A worker slot: its current process, and the number of quick failures in a row."""

    def __init__(self, settings: ServeSettings, listening: socket.socket, together: Together) -> None:
        self._settings, self._listening, self._together = settings, listening, together
        self.lost, self._again_at = 0, 0.0
        self.last = ""
        """How its last worker ended."""
        self.start()

    def start(self) -> None:
        """Start a worker process."""
        self.member = Member()
        context = multiprocessing.get_context("spawn")
        arguments = (self._settings, self._listening, self.member.line)
        self.worker: BaseProcess = context.Process(target=_work, args=arguments, name="tsa-worker")
        self.begun, self._gone = time.monotonic(), False
        with _signals_later():
            self.worker.start()
        self._together.join(self.member)

    def look(self) -> None:
        """Replace the worker if it has ended, after a pause that grows with the number of quick failures in a row."""
        now, ready = time.monotonic(), self.member.ready_at
        if self.worker.is_alive():
            if ready is None and now - self.begun > START_SECONDS:
                logger.error("worker %s did not start within %d s and is killed", self.worker.pid, START_SECONDS)
                self.worker.kill()
            return
        if not self._gone:
            self._gone = True
            self._together.leave(self.member)
            self.lost = 1 if ready is not None and now - ready > STEADY_SECONDS else self.lost + 1
            pause = min(MAX_WAIT_SECONDS, 2.0 ** (self.lost - 1) - 1.0)
            self.last = _how(self.worker.exitcode)
            logger.error(
                "worker %s ended with %s and is replaced%s",
                *(self.worker.pid, self.last),
                f" in {pause:g} s (failure {self.lost} in a row)" if pause else "",
            )
            self._again_at = now + pause
            return
        if now >= self._again_at:
            self.start()

    def is_healthy(self) -> bool:
        """Whether its worker has been serving for some time."""
        ready = self.member.ready_at
        return self.worker.is_alive() and ready is not None and time.monotonic() - ready > STEADY_SECONDS


def _end_if_none_stays(places: Sequence[Place]) -> None:
    """Raise ServerError if no worker stays up. One that does goes on serving, however often the others fail."""
    fewest = min(place.lost for place in places)
    if fewest >= TRIES and not any(place.is_healthy() for place in places):
        raise ServerError(
            f"workers must stay up (got {fewest} failures in a row in each place, the last with {places[0].last}): "
            "see the log lines above"
        )


class Asked:
    """Signal handler of the parent: it only sets flags and wakes the loop, since handlers must do little."""

    def __init__(self) -> None:
        self.to_end, self.hurried, self.to_renew = False, False, False
        self.woken, self._wake = os.pipe()
        for end in (self.woken, self._wake):
            os.set_blocking(end, False)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if number in (signal.SIGTERM, signal.SIGINT):
            self.hurried, self.to_end = self.to_end, True
        else:
            self.to_renew = True
        with suppress(OSError):
            os.write(self._wake, b"x")

    def drain(self) -> None:
        """Empty the pipe that wakes the loop."""
        with suppress(BlockingIOError):
            while os.read(self.woken, 1024):
                pass

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.woken)
        os.close(self._wake)


@contextmanager
def _heeded(asked: Asked) -> Iterator[None]:
    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        asked.close()


def supervise(settings: ServeSettings) -> None:
    """Run the workers until a signal; return when all have ended.

    Raises:
        ConfigError: the address is in use.
        ServerError: no worker stays up.
    """
    listening, asked, together = bind(settings), Asked(), Together()
    places: list[Place] = []
    listened = False
    with listening, _heeded(asked):
        try:
            places.extend(Place(settings, listening, together) for _ in range(settings.workers))
            while not asked.to_end:
                alive = [place for place in places if place.worker.is_alive()]
                is_up = any(place.member.ready_at is not None for place in alive)
                listened = listened or is_up
                turned_away = [listening] if listened and not is_up else []
                wait([asked.woken, *turned_away, *(place.worker.sentinel for place in alive)], LOOK_SECONDS)
                if turned_away:
                    _turn_away(listening)
                asked.drain()
                if asked.to_renew:
                    asked.to_renew = False
                    _renew(places)
                for place in places:
                    place.look()
                _end_if_none_stays(places)
                together.gather()
        finally:
            _end([place.worker for place in places], asked)


def _turn_away(listening: socket.socket) -> None:
    """Close connections that were made while no worker is up: they would wait for as long as one takes to start."""
    listening.setblocking(False)
    with suppress(OSError):
        while True:
            listening.accept()[0].close()


def _renew(places: list[Place]) -> None:
    """Forward SIGHUP: each worker reloads its files."""
    logger.info("SIGHUP: the workers reload bundle, tokens and certificate")
    for place in places:
        if place.worker.is_alive() and place.worker.pid is not None:
            os.kill(place.worker.pid, signal.SIGHUP)


def bind(settings: ServeSettings) -> socket.socket:
    """Bind the socket that workers listen on once they are ready; until then connections are refused and do not hang.

    Raises:
        ConfigError: the address is in use.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end = time.monotonic() + ADDRESS_SECONDS
    while True:
        try:
            listening.bind((settings.host, settings.port))
            break
        except OSError as error:
            if time.monotonic() < end and settings.port:
                time.sleep(0.1)
                continue
            listening.close()
            raise ConfigError(f"port must be free on {settings.host} (got {settings.port}: {error.strerror})") from None
    listening.set_inheritable(True)
    return listening


@contextmanager
def _signals_later() -> Iterator[None]:
    """Block SIGHUP and SIGINT; processes started inside inherit the mask and unblock them once they can handle them."""
    resource_tracker.ensure_running()  # started with the first process, it would unblock SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGINT})


def _work(settings: ServeSettings, listening: socket.socket, line: Line) -> None:
    """Worker process: serve until stopped, or until the parent process is gone."""
    signal.signal(signal.SIGHUP, hangup)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the parent stops its workers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGINT})
    orphan = Orphan(settings.stop_seconds)
    figures = Figures(line, orphan.end)

    log_to_terminal()
    try:
        server = orphan.server = Server(settings, figures)
        server.run(sockets=[listening])
    except Exception as error:
        if (text := str(error) if isinstance(error, TSAError) else lack(error)) is None:
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


def _end(workers: list[BaseProcess], asked: Asked) -> None:
    """Terminate all workers, again at a second signal, and kill those that do not end in time."""
    for worker in workers:
        worker.terminate()
    end, hurried = time.monotonic() + MAX_SECONDS, False
    while (left := [worker for worker in workers if worker.is_alive()]) and time.monotonic() < end:
        wait([asked.woken, *(worker.sentinel for worker in left)], LOOK_SECONDS)
        asked.drain()
        if asked.hurried and not hurried:
            hurried = True
            for worker in left:
                worker.terminate()
    for worker in workers:
        if worker.is_alive():
            worker.kill()
        worker.join(LOOK_SECONDS)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"{code} ({signal.Signals(-code).name})"
    return str(code)
