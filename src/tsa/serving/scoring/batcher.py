"""Micro-batching: one worker thread scores the queued payments of many requests in batches.

By default a batch is whatever is queued when the worker is free; a single payment never waits for a batch to fill. The queue
is limited, expired items are dropped, and accepted items are finished when it is closed.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tsa.serving.errors import BatcherClosedError, DeadlineExceededError, QueueFullError

Item = TypeVar("Item")
Result = TypeVar("Result")

MIN_RETRY_SECONDS = 1
FOREVER = float("inf")
SMOOTHING = 0.1
"""Weight of the last batch in the moving average of the rate."""


@dataclass(eq=False, slots=True)
class QueuedItems(Generic[Item]):
    """The items of one request with the future for their results. Without items: a call between batches."""

    items: Sequence[Item]
    deadline: float
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    call: Callable[[], Any] | None = None
    size: int = 0
    """Number of items that it counts for in the queue."""
    arrived: float = field(default_factory=time.monotonic)
    begun: bool = False


class Batcher(Generic[Item, Result]):
    """A queue and a worker thread that calls `work`, which returns n results for n items."""

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_batch: int = 32,
        max_queue: int = 128,
        queue_seconds: float = FOREVER,
        wait_seconds: float = 0.0,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        """Args:
        work: scores a batch; called in the worker thread.
        queue_seconds: once a full batch is queued and its first item has waited this long, more items are refused, so that
            accepted items wait about as long on a slow machine as on a fast one.
        observe: called in the worker thread with the size and the seconds of each batch.
        """
        self._work, self._observe = work, observe
        self._max_batch, self._max_queue = max_batch, max_queue
        self._queue_seconds, self._wait = queue_seconds, wait_seconds
        self._jobs: deque[QueuedItems[Item]] = deque()
        self._waiting, self._closed = 0, False
        self._seconds_each = 0.001
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="tsa-model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return self._waiting

    def ensure_capacity(self) -> None:
        """Raise QueueFullError if not even one item would be accepted; called before a body is read."""
        with self._changed:
            if not self._has_capacity(1):
                raise self._full()

    def _has_capacity(self, size: int) -> bool:
        """Whether `size` more items may be queued; any number may if the queue is empty. The lock must be held."""
        if not self._waiting or not size:
            return True
        if self._waiting >= self._max_batch and time.monotonic() - self._jobs[0].arrived > self._queue_seconds:
            return False
        return self._waiting + size <= self._max_queue

    def _full(self) -> QueueFullError:
        return QueueFullError(max(MIN_RETRY_SECONDS, round(self._waiting * self._seconds_each)))

    async def submit(self, items: Sequence[Item], deadline: float = FOREVER) -> list[Result]:
        """Queue items and wait for their results.

        Args:
            deadline: on the clock of `time.monotonic`, by which the model must have started.

        Raises:
            QueueFullError: the queue is full.
            DeadlineExceededError: the deadline has passed.
            BatcherClosedError: the batcher is closed. Also raises what `work` raises.
        """
        if not items:
            return []
        results: list[Result] = await self._put(items, deadline)
        return results

    async def run_between_batches(self, call: Callable[[], Any]) -> Any:
        """Run `call` in the worker thread after the queued items. Raises what it raises, or BatcherClosedError."""
        return await self._put((), FOREVER, call)

    async def run_with_deadline(self, call: Callable[[], Any], deadline: float) -> Any:
        """Like `run_between_batches`, for requests of clients: counts as one item and has a deadline. Raises as `submit`."""
        return await self._put((), deadline, call, size=1)

    def _put(
        self, items: Sequence[Item], deadline: float, call: Callable[[], Any] | None = None, size: int = 0
    ) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        job = QueuedItems(items, deadline, loop.create_future(), loop, call, len(items) or size)
        with self._changed:
            if self._closed:
                raise BatcherClosedError
            if not self._has_capacity(job.size):
                raise self._full()
            self._jobs.append(job)
            self._waiting += job.size
            self._changed.notify()
        if deadline < FOREVER:
            timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._expire, job)
            job.future.add_done_callback(lambda _: timer.cancel())
        return job.future

    def _expire(self, job: QueuedItems[Item]) -> None:
        """Fail a job that has not started by its deadline. Runs in the event loop."""
        with self._changed:
            late = not job.begun and not job.future.done()
        if late:
            job.future.set_exception(DeadlineExceededError())

    def close(self, timeout: float | None = None) -> None:
        """Accept no more items, finish the queued ones, end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)

    def _run(self) -> None:
        while jobs := self._next():
            if jobs[0].call is not None:
                if jobs[0].begun:
                    _answer(jobs, [_call_or_error(jobs[0].call)])
            elif ready := [job for job in jobs if job.begun]:
                self._do(ready)

    def _next(self) -> list[QueuedItems[Item]]:
        """The jobs of the next batch, or one call; empty when closed and the queue is empty."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return []
                self._changed.wait()
            self._wait_for_more()
            batch = [self._jobs.popleft()]
            count = batch[0].size
            while batch[0].call is None and self._jobs and self._jobs[0].call is None:
                if count + self._jobs[0].size > self._max_batch:
                    break
                batch.append(self._jobs.popleft())
                count += batch[-1].size
            self._waiting -= count
            for job in batch:
                job.begun = job.deadline >= time.monotonic() and not job.future.done()
            return batch

    def _wait_for_more(self) -> None:
        """Wait until the batch is full or its first item has waited long enough. The lock must be held."""
        end = self._jobs[0].arrived + self._wait
        while self._waiting < self._max_batch and not self._closed and (left := end - time.monotonic()) > 0:
            self._changed.wait(left)

    def _do(self, jobs: list[QueuedItems[Item]]) -> None:
        items = jobs[0].items if len(jobs) == 1 else [item for job in jobs for item in job.items]
        begun = time.monotonic()
        outcome = _call_or_error(lambda: self._work(items))
        seconds = time.monotonic() - begun
        self._seconds_each += SMOOTHING * (seconds / len(items) - self._seconds_each)
        if self._observe:
            self._observe(len(items), seconds)
        if isinstance(outcome, BaseException):
            _answer(jobs, [outcome] * len(jobs))
            return
        results, first = [], 0
        for job in jobs:
            results.append(list(outcome[first : first + len(job.items)]))
            first += len(job.items)
        _answer(jobs, results)


def _call_or_error(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or the exception that it raised."""
    try:
        return call()
    except Exception as error:
        return error


def _answer(jobs: Sequence[QueuedItems[Any]], results: Sequence[Any]) -> None:
    """Deliver results, with one wake-up per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for job, result in zip(jobs, results, strict=True):
        by_loop.setdefault(job.loop, []).append((job.future, result))
    for loop, pairs in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_set_results, pairs)


def _set_results(pairs: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in pairs:
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
