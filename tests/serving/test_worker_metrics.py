"""Figures of several workers: the sums, a worker that ended, one that is silent; and no files anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

import prometheus_client as client
import pytest

from support.endpoint import SHOP
from tsa.serving import worker_metrics
from tsa.serving.worker_metrics import Family, MetricsSum, Page, WorkerMember, WorkerMetrics, added, families_of


class Worker:
    """What a worker has: a registry, and its line to the parent."""

    def __init__(self, together: MetricsSum) -> None:
        self.registry = client.CollectorRegistry()
        self.payments = client.Counter("payments", "Payments", ["outcome"], registry=self.registry)
        self.waiting = client.Gauge("waiting", "Payments that wait", registry=self.registry)
        self.seconds = client.Histogram("seconds", "Time", buckets=(1.0, 2.0), registry=self.registry)
        self.member, self.orphaned = WorkerMember(), threading.Event()
        line = self.member.line
        # both ends are in this process here: the parent is to close its copies alone
        self.figures = WorkerMetrics(
            worker_metrics.WorkerPipes(duplicated(line.request_pipe), duplicated(line.report_pipe)), self.orphaned.set
        )
        together.join(self.member)
        self.figures.serve(self.registry.collect)

    def end(self, together: MetricsSum) -> None:
        together.leave(self.member)


def duplicated(connection: Any) -> Any:
    return type(connection)(os.dup(connection.fileno()))


def page(families: list[Family] | None) -> str:
    assert families is not None
    return str(client.generate_latest(Page(families, client.Metric)).decode())  # type: ignore[arg-type]


def test_sums_are_what_the_workers_counted() -> None:
    together = MetricsSum()
    one, other = Worker(together), Worker(together)
    one.payments.labels("scored").inc(2)
    other.payments.labels("scored").inc(3)
    other.payments.labels("refused").inc()
    one.waiting.set(4)
    other.waiting.set(1)
    one.seconds.observe(0.5)
    other.seconds.observe(1.5)
    for asking in (one, other):
        found = page(asking.figures.total())
        for line in (
            'payments_total{outcome="scored"} 5.0',
            'payments_total{outcome="refused"} 1.0',
            "waiting 5.0",
            'seconds_bucket{le="1.0"} 1.0',
            'seconds_bucket{le="+Inf"} 2.0',
            "seconds_sum 2.0",
            "# TYPE payments_total counter",
        ):
            assert line in found.splitlines(), line
        assert "_created" not in found


def test_what_a_worker_counted_outlives_it_and_how_it_stood_does_not() -> None:
    together = MetricsSum()
    one, other = Worker(together), Worker(together)
    one.payments.labels("scored").inc(2)
    one.waiting.set(4)
    together.gather()
    one.end(together)
    assert one.orphaned.wait(5), "it hears that its parent let go"
    other.payments.labels("scored").inc()
    other.waiting.set(1)
    found = page(other.figures.total())
    assert 'payments_total{outcome="scored"} 3.0' in found
    assert "\nwaiting 1.0" in found


def test_a_silent_worker_counts_with_what_it_told_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_metrics, "GATHER_SECONDS", 0.1)
    together, released = MetricsSum(), threading.Event()
    one, other = Worker(together), Worker(together)
    one.payments.labels("scored").inc(2)
    together.gather()

    def stuck() -> Any:
        released.wait(20)
        return []

    one.figures._collect = stuck
    begun = time.monotonic()
    for _ in range(3):
        assert 'payments_total{outcome="scored"} 2.0' in page(other.figures.total())
    assert time.monotonic() - begun < 3
    released.set()


def test_without_a_parent_there_is_no_sum_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_metrics, "ASK_SECONDS", 0.1)
    together = MetricsSum()
    one = Worker(together)
    with together._lock:  # it does not come to answer
        assert one.figures.total() is None
    time.sleep(0.2)
    one.payments.labels("scored").inc()
    monkeypatch.setattr(worker_metrics, "ASK_SECONDS", 5.0)
    assert 'outcome="scored"} 1.0' in page(one.figures.total()), (
        "the late answer to the first question is not taken for this one"
    )
    one.end(together)
    assert one.figures.total() is None


def test_sums_keep_order_and_add_by_labels() -> None:
    first = [
        Family("a", "A", "counter", [("a_total", (("x", "1"),), 1.0)]),
        Family("b", "B", "gauge", [("b", (), 1.0)]),
    ]
    second = [Family("a", "A", "counter", [("a_total", (("x", "1"),), 2.0), ("a_total", (("x", "2"),), 5.0)])]
    found = added([first, second])
    assert [family.name for family in found] == ["a", "b"]
    assert found[0].samples == [("a_total", (("x", "1"),), 3.0), ("a_total", (("x", "2"),), 5.0)]
    assert first[0].samples[0][2] == 1.0, "what was told is not changed"
    assert families_of([]) == []


def test_no_environment_puts_figures_into_mapped_files(tmp_path: Any) -> None:
    script = (
        "import json, sys\nfrom tsa.config.market import Market\nfrom tsa.serving.metrics import Metrics\n"
        "metrics = Metrics(Market.from_dict(json.loads(sys.argv[1])))\nmetrics.request('/ping', 200, 0.1)\n"
        'assert b\'tsa_request_seconds_count{route="/ping",status="200"} 1.0\' in metrics.text()[0]\n'
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script, json.dumps(SHOP)], env=environment, check=True)
    assert not list(tmp_path.iterdir())
