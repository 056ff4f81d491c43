"""Processes that each train one fold at a time, and report their progress to the process that started them.

A worker ends as soon as the process that started it is gone, however that ended. Ctrl-C reaches that process alone, which then
ends its workers: what they have done is in their checkpoints.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import wait as wait_for
from typing import Any

from tsa.progress import Advance, Progress

logger = logging.getLogger(__name__)

LOST = 70
"""Exit code of a worker whose parent is gone."""
POLL_SECONDS = 0.2

_reports: Any = None
"""In a worker: the queue of reports to the parent."""


def in_processes(
    work: Callable[..., Any], items: list[tuple[Any, ...]], workers: int, progress: Progress
) -> Iterator[tuple[int, Any]]:
    """Call `work(*item, progress)` for each item in worker processes; yield the number of each with its result, as they end.

    Args:
        work: A function of a module.
        items: The arguments of each call.
        workers: Processes at a time.
        progress: Shows what the workers report.

    Raises:
        What `work` raises; the other workers are ended then.
    """
    context = multiprocessing.get_context("spawn")
    reports = context.SimpleQueue()
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(reports,))
    pending: dict[Future[Any], int] = {}
    try:
        with _shown(reports, progress):
            pending = {pool.submit(_call, work, at, item): at for at, item in enumerate(items)}
            while pending:
                done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    yield pending.pop(future), future.result()
    except BaseException:
        _end(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end(pool: ProcessPoolExecutor) -> None:
    """End the workers; a training saves a checkpoint at SIGTERM."""
    for process in list((pool._processes or {}).values()):
        process.terminate()


def _begin(reports: Any) -> None:
    """Prepare a worker."""
    global _reports
    _reports = reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("tsa").addHandler(_Reporting())
    logging.getLogger("tsa").setLevel(logging.INFO)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: Any) -> None:
    wait_for([sentinel])
    os._exit(LOST)


def _call(work: Callable[..., Any], at: int, item: tuple[Any, ...]) -> Any:
    return work(*item, _report_of(at))


class _Reporting(logging.Handler):
    """Sends log records of a worker to the parent, as text."""

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        _reports.put(("log", os.getpid(), record.name, record.levelno, record.getMessage()))


def _report_of(at: int) -> Progress:
    """Progress that is shown by the parent. at: the number of the call."""

    @contextmanager
    def reported(what: str, total: int) -> Iterator[Advance]:
        key = (at, what, threading.get_ident())
        _reports.put(("begin", key, what, total))
        yield lambda done: _reports.put(("advance", key, done))
        _reports.put(("end", key))

    return reported


@contextmanager
def _shown(reports: Any, progress: Progress) -> Iterator[None]:
    """Show the reports of workers until the block ends."""
    thread = threading.Thread(target=_show, args=(reports, progress), daemon=True)
    thread.start()
    try:
        yield
    finally:
        reports.put(None)
        thread.join(timeout=5.0)


def _show(reports: Any, progress: Progress) -> None:
    bars: dict[Any, tuple[ExitStack, Advance]] = {}
    while (report := reports.get()) is not None:
        kind, key, *rest = report
        if kind == "log":
            name, level, text = rest
            logging.getLogger(name).log(level, "%s", text)
        elif kind == "begin":
            stack = ExitStack()
            bars[key] = stack, stack.enter_context(progress(*rest))
        elif kind == "advance" and key in bars:
            bars[key][1](*rest)
        elif kind == "end" and key in bars:
            bars.pop(key)[0].close()
    for stack, _ in bars.values():
        stack.close()
