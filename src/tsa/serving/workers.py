"""Several worker processes on one socket: started, replaced when they die, and asked to end together."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import threading
import time
from multiprocessing.process import BaseProcess
from types import FrameType

from tsa.errors import ConfigError
from tsa.serving.metrics import forget_worker
from tsa.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
MOST_SECONDS = 30.0
"""How long workers may take to end, whatever their settings, which allow no more."""
SHORT_LIFE_SECONDS = 2.0
"""A worker that ends sooner is not replaced at once, so that a broken one does not keep a machine busy."""


def supervise(settings: ServeSettings) -> None:
    """Run the workers until a signal; returns when all have ended. Raises ConfigError where the address is taken."""
    listening = bind(settings)
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    workers = [_start(settings, listening) for _ in range(settings.workers)]
    begun = [time.monotonic()] * len(workers)
    try:
        while not ending.wait(LOOK_SECONDS):
            for at, worker in enumerate(workers):
                if not worker.is_alive() and time.monotonic() - begun[at] > SHORT_LIFE_SECONDS:
                    logger.error("worker %s ended with %s and is replaced", worker.pid, worker.exitcode)
                    forget_worker(worker.pid)
                    workers[at], begun[at] = _start(settings, listening), time.monotonic()
    finally:
        _end(workers, MOST_SECONDS)
        listening.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def bind(settings: ServeSettings) -> socket.socket:
    """The socket that workers listen on once they are ready; until then connections are refused, and do not hang. Raises
    ConfigError where the address is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((settings.host, settings.port))
    except OSError as error:
        found.close()
        raise ConfigError(f"port must be free on {settings.host}, however: {settings.port}: {error.strerror}") from None
    found.set_inheritable(True)
    return found


def _start(settings: ServeSettings, listening: socket.socket) -> BaseProcess:
    worker = multiprocessing.get_context("spawn").Process(target=_work, args=(settings, listening), name="tsa-worker")
    worker.start()
    return worker


def _work(settings: ServeSettings, listening: socket.socket) -> None:
    from tsa.serving.log import log_to_terminal
    from tsa.serving.server import Server

    log_to_terminal()
    Server(settings).run(sockets=[listening])


def _end(workers: list[BaseProcess], seconds: float) -> None:
    """Ask all workers to end, and end those that do not in time."""
    for worker in workers:
        worker.terminate()
    end = time.monotonic() + seconds
    for worker in workers:
        worker.join(max(0.0, end - time.monotonic()))
        if worker.is_alive():
            worker.kill()
            worker.join()
