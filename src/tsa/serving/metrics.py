"""Prometheus metrics: latencies, scores, and refusals by rule. Never a value of a payment.

In memory only; with several workers they are summed (`tsa.serving.worker_metrics`).
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.vocabulary import ImportedVocabulary
from tsa.data.spelling import Spelling
from tsa.data.values import RuleViolationError, normalise_text
from tsa.optional_libraries import imported
from tsa.serving.history.base import REASONS
from tsa.serving.problems import RULES
from tsa.serving.worker_metrics import START, WORKERS_ENDED, WORKERS_READY, Family, Page

logger = logging.getLogger(__name__)

LATENCIES = (0.001, 0.002, 0.003, 0.004, 0.006, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SCORES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
DIFFERENCES = (1e-6, 1e-4, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
FILES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
"""With one of these variables prometheus_client uses mapped files, which crash the process when the disk is full."""
OTHER = "other"


def library() -> Any:
    """Import prometheus_client, with metrics in memory. Raises ConfigError if it is not installed."""
    if "prometheus_client" not in sys.modules:
        for name in FILES:
            os.environ.pop(name, None)
    return imported("tsa serve", "prometheus_client", "serve")


class Metrics:
    """The metrics of one server, in a separate registry."""

    def __init__(self, market: Market) -> None:
        client = library()
        self.registry = client.CollectorRegistry()

        def histogram(name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Any:
            return client.Histogram(name, text, labels, buckets=buckets, registry=self.registry)

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Any:
            return client.Counter(name, text, labels, registry=self.registry)

        self.latency = histogram("tsa_request_seconds", "From request to answer", LATENCIES, ["route", "status"])
        self.scores = histogram("tsa_raw_score", "Raw scores", SCORES)
        self.batches = histogram("tsa_batch_payments", "Payments in a batch", BATCHES)
        self.batch_seconds = histogram("tsa_batch_seconds", "Time of a batch", LATENCIES)
        self.history_seconds = histogram("tsa_history_seconds", "Time of one call of the history store", LATENCIES)
        self.history_failures = counter(
            "tsa_history_failures_total", "Failed calls of the history store, by reason", ["reason"]
        )
        self.history_open = client.Gauge(
            "tsa_history_circuit_open",
            "Workers that do not call the history store until it answers again",
            registry=self.registry,
        )
        self.payments = counter("tsa_payments_total", "Payments by outcome of the request", ["outcome"])
        self.refusals = counter("tsa_refusals_total", "Refused payments and requests by rule", ["rule"])
        self.missing = counter("tsa_missing_values_total", "Scored payments without a value", ["feature"])
        self.unknown = counter("tsa_unknown_values_total", "Scored payments with a value new to the model", ["feature"])
        self.shadow = histogram(
            "tsa_shadow_difference", "Absolute difference of the raw scores of shadow and bundle", DIFFERENCES
        )
        self.shadow_lost = counter("tsa_shadow_lost_total", "Payments that the shadow did not score")
        self.shadow_reloads = counter("tsa_shadow_reloads_total", "Bundles that became the shadow, or not", ["outcome"])
        self.arms = counter("tsa_arm_payments_total", "Scored payments by the bundle that answered", ["arm"])
        self.challenger_fallbacks = counter(
            "tsa_challenger_fallbacks_total", "Payments of the challenger that the champion answered", ["reason"]
        )
        self.decisions_logged = counter("tsa_decisions_logged_total", "Entries written to the log of decisions")
        self.decisions_lost = counter("tsa_decisions_lost_total", "Entries that could not be written to it")
        self.cases_lost = counter("tsa_queue_cases_lost_total", "Cases that could not be added to the analysts' queue")
        self.reloads = counter("tsa_reloads_total", "Bundles taken over, or not", ["outcome"])
        self.registry_failures = counter(
            "tsa_registry_failures_total", "Failed reads of the registries that are followed"
        )
        self.queue = client.Gauge("tsa_queue_payments", "Payments that wait", registry=self.registry)
        client.Gauge(START[0], START[1], registry=self.registry).set(time.time())
        client.Gauge(WORKERS_READY[0], WORKERS_READY[1], registry=self.registry).set(1)
        counter(*WORKERS_ENDED)
        for reason in REASONS:
            self.history_failures.labels(reason)
        for name in market.features.names:
            self.missing.labels(name)
        for feature in market.features.categorical:
            self.unknown.labels(feature.name)
        self._latencies: dict[tuple[str, int], Any] = {}
        self._client = client
        self.total: Callable[[], list[Family] | None] | None = None
        """With several workers: returns the sum of their metrics; None if there is no answer in time."""

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        key = (route, status)
        latency = self._latencies.get(key)
        if latency is None:
            latency = self._latencies[key] = self.latency.labels(route, str(status))
        latency.observe(seconds)

    def refused(self, rule: str) -> None:
        """Count a refused payment or request. Only the program's own rule names are used as labels."""
        self.refusals.labels(rule if rule in RULES else OTHER).inc()

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self.batches.observe(size)
        self.batch_seconds.observe(seconds)

    def history_call(self, seconds: float) -> None:
        """Count a call of the history store."""
        self.history_seconds.observe(seconds)

    def history_failed(self, reason: str) -> None:
        """Count a failed call of the history store."""
        self.history_failures.labels(reason).inc()

    def history_circuit(self, is_open: bool) -> None:
        """Record that the circuit to the history store was opened or closed."""
        self.history_open.set(int(is_open))

    def values(self, missing: Mapping[str, int], unknown: Mapping[str, int]) -> None:
        """Add counts of missing and of unknown values by feature."""
        for name, count in missing.items():
            self.missing.labels(name).inc(count)
        for name, count in unknown.items():
            self.unknown.labels(name).inc(count)

    def text(self) -> tuple[bytes, str]:
        """The page for Prometheus, and its content type. Not for the event loop: it may wait for other workers."""
        registry: Any = self.registry
        if self.total is not None:
            if (families := self.total()) is None:
                logger.warning("the other workers did not send their metrics in time: /metrics shows one worker only")
            else:
                registry = Page(families, self._client.Metric)
        return self._client.generate_latest(registry), self._client.CONTENT_TYPE_LATEST


class MissingUnknownCounter:
    """Counts missing and unknown values in rows as sent. Pseudonymized columns and derived features are not read."""

    def __init__(self, encoder: Encoder, market: Market) -> None:
        self._names = tuple(name for name in market.features.names if name not in market.derived_names)
        pseudonymized = set() if market.privacy is None else set(market.privacy.pseudonymise)
        wire = market.wire
        self._spelling = Spelling.of(market)
        self._missing = frozenset() if wire is None else frozenset(wire.missing)
        self._known = {
            vocabulary.name: frozenset(
                vocabulary.row_of if isinstance(vocabulary, ImportedVocabulary) else vocabulary.values
            )
            for vocabulary in encoder.categorical_vocabularies
            if vocabulary.name not in pseudonymized
            and (wire is None or vocabulary.name not in wire.numeric_categorical)
        }

    def count(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
        """Rows without a value, and rows with an unknown value, by feature. Features without any are absent."""
        missing: dict[str, int] = {}
        unknown: dict[str, int] = {}
        for row in rows:
            for name in self._names:
                value = row.get(name)
                if value is None or (type(value) is str and self._is_missing(value)):
                    missing[name] = missing.get(name, 0) + 1
                elif name in self._known and not self._is_known(name, value):
                    unknown[name] = unknown.get(name, 0) + 1
        return missing, unknown

    def _is_missing(self, text: str) -> bool:
        return text in self._missing or self._spelling.of_text(text) is None

    def _is_known(self, name: str, value: Any) -> bool:
        try:
            return normalise_text(value, name, self._spelling) in self._known[name]
        except RuleViolationError:
            return False
