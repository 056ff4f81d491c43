"""Open what the settings of a server name: bundles, the history store, the analysts' queue, registries to follow."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from tsa.config.market import Market, Serving
from tsa.errors import ConfigError
from tsa.inference.engine import EngineName, Precision
from tsa.inference.scorer import Scorer
from tsa.registry import AliasFollower
from tsa.serving.analyst_queue.case_writer import ReviewQueue
from tsa.serving.history.base import HistoryStore
from tsa.serving.history.factory import open_history
from tsa.serving.history.monitored import MonitoredStore
from tsa.serving.metrics import Metrics
from tsa.serving.settings import ServeSettings


def load_scorer(settings: ServeSettings, path: Path | None = None) -> Scorer:
    """Load the bundle at a path, by default the served one. A link is resolved once, so that all files are from one bundle."""
    return Scorer.load(
        (path or settings.bundle).resolve(),
        settings.overrides,
        key=settings.read_key(),
        engine=cast(EngineName, settings.engine),
        precision=cast(Precision, settings.precision),
        threads=settings.threads,
    )


def open_store(settings: ServeSettings, market: Market, metrics: Metrics) -> HistoryStore | None:
    """Open the history store; None where rows carry their own history. Raises ConfigError if --history is missing."""
    if market.wire is not None:
        return None
    if settings.history is None:
        raise ConfigError(f"--history is required for market {market.name!r} (for example sqlite:///histories.db)")
    store = open_history(
        settings.history,
        (market.serving or Serving()).history_timeout_seconds,
        new="make" if settings.new_store else "refuse",
        seen=settings.history_seen,
        allow_eviction=settings.allow_eviction,
    )
    return MonitoredStore(store, metrics)


def open_review(settings: ServeSettings, scorer: Scorer, metrics: Metrics) -> ReviewQueue:
    """Open the analysts' queue. Raises ConfigError for a market without stored histories."""
    folder = settings.decision_folder
    assert folder is not None
    if scorer.bundle.market.wire is not None:
        raise ConfigError("--queue needs a market with stored histories (got rows that carry their own history)")
    settings.read_webhook_secret()
    return ReviewQueue(folder, settings.queue_over, scorer, metrics.cases_lost.inc)


def sources_of(settings: ServeSettings) -> list[AliasFollower]:
    """The registries that a server follows; its settings name the links to the local copies."""
    names = {name: getattr(settings, name) for name in ("bundle_from", "shadow_from")}
    cache = settings.bundle_cache.expanduser()
    return [AliasFollower(value, cache, name) for name, value in names.items() if value is not None]
