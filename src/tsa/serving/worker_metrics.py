"""Metrics summed over several workers: each worker sends its metrics to the parent over a pipe and requests the sum.

Waits are limited to a few seconds: a worker that does not answer counts with its last values. Counts of workers that
ended remain in the sum.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

logger = logging.getLogger(__name__)

GATHER_SECONDS = 1.5
"""How long the parent waits for the metrics of the workers."""
ASK_SECONDS = 4.0
"""How long a worker waits for the sum."""
READY = "ready"
START = ("tsa_start_time_seconds", "When the server was started, in epoch seconds")
WORKERS_ENDED = ("tsa_workers_ended_total", "Workers that ended unasked, and were replaced")
WORKERS_READY = ("tsa_workers_ready", "Workers that serve")
OF_THE_SERVER = (START[0], WORKERS_READY[0], WORKERS_ENDED[0].removesuffix("_total"))
"""Metrics that the parent reports for all workers."""

Sample = tuple[str, tuple[tuple[str, str], ...], float]
"""Name, labels, value."""


@dataclass
class Family:
    """A metric with its samples, as plain values."""

    name: str
    text: str
    kind: str
    samples: list[Sample] = field(default_factory=list)


def families_of(collected: Iterable[Any]) -> list[Family]:
    """Convert prometheus_client metrics to plain values, without their creation times, which cannot be summed."""
    families = []
    for metric in collected:
        if metric.name in OF_THE_SERVER:
            continue
        samples = [
            (sample.name, tuple(sorted(sample.labels.items())), float(sample.value))
            for sample in metric.samples
            if metric.type == "gauge" or not sample.name.endswith("_created")
        ]
        families.append(Family(metric.name, metric.documentation, metric.type, samples))
    return families


def added(reports: Iterable[Sequence[Family]]) -> list[Family]:
    """Sum the samples by metric, name and labels, in order of first appearance."""
    sums: dict[str, tuple[Family, dict[tuple[str, Any], float]]] = {}
    for families in reports:
        for family in families:
            _, values = sums.setdefault(family.name, (family, {}))
            for name, labels, value in family.samples:
                values[name, labels] = values.get((name, labels), 0.0) + value
    return [
        Family(family.name, family.text, family.kind, [(*key, value) for key, value in values.items()])
        for family, values in sums.values()
    ]


def counts_of(families: Iterable[Family]) -> list[Family]:
    """The metrics of an ended worker without its gauges, which no longer hold."""
    return [family for family in families if family.kind != "gauge"]


@dataclass
class WorkerPipes:
    """A worker's pipe ends, passed to it at its start: requests for sums, and its reports."""

    request_pipe: Connection
    report_pipe: Connection


class WorkerMetrics:
    """Worker side: sends its metrics on request, and requests the sum of all workers."""

    def __init__(self, line: WorkerPipes, orphaned: Callable[[], object]) -> None:
        """Args:
        orphaned: called from a thread once the parent process is gone.
        """
        self._line, self._orphaned = line, orphaned
        self._collect: Callable[[], Iterable[Any]] = tuple
        self._lock, self._number, self._beats = threading.Lock(), 0, 0
        threading.Thread(target=self._listen, name="tsa-metrics", daemon=True).start()

    def serve(self, collect: Callable[[], Iterable[Any]]) -> None:
        """Report the prometheus_client metrics that `collect` returns, and that this worker is ready."""
        self._collect = collect
        with self._lock:
            self._line.request_pipe.send(READY)

    def beat(self) -> None:
        """Note that the event loop runs; called from it again and again."""
        self._beats += 1

    def total(self) -> list[Family] | None:
        """The sum over all workers; None if the parent does not answer in time."""
        if not self._lock.acquire(timeout=ASK_SECONDS):
            return None
        try:
            self._number += 1
            self._line.request_pipe.send(self._number)
            end = time.monotonic() + ASK_SECONDS
            while self._line.request_pipe.poll(max(0.0, end - time.monotonic())):
                number, families = self._line.request_pipe.recv()
                if number == self._number:  # else a late answer to an earlier request
                    return list(families)
        except (OSError, EOFError):
            pass
        finally:
            self._lock.release()
        return None

    def _listen(self) -> None:
        try:
            while True:
                number = self._line.report_pipe.recv()
                self._line.report_pipe.send((number, self._beats, families_of(self._collect())))
        except (OSError, EOFError):
            self._orphaned()


class WorkerMember:
    """Parent side of one worker: its last metrics and whether it is ready."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.asked, ask = context.Pipe()
        self.reports, report_pipe = context.Pipe()
        self.line = WorkerPipes(ask, report_pipe)
        self.last: list[Family] = []
        self.ready_at: float | None = None
        self.waiting: int | None = None
        """Number of the unanswered request; no second one is sent before its answer."""
        self.rounds_without_answer = 0
        """How often in a row the parent has waited without an answer."""
        self.beats = 0
        """How often its event loop had run when it last answered."""

    def started(self) -> None:
        """Close the worker's ends in this process; while they are open, the end of the worker cannot be noticed."""
        self.line.request_pipe.close()
        self.line.report_pipe.close()

    def close(self) -> None:
        """Close the pipes."""
        self.asked.close()
        self.reports.close()


class MetricsSum:
    """Parent side of all workers, with the sum of their metrics."""

    def __init__(self) -> None:
        self._members: list[WorkerMember] = []
        self._past: list[Family] = []
        self._started, self._ended = time.time(), 0
        self._lock, self._number = threading.Lock(), 0

    def join(self, member: WorkerMember) -> None:
        """Add a worker that was started."""
        member.started()
        with self._lock:
            self._members.append(member)
        threading.Thread(target=self._answer, args=(member,), name="tsa-metrics", daemon=True).start()

    def leave(self, member: WorkerMember) -> None:
        """Remove a worker that ended unexpectedly; its counts remain in the sum."""
        with self._lock:
            if member in self._members:
                self._ended += 1
                self._members.remove(member)
                self._past = added([self._past, counts_of(member.last)])
        member.close()

    def gather(self) -> list[Family]:
        """Request the metrics of every worker; return the sum of their latest values."""
        with self._lock:
            self._number += 1
            self._ask()
            return [*added([self._past, *(member.last for member in self._members)]), *self._own()]

    def _own(self) -> list[Family]:
        """The metrics of the parent."""
        (start, text), (ended, text_ended), (ready, text_ready) = START, WORKERS_ENDED, WORKERS_READY
        count = sum(member.ready_at is not None for member in self._members)
        return [
            Family(start, text, "gauge", [(start, (), self._started)]),
            Family(ready, text_ready, "gauge", [(ready, (), float(count))]),
            Family(ended.removesuffix("_total"), text_ended, "counter", [(ended, (), float(self._ended))]),
        ]

    def _ask(self) -> None:
        waited = {}
        for member in self._members:
            try:
                if member.waiting is None:
                    member.reports.send(self._number)
                    member.waiting = self._number
                waited[member.reports] = member
            except OSError:  # it has just ended
                continue
        end = time.monotonic() + GATHER_SECONDS
        while waited and (ready := wait(list(waited), max(0.0, end - time.monotonic()))):
            for pipe in ready:
                assert isinstance(pipe, Connection)
                member = waited.pop(pipe)
                try:
                    _, member.beats, member.last = pipe.recv()
                    member.waiting, member.rounds_without_answer = None, 0
                except (OSError, EOFError):
                    continue
        for member in waited.values():
            member.rounds_without_answer += 1

    def _answer(self, member: WorkerMember) -> None:
        """Answer one worker, in a separate thread, so that a worker that does not read its answer delays no other."""
        try:
            while True:
                asked = member.asked.recv()
                if asked == READY:
                    member.ready_at = time.monotonic()
                else:
                    member.asked.send((asked, self.gather()))
        except (OSError, EOFError, ValueError, TypeError):  # TypeError: closed here during a read
            return


class Page:
    """A registry of summed metrics that prometheus_client can render."""

    def __init__(self, families: Sequence[Family], metric: Callable[..., Any]) -> None:
        self._families, self._metric = families, metric

    def collect(self) -> Iterator[Any]:
        """The metrics."""
        for family in self._families:
            metric = self._metric(family.name, family.text, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric
