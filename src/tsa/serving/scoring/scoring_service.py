"""The scoring service: scores payments with their stored histories and appends them to the store, without HTTP.

A payment is scored and appended in one optimistic transaction, retried at a conflict, so that payments of one key are
serialized over all threads and processes. A repeated payment gets its stored answer and changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tsa.data.online.encoded import EncodedPayments
from tsa.data.online.histories import HistoryEvents, Key
from tsa.data.values import RuleViolation
from tsa.errors import ConfigError, HistoryError, HistoryLost, HistoryUnavailable
from tsa.inference.scorer import Scorer
from tsa.serving.history.base import REASONS, HistoryStore
from tsa.serving.history.maintenance import record_outcome, retry_on_conflict
from tsa.serving.history.metadata import pseudonymised
from tsa.serving.results import CHAMPION, ScoreResult
from tsa.serving.scoring.pipeline import Histories, Row, ScoringPipeline
from tsa.serving.scoring.transaction import ScoringTransaction

__all__ = ["RuleViolation", "ScoreResult", "ScoringService"]

StageObserver = Callable[[str, float], None]
"""Called with "read", "score" or "write" and the seconds that the stage took."""


class ScoringService:
    """Scores payments and records outcomes. Safe to use from several threads; several processes may share its store."""

    def __init__(
        self,
        scorer: Scorer,
        store: HistoryStore | None,
        *,
        version: str = "",
        clock: Callable[[], float] = time.time,
        watch: StageObserver | None = None,
        may_wait: bool = False,
        with_details: bool = False,
        arm: str = CHAMPION,
    ) -> None:
        """Args:
            store: None only for a market whose rows carry their own history.
            version: version of the bundle, for the answers.
            clock: returns epoch seconds.
            watch: called after each stage.
            may_wait: start even if the store cannot be used yet; payments are refused until it can.
            with_details: give each result the details for a log of decisions.
            arm: CHAMPION or CHALLENGER, for the answers.

        Raises:
            HistoryError: with the differences: the store does not fit this bundle.
        """
        self._store, self._clock, self._watch = store, clock, watch
        self._with_details, self._arm = with_details, arm
        self._fitted = 0 if store is None else store.turns
        """The store's `turns` when it was last bound to this bundle."""
        self._pipeline = self._build_pipeline(scorer, version, may_wait=may_wait)

    def replace_bundle(self, scorer: Scorer, version: str = "") -> None:
        """Score with another bundle from now on; payments that are being scored still use the old one.

        If its encoder differs, each block of events is encoded again from the raw values when it is next read.

        Raises:
            HistoryError: with the differences: the store does not fit the bundle. The old bundle stays in use.
        """
        self._pipeline = self._build_pipeline(scorer, version)

    def score(
        self, rows: Sequence[Row], histories: Sequence[Histories | None] | None = None
    ) -> list[ScoreResult | RuleViolation]:
        """Score rows and append them to the store. A row sees the earlier rows of the same call, as in a log.

        Args:
            rows: (B,) values by column.
            histories: (B,) history events from the request, by history name; such a payment sees only these and is not
                stored. None: the histories are in the store.

        Returns:
            (B,) a result or a rule violation for each row.
        """
        pipeline = self._pipeline
        if pipeline.market.wire is not None:
            with self._timed("score"):
                results = pipeline.score_rows_with_history(rows)
            return pipeline.details.of_wire_rows(rows, results) if self._with_details else results
        if histories is not None and len(histories) != len(rows):
            raise ValueError(f"histories must be one for each row (got {len(histories)} for {len(rows)} rows)")
        parsed = pipeline.parse_rows(rows)
        ids = [pipeline.client_id_of(rows[place]) for place in parsed.positions]
        inline = {
            at: events
            for at, place in enumerate(parsed.positions)
            if histories and (events := histories[place]) is not None
        }
        answers = self._answers(pipeline, parsed.payments, ids, inline)
        if self._with_details:
            answers = pipeline.details.of_payments(parsed.payments, answers, inline)
        return parsed.in_place(answers)

    def record_outcome(self, id_: str, fraud: bool, at_seconds: float) -> bool:
        """Record that a payment was fraud or genuine. Payments at `at_seconds` or later see the outcome.

        The same outcome again counts from its earliest report; a different one replaces it if reported at the same time
        or later.

        Args:
            id_: as the client sent it.
            at_seconds: when the outcome became known, in epoch seconds.

        Returns:
            False if the store has no such payment.

        Raises:
            DataError: the time is not finite.
            HistoryUnavailable: the store does not answer.
        """
        market = self._pipeline.market
        return self.record_stored_outcome(pseudonymised(market, market.event.id, id_), fraud, at_seconds)

    def record_stored_outcome(self, id_: str, fraud: bool, at_seconds: float) -> bool:
        """Like `record_outcome`. id_: as recorded: pseudonymised where the market asks for it."""
        if self._store is None:
            return False
        self._fit(self._pipeline)
        return record_outcome(self._store, id_, int(fraud), at_seconds)

    def _build_pipeline(self, scorer: Scorer, version: str, *, may_wait: bool = False) -> ScoringPipeline:
        pipeline = ScoringPipeline(scorer, version, self._clock, self._arm)
        if self._store is not None and pipeline.market.wire is None:
            self._fitted = self._store.turns
            try:
                pipeline.bind(self._store)
            except HistoryUnavailable:
                if not may_wait:
                    raise
                self._fitted = -1
        return pipeline

    def _fit(self, pipeline: ScoringPipeline) -> None:
        """Bind the store to this bundle again if it was adopted since: it may be another store. Raises HistoryLost."""
        if self._store is None or self._store.turns == self._fitted:
            return
        turns = self._store.turns
        try:
            pipeline.bind(self._store)
        except HistoryUnavailable:
            raise
        except HistoryError as error:
            raise HistoryLost(f"the history store that was adopted cannot be used: {error}", "misfit") from error
        self._fitted = turns

    def _answers(
        self, pipeline: ScoringPipeline, payments: EncodedPayments, ids: Sequence[str], inline: Mapping[int, Histories]
    ) -> list[ScoreResult | RuleViolation]:
        """Score B payments. inline: histories that came in the request, by the payment's index."""
        if not inline:
            return self._score_and_store(pipeline, payments, ids) if ids else []
        own, rest = list(inline), [at for at in range(len(ids)) if at not in inline]
        out: dict[int, ScoreResult | RuleViolation] = {}
        if own:
            got = self._score_with_request_histories(
                pipeline, payments.take(own), [ids[at] for at in own], list(inline.values())
            )
            out.update(zip(own, got, strict=True))
        if rest:
            got = self._score_and_store(pipeline, payments.take(rest), [ids[at] for at in rest])
            out.update(zip(rest, got, strict=True))
        return [out[at] for at in range(len(ids))]

    def _score_with_request_histories(
        self, pipeline: ScoringPipeline, payments: EncodedPayments, ids: Sequence[str], histories: Sequence[Histories]
    ) -> list[ScoreResult | RuleViolation]:
        """Score payments whose histories came in the request: each sees only its own, and none is stored."""
        past: dict[Key, HistoryEvents] = {}
        out: list[RuleViolation | None] = []
        for row, given in enumerate(histories):
            parsed = pipeline.parse_histories(given, payments, row)
            out.append(parsed if isinstance(parsed, RuleViolation) else None)
            if not isinstance(parsed, RuleViolation):
                names = {view.name: view.history for view in pipeline.market.views}
                past |= {(names[name], f"{row}/{name}"): events for name, events in parsed.items()}
        todo = [row for row, got in enumerate(out) if got is None]
        keys = {
            view.name: tuple(f"{row}/{view.name}" for row in range(len(payments))) for view in pipeline.market.views
        }
        with self._timed("score"):
            own = replace(payments, keys=keys).take(todo)
            scored = iter(pipeline.score(own, past, [ids[row] for row in todo]))
        return [next(scored) if got is None else got for got in out]

    def _score_and_store(
        self, pipeline: ScoringPipeline, payments: EncodedPayments, ids: Sequence[str]
    ) -> list[ScoreResult | RuleViolation]:
        """Score payments whose histories are in the store, and append them."""
        if self._store is None:
            raise ConfigError("payments without histories in the request need a history store (got none)")
        transaction = ScoringTransaction(self._store, pipeline, payments, ids, self._timed)

        def attempt() -> list[ScoreResult | RuleViolation] | None:
            self._fit(pipeline)
            return transaction.try_commit()

        try:
            return retry_on_conflict(attempt)
        except HistoryUnavailable as error:
            return self._score_degraded(pipeline, payments, ids, error)

    def _score_degraded(
        self, pipeline: ScoringPipeline, payments: EncodedPayments, ids: Sequence[str], error: HistoryUnavailable
    ) -> list[ScoreResult | RuleViolation]:
        """Answer payments while the store cannot be used, as the market's `on_history_unavailable` says."""
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
