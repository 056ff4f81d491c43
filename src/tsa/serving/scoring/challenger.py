"""A challenger: a second bundle that answers a share of the payments, from the same histories.

Where it fails, refuses or is slow, the champion answers. Both write to the history store, in which the first answer to a
payment counts, so that a payment has one answer even if both have scored it.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from tsa.data.values import RuleViolation
from tsa.inference.scorer import Scorer
from tsa.serving.errors import safe_traceback
from tsa.serving.history.base import HistoryStore
from tsa.serving.metrics import Metrics
from tsa.serving.request_limits import PaymentRequest
from tsa.serving.results import CHALLENGER, ScoreResult
from tsa.serving.scoring.bundle_watch import version_of
from tsa.serving.scoring.explain_worker import ExplanationWorker
from tsa.serving.scoring.isolation import score_isolating_failures
from tsa.serving.scoring.scoring_service import ScoringService
from tsa.serving.scoring.traffic_split import ArmSplit
from tsa.serving.settings import ServeSettings

Result = ScoreResult | RuleViolation
Results = list[Result]
Score = Callable[[Sequence[PaymentRequest]], Results]

FALLBACKS = ("failed", "refused", "slow")
"""Why the champion answered a payment of the challenger."""
LOG_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Challenger:
    """The second bundle of a server."""

    def __init__(self, scorer: Scorer, store: HistoryStore | None, settings: ServeSettings, metrics: Metrics) -> None:
        """Bind it to the history store.

        Raises:
            HistoryError: The store does not fit the bundle.
            ConfigError: The market has no history `settings.split_by`.
        """
        self.version, self.scorer, market = version_of(scorer), scorer, scorer.bundle.market
        self.split = ArmSplit(market, settings.challenger_share, settings.split_by)
        self._service = ScoringService(
            scorer,
            store,
            version=self.version,
            may_wait=settings.history_seen is not None,
            with_details=settings.decision_log is not None,
            arm=CHALLENGER,
        )
        self.reasoner = ExplanationWorker(store)
        self.reasoner.set_bundle(scorer, self.version)
        self._metrics, self._timeout = metrics, settings.challenger_timeout_ms / 1000
        self._pool = ThreadPoolExecutor(1, "tsa-challenger")
        self._running: Future[Results] | None = None
        self._logged = -LOG_SECONDS

    def score(self, entries: Sequence[PaymentRequest], champion: Score) -> Results:
        """Score the payments of a batch, in their order, each by its arm.

        Args:
            champion: Scores payments with the other bundle.
        """
        arms = (self.split.arm(entry.row) for entry in entries)
        results: Results = []
        for arm, group in itertools.groupby(zip(arms, entries, strict=True), key=lambda pair: pair[0]):
            own = [entry for _, entry in group]
            results += self._or_champion(own, champion) if arm == CHALLENGER else champion(own)
        return results

    def _or_champion(self, entries: Sequence[PaymentRequest], champion: Score) -> Results:
        results, reason = self._try(entries)
        if results is None:
            self._count(reason, len(entries))
            return champion(entries)
        refused = [at for at, result in enumerate(results) if isinstance(result, RuleViolation)]
        if refused:
            again = champion([entries[at] for at in refused])
            accepted = sum(isinstance(result, ScoreResult) for result in again)
            if accepted:
                self._count("refused", accepted)
            for at, result in zip(refused, again, strict=True):
                results[at] = result
        return results

    def _try(self, entries: Sequence[PaymentRequest]) -> tuple[Results | None, str]:
        """The challenger's results; None, and why, if there are none in time."""
        if self._running is not None and not self._running.done():
            return None, "slow"
        self._running = self._pool.submit(score_isolating_failures, self._service, entries)
        try:
            return list(self._running.result(self._timeout)), ""
        except TimeoutError:
            return None, "slow"
        except Exception as error:
            self._log(error)
            return None, "failed"

    def _count(self, reason: str, count: int) -> None:
        self._metrics.challenger_fallbacks.labels(reason).inc(count)

    def _log(self, error: Exception) -> None:
        if time.monotonic() - self._logged >= LOG_SECONDS:
            self._logged = time.monotonic()
            logger.error("the challenger failed, and the champion answers: %s", safe_traceback(error))

    def close(self, within: float = 5.0) -> None:
        """End its threads, within this many seconds."""
        self.reasoner.close(within)
        if self._running is not None:
            with suppress(Exception):
                self._running.result(within)
        self._pool.shutdown(wait=False, cancel_futures=True)
