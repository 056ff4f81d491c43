"""What the routes share: the desk behind its batcher, the contract, the figures, and the change of bundles.

One thread works on the desk: batches of payments, and between them outcomes and new bundles. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from tsa.calibration.calibration import Calibration
from tsa.config.market import Market, Serving
from tsa.data.online.payments import Problem
from tsa.data.spelling import Spelling
from tsa.data.values import text_of
from tsa.errors import ConfigError, TSAError
from tsa.inference.engine import EngineName, Precision
from tsa.inference.scorer import Scorer
from tsa.serving.auth import Buckets, Secrets
from tsa.serving.errors import too_often, where
from tsa.serving.history.base import HistoryStore
from tsa.serving.history.factory import open_history
from tsa.serving.history.monitored import WatchedStore
from tsa.serving.metrics import Metrics, ValueCounts
from tsa.serving.problems import RefusedError
from tsa.serving.request_schema import Contract, Entry
from tsa.serving.results import Answer
from tsa.serving.scoring.batcher import Batcher
from tsa.serving.scoring.bundle_watch import Mark, mark_of, version_of
from tsa.serving.scoring.explain_worker import Reasoner
from tsa.serving.scoring.isolation import score_apart
from tsa.serving.scoring.scoring_service import Desk
from tsa.serving.scoring.shadow import Shadow
from tsa.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

Result = Answer | Problem
LEAST_CLOSING_SECONDS = 0.2


class Service:
    """Everything of a running server but its routes. Make one per process, and `close` it."""

    def __init__(self, settings: ServeSettings) -> None:
        """Opens the bundle, the history store and the shadow. Raises what these raise, and ConfigError for settings that
        do not fit the bundle."""
        self.settings, self.secrets = settings, Secrets(settings)
        self.mark: Mark = mark_of(settings.bundle)
        scorer = self._load()
        self.metrics = Metrics(scorer.bundle.market)
        self.buckets = Buckets(settings.rate, settings.burst)
        self.store = self._open_history(scorer.bundle.market)
        self.desk = Desk(scorer, self.store, version=version_of(scorer), may_wait=settings.history_seen is not None)
        self.reasoner = Reasoner(self.store)
        self.shadow = None if settings.shadow is None else Shadow(settings, self.store, self.metrics)
        self.draining = False
        self.ends_at: float | None = None
        """Once it is to end: when, of `time.monotonic`, at the latest."""
        self._take_over(scorer)
        self.batcher: Batcher[Entry, Result] = Batcher(
            self._work,
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
            queue_seconds=settings.queue_ms / 1000,
            wait_seconds=settings.wait_ms / 1000,
            observe=self._observe,
        )

    def _load(self) -> Scorer:
        """The bundle at the path, as it is at one moment: a link is followed once."""
        settings = self.settings
        return Scorer.load(
            settings.bundle.resolve(),
            settings.overrides,
            key=settings.read_key(),
            engine=cast(EngineName, settings.engine),
            precision=cast(Precision, settings.precision),
            threads=settings.threads,
        )

    def _open_history(self, market: Market) -> HistoryStore | None:
        if market.wire is not None:
            return None
        if self.settings.history is None:
            raise ConfigError(f"market {market.name} needs --history, such as sqlite:///histories.db: there is none")
        seconds = (market.serving or Serving()).history_timeout_seconds
        store = open_history(
            self.settings.history,
            seconds,
            new="make" if self.settings.new_store else "refuse",
            seen=self.settings.history_seen,
            allow_eviction=self.settings.allow_eviction,
        )
        return WatchedStore(store, self.metrics)

    def _take_over(self, scorer: Scorer) -> None:
        """What depends on the bundle."""
        bundle = scorer.bundle
        self.scorer, self.version, self.market = scorer, version_of(scorer), bundle.market
        self.serving = bundle.market.serving or Serving()
        self.calibration = bundle.calibration or Calibration()
        self.imported = "imported" in bundle.training
        self.reasoner.take_over(scorer, self.version)
        self.contract = Contract(self.market, self.settings)
        self.values = ValueCounts(scorer.bundle.encoder, self.market)

    async def score(self, entries: Sequence[Entry | Problem], *, client: str, deadline: float) -> list[Result]:
        """An answer or a problem for each entry. RefusedError and the batcher's errors where the request gets none."""
        if len(entries) > 1 and (wait := self.buckets.take(client, len(entries) - 1)) is not None:
            raise too_often(wait)
        sound = [entry for entry in entries if isinstance(entry, Entry)]
        answered = iter(await self.batcher.submit(sound, deadline))
        results = [next(answered) if isinstance(entry, Entry) else entry for entry in entries]
        for result in results:
            if isinstance(result, Problem):
                self.metrics.refused(result.rule)
        return results

    def _observe(self, size: int, seconds: float) -> None:
        self.metrics.batch(size, seconds)
        self.metrics.queue.set(self.batcher.waiting)  # each worker tells its own, whichever is asked for the sum

    def _work(self, entries: Sequence[Entry]) -> list[Result]:
        """In the model thread."""
        results = score_apart(self.desk, entries)
        self._count(entries, results)
        return results

    def _count(self, entries: Sequence[Entry], results: Sequence[Result]) -> None:
        metrics, rows = self.metrics, []
        for entry, result in zip(entries, results, strict=True):
            if isinstance(result, Problem):
                metrics.payments.labels("refused").inc()
                continue
            metrics.payments.labels(
                "repeated" if result.repeated else "degraded" if result.degraded else "scored"
            ).inc()
            if not result.repeated:
                metrics.scores.observe(result.raw_score)
                rows.append(entry.row)
        if rows:
            metrics.values(*self.values.count(rows))
        if self.shadow is not None:
            self.shadow.offer(entries, results)

    async def outcome(self, id_: Any, fraud: bool, at_seconds: float, *, deadline: float) -> bool:
        """Whether there is such a payment; its outcome is then known. The batcher's errors where there is no time for it."""
        text = text_of(id_, "id", Spelling.of(self.market)) or ""
        call = partial(self.desk.outcome, text, fraud, at_seconds)
        found: bool = await self.batcher.aside(call, deadline)
        return found

    async def reload(self) -> str:
        """Take the bundle over that now stands at the path, without a pause; its version.

        Opening takes its time in a thread of its own; the change is made between two batches. RefusedError with 409 where
        there is no sound bundle, or one that does not fit: the old one goes on.
        """
        loop, mark = asyncio.get_running_loop(), mark_of(self.settings.bundle)
        try:
            scorer = await loop.run_in_executor(None, self._load)
            self._check_market(scorer.bundle.market)
            await self.batcher.between(lambda: self._swap(scorer))
        except Exception as error:  # whatever is wrong with a bundle, the one before it goes on
            self.metrics.reloads.labels("refused").inc()
            logger.error("the bundle was not taken over: %s", error if isinstance(error, TSAError) else where(error))
            raise RefusedError(
                409, "bundle", "the bundle cannot be taken over; the log of the server says why"
            ) from None
        finally:
            self.mark = mark
        self.metrics.reloads.labels("taken").inc()
        logger.info("bundle %s taken over", self.version)
        return self.version

    def _check_market(self, market: Market) -> None:
        if market.name != self.market.name or (market.wire is None) != (self.market.wire is None):
            raise ConfigError(f"the new bundle must be of market {self.market.name}, however: {market.name}")

    def _swap(self, scorer: Scorer) -> None:
        """All of it, or nothing."""
        before = self.scorer
        try:
            self._take_over(scorer)
            self.desk.swap(scorer, self.version)
        except Exception:
            self._take_over(before)
            raise

    def close(self) -> None:
        """Finish what was accepted, until `ends_at` or for `stop_seconds`, and let go of everything."""
        end = time.monotonic() + self.settings.stop_seconds if self.ends_at is None else self.ends_at
        for closing in (self.batcher, self.reasoner, self.shadow):
            if closing is not None:
                closing.close(max(LEAST_CLOSING_SECONDS, end - time.monotonic()))
        if self.store is not None:
            self.store.close()
