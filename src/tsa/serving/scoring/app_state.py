"""State that the routes share: the scoring service behind its batcher, the request validator, metrics, and bundle reloads.

One thread calls the scoring service: for batches of payments and, between these, outcomes and new bundles.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tsa.calibration.calibration import Calibration
from tsa.config.market import Serving
from tsa.data.spelling import Spelling
from tsa.data.values import RuleViolation, normalise_text
from tsa.errors import TSAError
from tsa.inference.scorer import Scorer
from tsa.serving.auth import Credentials
from tsa.serving.errors import RateLimitedError, RefusedError, safe_traceback
from tsa.serving.history.metadata import pseudonymised
from tsa.serving.metrics import Metrics, MissingUnknownCounter
from tsa.serving.rate_limit import TokenBucketLimiter
from tsa.serving.request_limits import PaymentRequest, RequestValidator
from tsa.serving.results import ScoreResult
from tsa.serving.scoring.batcher import Batcher
from tsa.serving.scoring.bundle_watch import BundleFileId, bundle_file_id, version_of
from tsa.serving.scoring.case_evidence import EvidenceReader
from tsa.serving.scoring.challenger import Challenger
from tsa.serving.scoring.decision_recorder import DecisionRecorder
from tsa.serving.scoring.explain_worker import ExplanationWorker
from tsa.serving.scoring.isolation import score_isolating_failures
from tsa.serving.scoring.opening import load_scorer, open_review, open_store, sources_of
from tsa.serving.scoring.reload_rules import TakeoverRefusedError, check_takeover
from tsa.serving.scoring.scoring_service import ScoringService
from tsa.serving.scoring.shadow import Shadow
from tsa.serving.scoring.startup_warnings import warn_at_start
from tsa.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

Result = ScoreResult | RuleViolation
MIN_CLOSING_SECONDS = 0.2


class AppState:
    """Everything of a running server except its routes. Create one per process and `close` it."""

    def __init__(self, settings: ServeSettings) -> None:
        """Open the bundle, the history store and the shadow.

        Raises:
            ConfigError: settings that do not fit the bundle. Also raises what opening these raises.
        """
        self.settings, self.secrets = settings, Credentials(settings)
        self.sources = sources_of(settings)
        self.mark: BundleFileId = bundle_file_id(settings.bundle)
        scorer = load_scorer(settings)
        warn_at_start(settings, scorer.bundle, self.secrets.tokens)
        self.metrics = Metrics(scorer.bundle.market)
        self.buckets = TokenBucketLimiter(settings.rate, settings.burst)
        self.store = open_store(settings, scorer.bundle.market, self.metrics)
        self.scoring_service = ScoringService(
            scorer,
            self.store,
            version=version_of(scorer),
            may_wait=settings.history_seen is not None,
            with_details=settings.decision_log is not None,
        )
        self.recorder = None if settings.decision_log is None else DecisionRecorder(settings, self.metrics, scorer)
        self.review = open_review(settings, scorer, self.metrics) if settings.queue else None
        self.evidence = EvidenceReader(self.store)
        self.reasoner = ExplanationWorker(self.store)
        self.challenger = None if settings.challenger is None else self._open_challenger(settings.challenger, scorer)
        self.shadow, self.shadow_mark = self._open_shadow()
        self.draining, self.registry_problems = False, dict[str, str]()
        self.ends_at: float | None = None
        """Latest end of a shutdown that has begun, on the clock of `time.monotonic`."""
        self._set_scorer(scorer)
        self.batcher: Batcher[PaymentRequest, Result] = Batcher(
            self._work,
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
            queue_seconds=settings.max_queue_wait_ms / 1000,
            wait_seconds=settings.batch_wait_ms / 1000,
            observe=self._observe,
        )

    def _open_challenger(self, path: Path, champion: Scorer) -> Challenger:
        """Open the second bundle. Raises what `check_takeover` and `Challenger` raise."""
        scorer = load_scorer(self.settings, path)
        check_takeover(champion.bundle, scorer.bundle, allow_unevaluated=self.settings.allow_unevaluated)
        if self.recorder is not None:
            self.recorder.add_thresholds(scorer)
        return Challenger(scorer, self.store, self.settings, self.metrics)

    def _open_shadow(self) -> tuple[Shadow | None, BundleFileId | None]:
        """The shadow and what its bundle is identified by. One of a registry that has none yet comes later."""
        settings = self.settings
        if settings.shadow is None or (settings.shadow_from is not None and not settings.shadow.exists()):
            return None, None
        mark = bundle_file_id(settings.shadow)
        return Shadow(settings, self.store, self.metrics), mark

    def _set_scorer(self, scorer: Scorer) -> None:
        """Set everything that depends on the bundle."""
        bundle = scorer.bundle
        self.scorer, self.version, self.market = scorer, version_of(scorer), bundle.market
        self.serving = bundle.market.serving or Serving()
        self.calibration = bundle.calibration or Calibration()
        self.imported = "imported" in bundle.training
        self.reasoner.set_bundle(scorer, self.version)
        self.contract = RequestValidator(self.market, self.settings)
        self.values = MissingUnknownCounter(scorer.bundle.encoder, self.market)
        if self.recorder is not None:
            self.recorder.set_bundle(scorer)
        if self.review is not None:
            self.review.set_bundle(scorer)
            self.evidence.set_bundle(scorer, self.version)

    async def score(
        self, entries: Sequence[PaymentRequest | RuleViolation], *, client: str, deadline: float
    ) -> list[Result]:
        """Score the valid entries of a request.

        Args:
            client: client id, for the rate limit.
            deadline: on the clock of `time.monotonic`.

        Returns:
            A result or a rule violation for each entry.

        Raises:
            RateLimitedError: the client sends too many payments. Also raises what `Batcher.submit` raises.
        """
        if len(entries) > 1 and (wait := self.buckets.take(client, len(entries) - 1)) is not None:
            raise RateLimitedError(wait)
        valid = [entry for entry in entries if isinstance(entry, PaymentRequest)]
        results = self.contract.in_place(entries, await self.batcher.submit(valid, deadline))
        for result in results:
            if isinstance(result, RuleViolation):
                self.metrics.refused(result.rule)
        return results

    @property
    def reasoners(self) -> dict[str, ExplanationWorker]:
        """What explains the answers of each bundle, by its version."""
        other = self.challenger
        return {**({} if other is None else {other.version: other.reasoner}), self.version: self.reasoner}

    def _observe(self, size: int, seconds: float) -> None:
        self.metrics.batch(size, seconds)
        self.metrics.queue.set(self.batcher.waiting)  # each worker reports its own queue

    def _work(self, entries: Sequence[PaymentRequest]) -> list[Result]:
        """Score a batch. Runs in the model thread."""
        champion = partial(score_isolating_failures, self.scoring_service)
        results = champion(entries) if self.challenger is None else self.challenger.score(entries, champion)
        if self.recorder is not None:
            results = self.recorder.record(results)
        if self.review is not None:
            self.review.add(results)
        self._count(entries, results)
        return results

    def _count(self, entries: Sequence[PaymentRequest], results: Sequence[Result]) -> None:
        metrics, rows = self.metrics, []
        for entry, result in zip(entries, results, strict=True):
            if isinstance(result, RuleViolation):
                metrics.payments.labels("refused").inc()
                continue
            metrics.payments.labels(
                "replayed" if result.replayed else "degraded" if result.degraded else "scored"
            ).inc()
            metrics.arms.labels(result.arm).inc()
            if not result.replayed and result.raw_score is not None:
                metrics.scores.observe(result.raw_score)
                rows.append(entry.row)
        if rows:
            metrics.values(*self.values.count(rows))
        if self.shadow is not None:
            self.shadow.submit(entries, results)

    async def record_outcome(
        self, id_: Any, fraud: bool, at_seconds: float, *, deadline: float, by: str | None = None
    ) -> bool:
        """Record an outcome; False if there is no such payment. Raises what `Batcher.run_with_deadline` raises.

        by: who says so, for the log of decisions.
        """
        text = normalise_text(id_, "id", Spelling.of(self.market)) or ""
        call = partial(self._record_outcome, text, fraud, at_seconds, by)
        exists: bool = await self.batcher.run_with_deadline(call, deadline)
        return exists

    async def record_case_outcome(self, id_: str, fraud: bool, at_seconds: float, *, deadline: float, by: str) -> bool:
        """Like `record_outcome`, for a case of the analysts' queue, whose id is given as recorded.

        The log of decisions gets the outcome also where histories do not have the payment, as one that was scored degraded.
        """
        call = partial(self._record_stored_outcome, id_, fraud, at_seconds, by, must_exist=False)
        exists: bool = await self.batcher.run_with_deadline(call, deadline)
        return exists

    def _record_outcome(self, id_: str, fraud: bool, at_seconds: float, by: str | None) -> bool:
        """Runs in the model thread. id_: as the client sent it."""
        recorded = pseudonymised(self.market, self.market.event.id, id_)
        return self._record_stored_outcome(recorded, fraud, at_seconds, by)

    def _record_stored_outcome(
        self, id_: str, fraud: bool, at_seconds: float, by: str | None, *, must_exist: bool = True
    ) -> bool:
        """Runs in the model thread. id_: as recorded."""
        exists = self.scoring_service.record_stored_outcome(id_, fraud, at_seconds)
        if self.recorder is not None and (exists or not must_exist):
            self.recorder.outcome(id_, fraud, at_seconds, by)
        if self.review is not None and exists:
            self.review.close_case(id_, fraud, by)
        return exists

    async def follow(self) -> None:
        """Copy the bundles that the registries' aliases name now. Where that fails, the copy that is there stays in use."""
        for source in self.sources:
            name = f"{source.url}@{source.alias}"
            try:
                await asyncio.to_thread(source.refresh)
                self.registry_problems.pop(name, None)
            except Exception as error:
                self.metrics.registry_failures.inc()
                problem = str(error) if isinstance(error, TSAError) else safe_traceback(error)
                if problem != self.registry_problems.get(name):
                    logger.error("%s cannot be followed, and the bundle in use stays: %s", name, problem)
                self.registry_problems[name] = problem
        if self.settings.shadow_from is not None:
            await asyncio.to_thread(self._follow_shadow)

    def _follow_shadow(self) -> None:
        """Let the shadow score with the copy that its link leads to now. One that cannot be used is tried once."""
        assert self.settings.shadow is not None
        mark = bundle_file_id(self.settings.shadow)
        if mark == self.shadow_mark or not mark[1]:
            return
        self.shadow_mark = mark
        try:
            if self.shadow is None:
                self.shadow = Shadow(self.settings, self.store, self.metrics)
            else:
                self.shadow.replace(self.settings)
        except Exception as error:
            self.metrics.shadow_reloads.labels("refused").inc()
            problem = error if isinstance(error, TSAError) else safe_traceback(error)
            logger.error("the shadow was not replaced: %s", problem)
            return
        self.metrics.shadow_reloads.labels("taken").inc()
        logger.info("bundle %s is the shadow", self.shadow.version)

    async def reload(self) -> str:
        """Load the bundle that is now at the path and use it, without a pause.

        It is opened in a separate thread and swapped in between two batches.

        Returns:
            Its version.

        Raises:
            RefusedError: the bundle is invalid, does not fit, was not evaluated, or lacks decisions;
                the old one stays in use.
        """
        await self.follow()
        loop, mark = asyncio.get_running_loop(), bundle_file_id(self.settings.bundle)
        try:
            scorer = await loop.run_in_executor(None, load_scorer, self.settings)
            check_takeover(self.scorer.bundle, scorer.bundle, allow_unevaluated=self.settings.allow_unevaluated)
            await self.batcher.run_between_batches(lambda: self._swap(scorer))
        except TakeoverRefusedError as error:
            self.metrics.reloads.labels(error.outcome).inc()
            logger.error("the bundle was not reloaded: %s", error)
            raise RefusedError(f"bundle_{error.outcome}", str(error)) from None
        except Exception as error:  # whatever is wrong with the new bundle, the old one stays in use
            self.metrics.reloads.labels("refused").inc()
            logger.error(
                "the bundle was not reloaded: %s", error if isinstance(error, TSAError) else safe_traceback(error)
            )
            raise RefusedError("bundle", "the bundle cannot be loaded; see the server's log") from None
        finally:
            self.mark = mark
        self.metrics.reloads.labels("taken").inc()
        logger.info("bundle %s loaded", self.version)
        return self.version

    def _swap(self, scorer: Scorer) -> None:
        """Swap the bundle completely, or not at all."""
        before = self.scorer
        try:
            self._set_scorer(scorer)
            self.scoring_service.replace_bundle(scorer, self.version)
        except Exception:
            self._set_scorer(before)
            raise

    def close(self) -> None:
        """Finish accepted requests until `ends_at`, or for `stop_seconds`, and close everything."""
        end = time.monotonic() + self.settings.stop_seconds if self.ends_at is None else self.ends_at
        for closing in (self.batcher, self.reasoner, self.challenger, self.shadow, self.recorder, self.review):
            if closing is not None:
                closing.close(max(MIN_CLOSING_SECONDS, end - time.monotonic()))
        if self.store is not None:
            self.store.close()
