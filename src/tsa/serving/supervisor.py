"""Run several workers on one socket: start them, replace those that end, forward signals, stop them all."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

from tsa.errors import ServerError
from tsa.serving.settings import ServeSettings
from tsa.serving.worker import run_worker
from tsa.serving.worker_metrics import MetricsSum, WorkerMember

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
MAX_SECONDS = 30.0
"""Time limit for workers to end; their settings allow no more."""
TRIES = 5
"""The server stops if no worker is healthy and each place had this many quick failures in a row."""
STEADY_SECONDS = 10.0
"""A worker that ran this long has started well: it is healthy, and its end does not count as a quick failure."""
START_SECONDS = 600.0
"""Time limit for a worker to start."""
MAX_SILENT_ROUNDS = 40
"""A ready worker that has not reported its metrics in so many rounds hangs; a round takes 1.5 s to wait for it."""
MAX_STILL_CHECKS = 60
"""A ready worker hangs too if its event loop has not run in so many checks, at most one a second. Checks are
counted, not seconds: after a pause of the machine, none of its workers hangs.
"""
MAX_WAIT_SECONDS = 60.0
"""Longest wait between the end of a worker and its restart; the wait doubles with each quick failure."""


class Place:
    """A worker slot: its current process, and the number of quick failures in a row."""

    def __init__(self, settings: ServeSettings, listening: socket.socket, together: MetricsSum) -> None:
        self._settings, self._listening, self._together = settings, listening, together
        self.lost, self._again_at = 0, 0.0
        self._beats, self._still, self._counted_at = 0, 0, 0.0
        self.last = ""
        """How its last worker ended."""
        self.start()

    def start(self) -> None:
        """Start a worker process."""
        self.member = WorkerMember()
        context = multiprocessing.get_context("spawn")
        arguments = (self._settings, self._listening, self.member.line)
        self.worker: BaseProcess = context.Process(target=run_worker, args=arguments, name="tsa-worker")
        self.started_at, self._has_ended = time.monotonic(), False
        self._still = 0
        with _signals_later():
            self.worker.start()
        self._together.join(self.member)

    def check(self) -> None:
        """Replace the worker if it has ended, after a pause that grows with the number of quick failures in a row."""
        now, ready = time.monotonic(), self.member.ready_at
        if self.worker.is_alive():
            if ready is None and now - self.started_at > START_SECONDS:
                logger.error("worker %s did not start within %d s and is killed", self.worker.pid, START_SECONDS)
                self.worker.kill()
            elif ready is not None and self._hangs(now):
                logger.error("worker %s hangs and is killed", self.worker.pid)
                self.worker.kill()
            return
        if not self._has_ended:
            self._has_ended = True
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

    def _hangs(self, now: float) -> bool:
        """Whether no thread of the worker answers, or its event loop does not run."""
        if now - self._counted_at >= CHECK_SECONDS:
            beats, self._counted_at = self.member.beats, now
            self._still = self._still + 1 if beats == self._beats else 0
            self._beats = beats
        return self.member.rounds_without_answer >= MAX_SILENT_ROUNDS or self._still >= MAX_STILL_CHECKS

    def is_healthy(self) -> bool:
        """Whether its worker has been serving for some time."""
        ready = self.member.ready_at
        return self.worker.is_alive() and ready is not None and time.monotonic() - ready > STEADY_SECONDS


def _end_if_none_healthy(places: Sequence[Place]) -> None:
    """Raise ServerError if no worker stays up. A worker that stays up continues to serve, even if the others fail."""
    failures = min(place.lost for place in places)
    if failures >= TRIES and not any(place.is_healthy() for place in places):
        raise ServerError(
            f"workers must stay up (got {failures} failures in a row in each place, the last with {places[0].last}): "
            "see the log lines above"
        )


class Asked:
    """Signal handler of the parent: it only sets flags and wakes the loop, since handlers must do little."""

    def __init__(self) -> None:
        self.to_end, self.is_urgent, self.to_renew = False, False, False
        self.woken, self._wake = os.pipe()
        for end in (self.woken, self._wake):
            os.set_blocking(end, False)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if number in (signal.SIGTERM, signal.SIGINT):
            self.is_urgent, self.to_end = self.to_end, True
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


def supervise(settings: ServeSettings, listening: socket.socket) -> None:
    """Run the workers until a signal; return when all have ended.

    Args:
        listening: A bound socket, which the workers listen on.

    Raises:
        ServerError: no worker stays up.
    """
    asked, together = Asked(), MetricsSum()
    places: list[Place] = []
    listened = False
    with _heeded(asked):
        try:
            places.extend(Place(settings, listening, together) for _ in range(settings.workers))
            while not asked.to_end:
                alive = [place for place in places if place.worker.is_alive()]
                is_up = any(place.member.ready_at is not None for place in alive)
                listened = listened or is_up
                turned_away = [listening] if listened and not is_up else []
                wait([asked.woken, *turned_away, *(place.worker.sentinel for place in alive)], CHECK_SECONDS)
                if turned_away:
                    _turn_away(listening)
                asked.drain()
                if asked.to_renew:
                    asked.to_renew = False
                    _renew(places)
                for place in places:
                    place.check()
                _end_if_none_healthy(places)
                together.gather()
        finally:
            _end([place.worker for place in places], asked)


def _turn_away(listening: socket.socket) -> None:
    """Close connections made while no worker is up, which would otherwise wait until one has started."""
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


@contextmanager
def _signals_later() -> Iterator[None]:
    """Block SIGHUP and SIGINT; processes started inside inherit the mask and unblock them once they can handle them."""
    resource_tracker.ensure_running()  # started with the first process, it would unblock SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGINT})


def _end(workers: list[BaseProcess], asked: Asked) -> None:
    """Terminate all workers, again at a second signal, and kill those that do not end in time."""
    for worker in workers:
        worker.terminate()
    end, is_urgent = time.monotonic() + MAX_SECONDS, False
    while (left := [worker for worker in workers if worker.is_alive()]) and time.monotonic() < end:
        wait([asked.woken, *(worker.sentinel for worker in left)], CHECK_SECONDS)
        asked.drain()
        if asked.is_urgent and not is_urgent:
            is_urgent = True
            for worker in left:
                worker.terminate()
    for worker in workers:
        if worker.is_alive():
            worker.kill()
        worker.join(CHECK_SECONDS)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"{code} ({signal.Signals(-code).name})"
    return str(code)
