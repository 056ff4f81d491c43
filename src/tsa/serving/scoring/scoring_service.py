"""The desk: payments come as rows and go with an answer or a problem; what they were is remembered for those that follow.

A payment is read, looked up, given its histories, scored, and appended with its answer, whole or not at all. Nothing is
locked meanwhile: what was seen of the store must still stand when the answer is written, else the payment is scored again.
So two payments of one key are as if one came after the other, whatever thread or process they come through. A request
that comes again gets the answer that was kept and changes nothing. It knows neither HTTP nor engines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tsa.data.online.histories import Key, PastEvents
from tsa.data.online.payments import Payments, Problem
from tsa.errors import ConfigError, HistoryError, HistoryLost, HistoryUnavailable
from tsa.inference.scorer import Scorer
from tsa.serving.history.base import REASONS, HistoryStore
from tsa.serving.history.maintenance import note_outcome, until_made
from tsa.serving.history.metadata import adopt, veiled
from tsa.serving.results import Answer
from tsa.serving.scoring.pipeline import Bench, Histories, Row, Scored
from tsa.serving.scoring.transaction import Given, Visit

__all__ = ["Answer", "Desk", "Problem"]

Watch = Callable[[str, float], None]
"""Called with "read", "score" or "write" and the seconds that it took."""


class Desk:
    """Answers for payments. Safe to use from several threads; several processes may share its store."""

    def __init__(
        self,
        scorer: Scorer,
        store: HistoryStore | None,
        *,
        version: str = "",
        clock: Callable[[], float] = time.time,
        watch: Watch | None = None,
        may_wait: bool = False,
    ) -> None:
        """store: None only for a market whose rows carry their own history. version: of the bundle, for the answers.
        may_wait: begin although the store cannot be used at the moment; payments are refused until it can.

        Raises HistoryError, with the differences, where the store is not one for this bundle.
        """
        self._store, self._clock, self._watch = store, clock, watch
        self._fitted = 0 if store is None else store.turns
        """Of the store's `turns`: that at which it was last made one for this bundle."""
        self._bench = self._made(scorer, version, may_wait=may_wait)

    def swap(self, scorer: Scorer, version: str = "") -> None:
        """Score with another bundle from now on; payments that are being scored still get the old one's answer.

        Where its encoder is another one, each block of events is encoded anew, from the raw values, when it is next read.
        Raises HistoryError, with the differences, where the store is not one for this bundle; the old one then stays.
        """
        self._bench = self._made(scorer, version)

    def score(self, rows: Sequence[Row], histories: Sequence[Histories | None] | None = None) -> list[Answer | Problem]:
        """What each row gets. Rows of one call see those of the others that are before them, as in a log.

        rows: current values by column. histories: of each row the earlier events that it brings along, by history; such a
        payment sees these alone, and is not remembered. None: its histories are in the store.
        """
        bench = self._bench
        if bench.market.wire is not None:
            with self._timed("score"):
                return bench.score_wire(rows)
        if histories is not None and len(histories) != len(rows):
            raise ValueError(f"histories must be one for each row, however: {len(histories)} for {len(rows)} rows")
        found = bench.read(rows)
        out: dict[int, Answer | Problem] = dict(found.problems)
        own = [at for at, place in enumerate(found.rows) if histories is not None and histories[place] is not None]
        rest = [at for at in range(len(found.rows)) if at not in set(own)] if own else list(range(len(found.rows)))
        if own and histories is not None:
            brought = [histories[found.rows[at]] or {} for at in own]
            for at, got in zip(own, self._with_own(bench, found.payments.take(own), brought), strict=True):
                out[found.rows[at]] = bench.answer(bench.given_id(rows[found.rows[at]]), got)
        if rest:
            payments = found.payments if len(rest) == len(found.payments) else found.payments.take(rest)
            ids = [bench.given_id(rows[found.rows[at]]) for at in rest]
            for at, answer in zip(rest, self._remembered(bench, payments, ids), strict=True):
                out[found.rows[at]] = answer
        return [out[place] for place in range(len(rows))]

    def outcome(self, id_: str, fraud: bool, at_seconds: float) -> bool:
        """Note that a payment turned out to be fraud or genuine, as known from `at_seconds` on; False: no such payment.

        id_: as the client gave it. Payments at that time or later see the outcome. The same outcome again counts from its
        earliest report; another one takes its place if it is reported at the same time or later. Raises DataError for a
        time that is not finite, HistoryUnavailable when the store does not answer.
        """
        if self._store is None:
            return False
        market = self._bench.market
        self._fit(self._bench)
        return note_outcome(self._store, veiled(market, market.event.id, id_), int(fraud), at_seconds)

    def _made(self, scorer: Scorer, version: str, *, may_wait: bool = False) -> Bench:
        bench = Bench(scorer, version, self._clock)
        if self._store is not None and bench.market.wire is None:
            self._fitted = self._store.turns
            try:
                adopt(self._store, bench.market, bench.encoder)
            except HistoryUnavailable:
                if not may_wait:
                    raise
                self._fitted = -1
        return bench

    def _fit(self, bench: Bench) -> None:
        """Make the store one for this bundle where it was adopted since, and may be another one. Raises HistoryLost."""
        if self._store is None or self._store.turns == self._fitted:
            return
        turns = self._store.turns
        try:
            adopt(self._store, bench.market, bench.encoder)
        except HistoryUnavailable:
            raise
        except HistoryError as error:
            raise HistoryLost(f"the history store that was adopted cannot be used: {error}", "misfit") from error
        self._fitted = turns

    def _with_own(self, bench: Bench, payments: Payments, histories: Sequence[Histories]) -> list[Scored | Problem]:
        """What payments get that bring their histories along: each sees its own alone, and none is remembered."""
        past: dict[Key, PastEvents] = {}
        out: list[Scored | Problem | None] = []
        for row, told in enumerate(histories):
            found = bench.read_past(told, payments, row)
            out.append(found if isinstance(found, Problem) else None)
            if not isinstance(found, Problem):
                past |= {(name, str(row)): events for name, events in found.items()}
        todo = [row for row, got in enumerate(out) if got is None]
        keys = {history.name: tuple(map(str, range(len(payments)))) for history in bench.market.history}
        with self._timed("score"):
            scored = iter(bench.score(replace(payments, keys=keys).take(todo), past))
        return [next(scored) if got is None else got for got in out]

    def _remembered(self, bench: Bench, payments: Payments, ids: Sequence[str]) -> list[Answer | Problem]:
        """What payments get whose histories are in the store."""
        if self._store is None:
            raise ConfigError("payments without their histories need a history store, however: there is none")
        visit = Visit(self._store, bench, payments, self._timed)

        def attempt() -> list[Given | Problem] | None:
            self._fit(bench)
            return visit.attempt()

        try:
            got = until_made(attempt)
        except HistoryUnavailable as error:
            return self._without_store(bench, payments, ids, error)
        return [
            one if isinstance(one, Problem) else Answer.again(id_, one.kept, repeated=one.repeated)
            for id_, one in zip(ids, got, strict=True)
        ]

    def _without_store(
        self, bench: Bench, payments: Payments, ids: Sequence[str], error: HistoryUnavailable
    ) -> list[Answer | Problem]:
        """What payments get while the store cannot be used: what the market says."""
        if bench.serving.history_down == "refuse":
            rule = "history_lost" if isinstance(error, HistoryLost) else "history_down"
            return [Problem(rule, "history", "must be there to score with", REASONS[error.reason]) for _ in ids]
        with self._timed("score"):
            scored = bench.score(payments, {})
        found = [bench.answer(id_, one) for id_, one in zip(ids, scored, strict=True)]
        return [replace(answer, degraded=True) if isinstance(answer, Answer) else answer for answer in found]

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if self._watch is not None:
            self._watch(what, time.perf_counter() - began)
