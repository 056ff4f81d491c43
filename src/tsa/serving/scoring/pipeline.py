"""The scoring pipeline of one bundle: parses rows into payments and scores payments with their history events.

Reloading a bundle creates a new pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from tsa.config.market import HistoryView, Serving
from tsa.data.clean_columns import HISTORY_ONLY
from tsa.data.online.encoded import EncodedPayments, ParsedPayments, tie_break_key
from tsa.data.online.histories import HistoryEvents, Key
from tsa.data.online.payments import PaymentReader
from tsa.data.online.rows import with_joined
from tsa.data.raw_values import MISSING_TOKEN, key_token_columns
from tsa.data.spelling import Spelling
from tsa.data.values import RuleViolation, normalise_text
from tsa.data.wire import Requests
from tsa.data.wire.layout import FieldLayout
from tsa.data.wire.row_errors import BrokenRowError
from tsa.errors import DataError
from tsa.inference.scorer import Scorer
from tsa.serving.history.base import HistoryStore
from tsa.serving.history.blocks import retention_policies
from tsa.serving.history.metadata import bind_store
from tsa.serving.history.reencode import encoder_hash
from tsa.serving.results import CHAMPION, ScoreResult
from tsa.serving.scoring.recorded_values import DetailsReader
from tsa.text import SHOWN, brief, truncate_repr
from tsa.times import DAY_SECONDS

Row = Mapping[str, Any]
Histories = Mapping[str, Sequence[Row]]
"""History events that came in the request, by history name."""


class ScoringPipeline:
    """Parses rows and scores payments with one bundle."""

    def __init__(self, scorer: Scorer, version: str, clock: Callable[[], float], arm: str = CHAMPION) -> None:
        """Args:
        version: version of the bundle, for the answers.
        clock: returns epoch seconds; payments may be later by at most the market's `max_future_seconds`.
        arm: CHAMPION or CHALLENGER, for the answers.
        """
        self.scorer, self.version, self._clock, self.arm = scorer, version, clock, arm
        self.market, self.encoder = scorer.bundle.market, scorer.bundle.encoder
        self.serving = self.market.serving or Serving()
        self.mark = encoder_hash(self.encoder)
        late_days = self.serving.max_late_days
        self.late_seconds = None if late_days is None else late_days * DAY_SECONDS
        self.keep = retention_policies(self.market, scorer.bundle.visible_lengths)
        """What the store keeps of a history; more where the store was first used with a bundle that reads more."""
        refuse = self.serving.unknown_fields == "refuse"
        self._known: frozenset[str] | None = None
        if self.market.wire is None:
            self._reader = PaymentReader(self.market, self.encoder, refuse_unknown_fields=refuse)
        elif refuse:
            layout = FieldLayout(self.market)
            self._known = frozenset({*layout.current, *layout.history_fields, self.market.label.column})

    def bind(self, store: HistoryStore) -> None:
        """Check that the store fits the bundle. Raises HistoryError."""
        lengths = bind_store(store, self.market, self.encoder, self.scorer.bundle.visible_lengths)
        self.keep = retention_policies(self.market, lengths)

    @cached_property
    def details(self) -> DetailsReader:
        """Reads what a log of decisions records."""
        return DetailsReader(self.market)

    def parse_rows(self, rows: Sequence[Row]) -> ParsedPayments:
        """Parse rows of a market whose histories are stored; rows that break a rule are among the problems."""
        parsed = self._reader.read(rows)
        future = np.flatnonzero(parsed.payments.time_seconds > self._latest).tolist()
        return parsed.without({at: self._future_problem(rows[parsed.positions[at]]) for at in future})

    def parse_histories(
        self, histories: Histories, now: EncodedPayments, row: int
    ) -> dict[str, HistoryEvents] | RuleViolation:
        """Parse the history events that came with payment `row` of `now`.

        Outcomes are read where the events have them. Events need no key column: the key is that of the payment.

        Returns:
            The events by history name, or the RuleViolation of the first invalid event.
        """
        views = {view.name: view for view in self.market.views}
        absent: dict[str, Any] = dict.fromkeys(self.market.key_columns)
        past = {}
        for name, events in histories.items():
            if name not in views:
                return violation("unknown_history", name, f"must be one of {sorted(views)}", name)
            parsed = self._reader.read([{**absent, **event} for event in events], outcomes=True)
            if parsed.problems:
                first = parsed.problems[min(parsed.problems)]
                return replace(first, field=f"histories.{name}.{first.field}")
            past[name] = HistoryEvents.of(parsed.payments)
            problem = self._order_problem(name, past[name], now, row) or self._role_problem(
                views[name], past[name], now, row
            )
            if problem is not None:
                return problem
        return past

    def _role_problem(
        self, view: HistoryView, past: HistoryEvents, now: EncodedPayments, row: int
    ) -> RuleViolation | None:
        """The violation of history events that do not have the payment's key, so that their role is not known."""
        if not view.has_roles:
            return None
        places = key_token_columns(self.market)
        columns = [places[other.name] for other in self.market.views if other.history == view.history]
        own = now.tokens[row, places[view.name]]
        lost = np.flatnonzero(~(past.tokens[:, columns] == own).any(axis=1) | (own == MISSING_TOKEN))
        if not len(lost):
            return None
        text = f"must contain only payments with this payment's {view.key} as {' or '.join(view.columns)}"
        return violation("no_role", f"histories.{view.name}", text, past.ids[int(lost[0])])

    def _order_problem(self, name: str, past: HistoryEvents, now: EncodedPayments, row: int) -> RuleViolation | None:
        """The violation of history events that repeat an id or do not come before the payment."""
        if len(set(past.ids)) < len(past):
            twice = next(id_ for at, id_ in enumerate(past.ids) if id_ in past.ids[:at])
            return violation("duplicate_id", f"histories.{name}", "must not contain a payment twice", twice)
        moment = (float(now.time_seconds[row]), tie_break_key(now.ids[row]))
        if len(past) and (float(past.time_seconds[-1]), tie_break_key(past.ids[-1])) >= moment:
            text = "must not contain a payment at or after the current one"
            return violation("negative_age", f"histories.{name}", text, past.ids[-1])
        return None

    def score(
        self, payments: EncodedPayments, past: Mapping[Key, HistoryEvents], ids: Sequence[str]
    ) -> list[ScoreResult | RuleViolation]:
        """Score B payments. Events that are not scored get a result without scores.

        Args:
            past: history events by key.
            ids: (B,) ids as the clients sent them, used in the answers.
        """
        if not len(payments):
            return []
        answers = self._score(self.scorer.requests(payments, past), ids)
        if not self.market.role_rules:
            return answers
        is_scored = (payments.role != HISTORY_ONLY).tolist()
        return [
            answer
            if scored or isinstance(answer, RuleViolation)
            else ScoreResult(id=id_, version=self.version, arm=self.arm)
            for answer, scored, id_ in zip(answers, is_scored, ids, strict=True)
        ]

    def score_rows_with_history(self, rows: Sequence[Row]) -> list[ScoreResult | RuleViolation]:
        """Parse and score rows that carry their own history."""
        if not rows:
            return []
        try:
            requests = self.scorer.wire_reader.read(rows)
        except DataError as error:
            if len(rows) > 1:
                return [self.score_rows_with_history([row])[0] for row in rows]
            return [_wire_problem(error)]
        ids = [_wire_id(row.get(self.market.event.id)) for row in rows]
        scored = zip(rows, self._score(requests, ids), requests.time_seconds > self._latest, strict=True)
        return [
            self._unknown_field(row) or (self._future_problem(row) if future else result)
            for row, result, future in scored
        ]

    @property
    def _latest(self) -> float:
        """Latest allowed time of a payment, in epoch seconds."""
        if self.market.wire is not None and self.market.wire.accepts("implausible_time"):
            return math.inf
        return self._clock() + self.serving.max_future_seconds

    def _future_problem(self, row: Row) -> RuleViolation:
        text = f"must not be more than {self.serving.max_future_seconds:g} s in the future"
        return violation(
            "future_time", self.market.event.time, text, with_joined(self.market, row)[self.market.event.time]
        )

    def _unknown_field(self, row: Row) -> RuleViolation | None:
        """The violation of an inline-history row with a field that is not in the market, if these are refused."""
        if self._known is None or (foreign := next((name for name in row if name not in self._known), None)) is None:
            return None
        return violation("unknown_field", foreign, "must be a field of the market", row[foreign])

    def client_id_of(self, row: Row) -> str:
        """The payment's id as the client sent it."""
        name = self.market.event.id
        return normalise_text(with_joined(self.market, row)[name], name, Spelling.of(self.market)) or ""

    def _score(self, requests: Requests, ids: Sequence[str | None]) -> list[ScoreResult | RuleViolation]:
        try:
            raw = self.scorer.score_requests(requests)
        except DataError as error:
            if len(requests.ids) > 1:
                return [self._score(_select_row(requests, row), [id_])[0] for row, id_ in enumerate(ids)]
            return [RuleViolation("no_score", "payment", "must get a number as score", brief(error, SHOWN))]
        thresholds = self.scorer.bundle.thresholds
        decisions = [None] * len(ids) if thresholds is None else thresholds.decide(raw)
        return [
            ScoreResult.of(id_, raw, row, self.version, decision, self.arm)
            for row, (id_, decision) in enumerate(zip(ids, decisions, strict=True))
        ]


def violation(rule: str, field: str, text: str, value: object) -> RuleViolation:
    """A RuleViolation with its value shortened for display."""
    return RuleViolation(rule, field, text, truncate_repr(value))


def _wire_id(given: object) -> str | None:
    """The id as the client sent it; optional in rows that carry their own history."""
    return None if given == "" or not isinstance(given, str | int | float) else str(given)


def _wire_problem(error: Exception) -> RuleViolation:
    """The violation for an error while reading an inline-history row. Decided by the error's type, not by its message."""
    if isinstance(error, BrokenRowError):
        problem = error.problem
        return violation(problem.rule, problem.field, problem.text, problem.value)
    return RuleViolation("unreadable", "payment", "must be readable", type(error).__name__)


def _select_row(requests: Requests, row: int) -> Requests:
    """The requests reduced to one payment."""
    own = slice(row, row + 1)
    histories = {
        name: replace(arrays, **{field: value[own] for field, value in vars(arrays).items()})
        for name, arrays in requests.histories.items()
    }
    return Requests(
        ids=requests.ids[own],
        time_seconds=requests.time_seconds[own],
        histories=histories,
        engineered=requests.engineered[own],
        seen=requests.seen.only(own),
    )
