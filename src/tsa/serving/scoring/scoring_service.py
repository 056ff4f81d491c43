"""The scoring service: payments come as rows and go with an answer or a problem; what they were is remembered for
those that follow.

A payment is read, looked up, given its histories, scored, and appended with its answer, whole or not at all. Nothing is
locked meanwhile: what was seen of the store must still stand when the answer is written, else the payment is scored again.
So two payments of one key are as if one came after the other, whatever thread or process they come through. A request
that comes again gets the answer that was kept and changes nothing. It knows neither HTTP nor engines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tsa.data.online.histories import HistoryEvents, Key
from tsa.data.online.payments import EncodedPayments, RuleViolation
from tsa.errors import ConfigError, HistoryError, HistoryLost, HistoryUnavailable
from tsa.inference.scorer import Scorer
from tsa.serving.history.base import REASONS, HistoryStore
from tsa.serving.history.maintenance import record_outcome, retry_on_conflict
from tsa.serving.history.metadata import bind_store, pseudonymised
from tsa.serving.results import ScoreResult
from tsa.serving.scoring.pipeline import Histories, Row, ScoringPipeline
from tsa.serving.scoring.transaction import ScoringTransaction

__all__ = ["RuleViolation", "ScoreResult", "ScoringService"]

StageObserver = Callable[[str, float], None]
"""Called with "read", "score" or "write" and the seconds that it took."""


class ScoringService:
    """Answers for payments. Safe to use from several threads; several processes may share its store."""

    def __init__(
        self,
        scorer: Scorer,
        store: HistoryStore | None,
        *,
        version: str = "",
        clock: Callable[[], float] = time.time,
        watch: StageObserver | None = None,
        may_wait: bool = False,
    ) -> None:
        """store: None only for a market whose rows carry their own history. version: of the bundle, for the answers.
        may_wait: begin although the store cannot be used at the moment; payments are refused until it can.

        Raises HistoryError, with the differences, where the store is not one for this bundle.
        """
        self._store, self._clock, self._watch = store, clock, watch
        self._fitted = 0 if store is None else store.turns
        """Of the store's `turns`: that at which it was last made one for this bundle."""
        self._pipeline = self._build_pipeline(scorer, version, may_wait=may_wait)

    def replace_bundle(self, scorer: Scorer, version: str = "") -> None:
        """Score with another bundle from now on; payments that are being scored still get the old one's answer.

        Where its encoder is another one, each block of events is encoded anew, from the raw values, when it is next read.
        Raises HistoryError, with the differences, where the store is not one for this bundle; the old one then stays.
        """
        self._pipeline = self._build_pipeline(scorer, version)

    def score(
        self, rows: Sequence[Row], histories: Sequence[Histories | None] | None = None
    ) -> list[ScoreResult | RuleViolation]:
        """What each row gets. Rows of one call see those of the others that are before them, as in a log.

        rows: current values by column. histories: of each row the earlier events that it brings along, by history; such a
        payment sees these alone, and is not remembered. None: its histories are in the store.
        """
        pipeline = self._pipeline
        if pipeline.market.inline_history is not None:
            with self._timed("score"):
                return pipeline.score_rows_with_history(rows)
        if histories is not None and len(histories) != len(rows):
            raise ValueError(f"histories must be one for each row (got {len(histories)} for {len(rows)} rows)")
        found = pipeline.parse_rows(rows)
        ids = [pipeline.client_id_of(rows[place]) for place in found.positions]
        brought = {
            at: told for at, place in enumerate(found.positions) if histories and (told := histories[place]) is not None
        }
        return found.in_place(self._answers(pipeline, found.payments, ids, brought))

    def record_outcome(self, id_: str, fraud: bool, at_seconds: float) -> bool:
        """Note that a payment turned out to be fraud or genuine, as known from `at_seconds` on; False: no such payment.

        id_: as the client gave it. Payments at that time or later see the outcome. The same outcome again counts from its
        earliest report; another one takes its place if it is reported at the same time or later. Raises DataError for a
        time that is not finite, HistoryUnavailable when the store does not answer.
        """
        if self._store is None:
            return False
        market = self._pipeline.market
        self._fit(self._pipeline)
        return record_outcome(self._store, pseudonymised(market, market.event.id, id_), int(fraud), at_seconds)

    def _build_pipeline(self, scorer: Scorer, version: str, *, may_wait: bool = False) -> ScoringPipeline:
        pipeline = ScoringPipeline(scorer, version, self._clock)
        if self._store is not None and pipeline.market.inline_history is None:
            self._fitted = self._store.turns
            try:
                bind_store(self._store, pipeline.market, pipeline.encoder)
            except HistoryUnavailable:
                if not may_wait:
                    raise
                self._fitted = -1
        return pipeline

    def _fit(self, pipeline: ScoringPipeline) -> None:
        """Make the store one for this bundle where it was adopted since, and may be another one. Raises HistoryLost."""
        if self._store is None or self._store.turns == self._fitted:
            return
        turns = self._store.turns
        try:
            bind_store(self._store, pipeline.market, pipeline.encoder)
        except HistoryUnavailable:
            raise
        except HistoryError as error:
            raise HistoryLost(f"the history store that was adopted cannot be used: {error}", "misfit") from error
        self._fitted = turns

    def _answers(
        self, pipeline: ScoringPipeline, payments: EncodedPayments, ids: Sequence[str], brought: Mapping[int, Histories]
    ) -> list[ScoreResult | RuleViolation]:
        """What payments get. brought: of those that bring their histories along, the histories, by number."""
        if not brought:
            return self._score_and_store(pipeline, payments, ids) if ids else []
        own, rest = list(brought), [at for at in range(len(ids)) if at not in brought]
        out: dict[int, ScoreResult | RuleViolation] = {}
        if own:
            got = self._score_with_request_histories(
                pipeline, payments.take(own), [ids[at] for at in own], list(brought.values())
            )
            out.update(zip(own, got, strict=True))
        if rest:
            got = self._score_and_store(pipeline, payments.take(rest), [ids[at] for at in rest])
            out.update(zip(rest, got, strict=True))
        return [out[at] for at in range(len(ids))]

    def _score_with_request_histories(
        self, pipeline: ScoringPipeline, payments: EncodedPayments, ids: Sequence[str], histories: Sequence[Histories]
    ) -> list[ScoreResult | RuleViolation]:
        """What payments get that bring their histories along: each sees its own alone, and none is remembered."""
        past: dict[Key, HistoryEvents] = {}
        out: list[RuleViolation | None] = []
        for row, told in enumerate(histories):
            found = pipeline.parse_histories(told, payments, row)
            out.append(found if isinstance(found, RuleViolation) else None)
            if not isinstance(found, RuleViolation):
                past |= {(name, str(row)): events for name, events in found.items()}
        todo = [row for row, got in enumerate(out) if got is None]
        keys = {history.name: tuple(map(str, range(len(payments)))) for history in pipeline.market.history}
        with self._timed("score"):
            own = replace(payments, keys=keys).take(todo)
            scored = iter(pipeline.score(own, past, [ids[row] for row in todo]))
        return [next(scored) if got is None else got for got in out]

    def _score_and_store(
        self, pipeline: ScoringPipeline, payments: EncodedPayments, ids: Sequence[str]
    ) -> list[ScoreResult | RuleViolation]:
        """What payments get whose histories are in the store."""
        if self._store is None:
            raise ConfigError("payments without their histories need a history store, but there is none")
        visit = ScoringTransaction(self._store, pipeline, payments, ids, self._timed)

        def attempt() -> list[ScoreResult | RuleViolation] | None:
            self._fit(pipeline)
            return visit.try_commit()

        try:
            return retry_on_conflict(attempt)
        except HistoryUnavailable as error:
            return self._score_degraded(pipeline, payments, ids, error)

    def _score_degraded(
        self, pipeline: ScoringPipeline, payments: EncodedPayments, ids: Sequence[str], error: HistoryUnavailable
    ) -> list[ScoreResult | RuleViolation]:
        """What payments get while the store cannot be used: what the market says."""
        if pipeline.serving.on_history_unavailable == "reject":
            rule = "history_lost" if isinstance(error, HistoryLost) else "history_unavailable"
            return [RuleViolation(rule, "history", "must be there to score with", REASONS[error.reason]) for _ in ids]
        with self._timed("score"):
            scored = pipeline.score(payments, {}, ids)
        return [replace(answer, degraded=True) if isinstance(answer, ScoreResult) else answer for answer in scored]

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if self._watch is not None:
            self._watch(what, time.perf_counter() - began)
