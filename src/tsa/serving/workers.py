"""Several worker processes on one socket: started, replaced when they die, and asked to end together.

A worker ends with the process that started it, whatever ended that one. Workers that die again and again end the server.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import NoReturn

from tsa.errors import ConfigError, ServerError, TSAError
from tsa.machine import lack
from tsa.serving.figures import Figures, Line, Member, Together
from tsa.serving.settings import ServeSettings
from tsa.serving.starting import hangup

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
MOST_SECONDS = 30.0
"""How long workers may take to end, whatever their settings, which allow no more."""
TRIES = 5
"""So many ends of a worker and of those in its place, each soon after its start, end the server."""
STEADY_SECONDS = 10.0
"""A worker that was up for so long has started well: it is no part of such a row."""
START_SECONDS = 600.0
"""How long a worker may take to be up."""
MOST_WAIT_SECONDS = 8.0
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
            self._again_at = now + min(MOST_WAIT_SECONDS, 2.0 ** (self.lost - 1) - 1.0)
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
    with listening, _heeded(asked):
        try:
            places.extend(Place(settings, listening, together) for _ in range(settings.workers))
            while not asked.to_end:
                wait(
                    [asked.woken, *(place.worker.sentinel for place in places if place.worker.is_alive())], LOOK_SECONDS
                )
                asked.drain()
                if asked.to_renew:
                    asked.to_renew = False
                    _renew(places)
                for place in places:
                    place.look()
                together.gather()
        finally:
            _end([place.worker for place in places], asked)


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
            raise ConfigError(
                f"port must be free on {settings.host}, however: {settings.port}: {error.strerror}"
            ) from None
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
    from tsa.serving.log import log_to_terminal

    log_to_terminal()
    try:
        from tsa.serving.server import Server

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
        from tsa.serving.server import Server

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
    end, hurried = time.monotonic() + MOST_SECONDS, False
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
