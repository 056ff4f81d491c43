"""What Prometheus is told: how long requests take, what is scored, what is refused and why. Never a payment's value.

With several workers the figures of all are added up (figures.py). They are in memory alone.
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
from tsa.data.online.payments import RuleViolationError
from tsa.data.spelling import Spelling
from tsa.data.values import normalise_text
from tsa.optional import imported
from tsa.serving.history.base import REASONS
from tsa.serving.problems import RULES
from tsa.serving.worker_metrics import START, WORKERS_ENDED, Family, Page

logger = logging.getLogger(__name__)

LATENCIES = (0.001, 0.002, 0.003, 0.004, 0.006, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SCORES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
DIFFERENCES = (1e-6, 1e-4, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
FILES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
"""With one of these prometheus_client would keep figures in mapped files, which end the process once their disk is full."""
OTHER = "other"


def library() -> Any:
    """prometheus_client, with figures in memory. Raises ConfigError where it is not installed."""
    if "prometheus_client" not in sys.modules:
        for name in FILES:
            os.environ.pop(name, None)
    return imported("tsa serve", "prometheus_client", "serve")


class Metrics:
    """The figures of one server, in a registry of its own."""

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
            "tsa_history_failures_total", "Calls of the history store that came to nothing, by reason", ["reason"]
        )
        self.history_open = client.Gauge(
            "tsa_history_circuit_open",
            "Workers that do not ask the history store until it answers again",
            registry=self.registry,
        )
        self.payments = counter("tsa_payments_total", "Payments by what became of them", ["outcome"])
        self.refusals = counter("tsa_refusals_total", "Refused payments and requests by rule", ["rule"])
        self.missing = counter("tsa_missing_values_total", "Scored payments without a value", ["feature"])
        self.unknown = counter("tsa_unknown_values_total", "Scored payments with a value new to the model", ["feature"])
        self.shadow = histogram("tsa_shadow_difference", "Raw score of the shadow less ours, absolute", DIFFERENCES)
        self.shadow_lost = counter("tsa_shadow_lost_total", "Payments that the shadow did not score")
        self.reloads = counter("tsa_reloads_total", "Bundles taken over, or not", ["outcome"])
        self.queue = client.Gauge("tsa_queue_payments", "Payments that wait", registry=self.registry)
        client.Gauge(START[0], START[1], registry=self.registry).set(time.time())
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
        """With several workers: the sum of all their figures, None where there is no answer in time."""

    def request(self, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        key = (route, status)
        found = self._latencies.get(key)
        if found is None:
            found = self._latencies[key] = self.latency.labels(route, str(status))
        found.observe(seconds)

    def refused(self, rule: str) -> None:
        """A payment or a request broke a rule. A name that is none of the program's own is not told."""
        self.refusals.labels(rule if rule in RULES else OTHER).inc()

    def batch(self, size: int, seconds: float) -> None:
        """The model worked on a batch."""
        self.batches.observe(size)
        self.batch_seconds.observe(seconds)

    def history_call(self, seconds: float) -> None:
        """The history store was called."""
        self.history_seconds.observe(seconds)

    def history_failed(self, reason: str) -> None:
        """A call of the history store came to nothing."""
        self.history_failures.labels(reason).inc()

    def history_circuit(self, is_open: bool) -> None:
        """The history store is not asked any more, or is asked again."""
        self.history_open.set(int(is_open))

    def values(self, missing: Mapping[str, int], unknown: Mapping[str, int]) -> None:
        """So many payments had no value of a feature, or one that the model does not know."""
        for name, count in missing.items():
            self.missing.labels(name).inc(count)
        for name, count in unknown.items():
            self.unknown.labels(name).inc(count)

    def text(self) -> tuple[bytes, str]:
        """The page for Prometheus, and its content type. It may wait for other workers: not for the event loop's thread."""
        registry: Any = self.registry
        if self.total is not None:
            if (families := self.total()) is None:
                logger.warning("the figures of the other workers did not come in time: /metrics has those of one alone")
            else:
                registry = Page(families, self._client.Metric)
        return self._client.generate_latest(registry), self._client.CONTENT_TYPE_LATEST


class MissingUnknownCounter:
    """Counts over rows as clients sent them. Values that the market veils are not looked at."""

    def __init__(self, encoder: Encoder, market: Market) -> None:
        self._names = market.features.names
        veiled = set() if market.privacy is None else set(market.privacy.pseudonymise)
        wire = market.inline_history
        self._spelling = Spelling.of(market)
        self._missing = frozenset() if wire is None else frozenset(wire.missing)
        self._known = {
            vocabulary.name: frozenset(
                vocabulary.row_of if isinstance(vocabulary, ImportedVocabulary) else vocabulary.values
            )
            for vocabulary in encoder.categorical_vocabularies
            if vocabulary.name not in veiled and (wire is None or vocabulary.name not in wire.numeric_categorical)
        }

    def count(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
        """By feature: rows without a value, and rows with an unknown one. Features without any are absent."""
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
