"""uvicorn around the application: workers, TLS, and an end in which nothing that was accepted is lost.

After SIGTERM a worker says 503 to what is new for `drain_seconds`, so that load balancers turn elsewhere, then closes its
socket, finishes what it accepted, and ends. A second signal ends the wait.
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
from collections.abc import Iterator
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
        self.service: AppState | None = None
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
            for listening in server.sockets:
                logger.info("listening on %s", listening.getsockname()[:2])
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
        logger.info("the server ends: nothing new is taken, what was accepted is finished")
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
        app="tsa.serving.http.app:create_app",
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
    first = AppState(settings)  # what is wrong with the settings is said once, and here
    seen = None if first.store is None else first.store.seen
    first.close()
    # a worker that is started later must meet the same store, and not make a new one
    supervise(settings.model_copy(update={"new_store": False, "history_seen": seen}))


FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_terminal(level: int = logging.INFO) -> None:
    """Log TSA's events from `level` on, and of the server beneath what is wrong alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(FORMAT))
    for name, least in (("tsa", level), ("uvicorn", logging.ERROR)):
        found = logging.getLogger(name)
        found.setLevel(least)
        found.handlers[:] = [handler]
        found.propagate = False


LOOK_SECONDS = 1.0
MAX_SECONDS = 30.0
"""How long workers may take to end, whatever their settings, which allow no more."""
TRIES = 5
"""So many ends of a worker and of those in its place, each soon after its start, end the server."""
STEADY_SECONDS = 10.0
"""A worker that was up for so long has started well: it is no part of such a row."""
START_SECONDS = 600.0
"""How long a worker may take to be up."""
MAX_WAIT_SECONDS = 8.0
"""Between the end of a worker and the next try."""
ADDRESS_SECONDS = 3.0
"""How long an address that is taken is waited for: workers of a server that was killed let go of it at once, but not before."""
REFUSED = 2


class Place:
    """The place of one worker: who has it, and how often in a row it was lost."""

    def __init__(self, settings: ServeSettings, listening: socket.socket, together: Together) -> None:
        self._settings, self._listening, self._together = settings, listening, together
        self.lost, self._again_at = 0, 0.0
        self.start()

    def start(self) -> None:
        """Put a worker there."""
        self.member = Member()
        context = multiprocessing.get_context("spawn")
        arguments = (self._settings, self._listening, self.member.line)
        self.worker: BaseProcess = context.Process(target=_work, args=arguments, name="tsa-worker")
        self.begun, self._gone = time.monotonic(), False
        with _signals_later():
            self.worker.start()
        self._together.join(self.member)

    def look(self) -> None:
        """Replace a worker that has ended. ServerError where one after the other does."""
        now, ready = time.monotonic(), self.member.ready_at
        if self.worker.is_alive():
            if ready is None and now - self.begun > START_SECONDS:
                logger.error("worker %s was not up within %d s and is ended", self.worker.pid, START_SECONDS)
                self.worker.kill()
            return
        if not self._gone:
            self._gone = True
            self._together.leave(self.member)
            self.lost = 1 if ready is not None and now - ready > STEADY_SECONDS else self.lost + 1
            if self.lost >= TRIES:
                raise ServerError(
                    f"workers must stay up (got {self.lost} in a row that ended soon after their start, the last with "
                    f"{_how(self.worker.exitcode)}): the lines of the log above say why"
                )
            logger.error("worker %s ended with %s and is replaced", self.worker.pid, _how(self.worker.exitcode))
            self._again_at = now + min(MAX_WAIT_SECONDS, 2.0 ** (self.lost - 1) - 1.0)
        if now >= self._again_at:
            self.start()


class Asked:
    """What signals ask of the parent. Handlers may do next to nothing: they note it, and wake the loop."""

    def __init__(self) -> None:
        self.to_end, self.hurried, self.to_renew = False, False, False
        self.woken, self._wake = os.pipe()
        for end in (self.woken, self._wake):
            os.set_blocking(end, False)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """A signal has come."""
        if number in (signal.SIGTERM, signal.SIGINT):
            self.hurried, self.to_end = self.to_end, True
        else:
            self.to_renew = True
        with suppress(OSError):
            os.write(self._wake, b"x")

    def drain(self) -> None:
        """Forget that the loop was woken."""
        with suppress(BlockingIOError):
            while os.read(self.woken, 1024):
                pass

    def close(self) -> None:
        """Let go of the pipe."""
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
    """Run the workers until a signal; returns when all have ended. Raises ConfigError where the address is taken, and
    ServerError where workers end again and again."""
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
    """Hand SIGHUP on: each worker reads its files again."""
    logger.info("SIGHUP: the workers read bundle, tokens and certificate again")
    for place in places:
        if place.worker.is_alive() and place.worker.pid is not None:
            os.kill(place.worker.pid, signal.SIGHUP)


def bind(settings: ServeSettings) -> socket.socket:
    """The socket that workers listen on once they are ready; until then connections are refused, and do not hang. Raises
    ConfigError where the address is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end = time.monotonic() + ADDRESS_SECONDS
    while True:
        try:
            found.bind((settings.host, settings.port))
            break
        except OSError as error:
            if time.monotonic() < end and settings.port:
                time.sleep(0.1)
                continue
            found.close()
            raise ConfigError(f"port must be free on {settings.host} (got {settings.port}: {error.strerror})") from None
    found.set_inheritable(True)
    return found


@contextmanager
def _signals_later() -> Iterator[None]:
    """Inside the block SIGHUP and SIGINT wait. What is started there begins so, and takes them once it can heed them."""
    resource_tracker.ensure_running()  # with the first process it would let SIGINT through again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGINT})


def _work(settings: ServeSettings, listening: socket.socket, line: Line) -> None:
    """A worker: serves until it is told to end, or the process that started it is gone."""
    signal.signal(signal.SIGHUP, hangup)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent ends its workers
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
    """How a worker ends once its parent is gone: it takes nothing more, finishes what it accepted, and is not to be found."""

    def __init__(self, stop_seconds: float) -> None:
        self.server: object = None
        self._seconds = stop_seconds

    def end(self) -> None:
        """In a thread of its own."""

        if not isinstance(self.server, Server) or not self.server.started:
            os._exit(1)
        logger.error("the process that started this worker is gone: it ends")
        threading.Thread(target=self._end_hard, daemon=True).start()
        self.server.end_now()

    def _end_hard(self) -> NoReturn:
        time.sleep(self._seconds + 1.0)
        os._exit(1)


def _end(workers: list[BaseProcess], asked: Asked) -> None:
    """Ask all workers to end, once more where a second signal comes, and end those that do not in time."""
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
