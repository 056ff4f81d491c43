"""What a log of decisions records of a payment: its clean values, as the market's privacy rules allow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tsa.config.market import Market
from tsa.data.log.pseudonyms import Pseudonymizer
from tsa.data.online.encoded import EncodedPayments
from tsa.data.spelling import Spelling
from tsa.data.values import RuleViolation, RuleViolationError, normalise_text, parse_epoch_seconds
from tsa.data.wire.layout import FieldLayout
from tsa.data.wire.quarantine import secret_fields
from tsa.serving.results import PaymentDetails, ScoreResult

Row = Mapping[str, Any]
Histories = Mapping[str, Sequence[Row]]
Answer = ScoreResult | RuleViolation


class DetailsReader:
    """Reads the details of answered payments of a market."""

    def __init__(self, market: Market) -> None:
        self._market, self._spelling = market, Spelling.of(market)
        self._hidden = Pseudonymizer.of(market)
        label = market.label
        outcome: set[str | None] = {
            label.column,
            label.known_at,
            None if label.decision is None else label.decision.column,
        }
        if market.wire is None:
            events = {*market.raw_columns, market.event.time, *outcome} - market.derived_names
            self._fields = {name for name in events if name is not None}
        else:
            layout = FieldLayout(market)
            secret = set() if self._hidden is None else secret_fields(layout, self._hidden)
            self._fields = {*layout.current, *layout.others, *layout.history_fields} - secret - outcome

    def of_payments(
        self, payments: EncodedPayments, answers: Sequence[Answer], inline: Mapping[int, Histories]
    ) -> list[Answer]:
        """The answers to B payments with their details. inline: histories that came in the request, by payment."""
        return [
            replace(answer, details=self._payment(payments, row, inline.get(row)))
            if isinstance(answer, ScoreResult)
            else answer
            for row, answer in enumerate(answers)
        ]

    def of_wire_rows(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Answer]:
        """The answers to rows that carry their own history with their details."""
        return [
            replace(answer, details=self._wire_row(row)) if isinstance(answer, ScoreResult) else answer
            for row, answer in zip(rows, answers, strict=True)
        ]

    def _payment(self, payments: EncodedPayments, row: int, histories: Histories | None) -> PaymentDetails:
        keys = ((view.history, payments.keys[view.name][row]) for view in self._market.views)
        events = None
        if histories is not None:
            events = {name: [dict(self._allowed(event)) for event in own] for name, own in histories.items()}
        return PaymentDetails(
            id=payments.ids[row],
            time_seconds=float(payments.time_seconds[row]),
            keys=list(dict.fromkeys((history, key) for history, key in keys if key is not None)),
            values=payments.raw[row],
            role=int(payments.role[row]),
            histories=events,
        )

    def _wire_row(self, row: Row) -> PaymentDetails:
        values = dict(self._allowed(row))
        keys = ((view.history, _text(values.get(view.key or ""))) for view in self._market.views)
        return PaymentDetails(
            id=_text(values.get(self._market.event.id)),
            time_seconds=self._time(row),
            keys=list(dict.fromkeys((history, key) for history, key in keys if key is not None)),
            values=values,
        )

    def _allowed(self, row: Row) -> Iterator[tuple[str, Any]]:
        """The fields of the market, with pseudonyms where it asks for them."""
        for name, value in row.items():
            if name not in self._fields:
                continue
            if self._hidden is not None and name in self._hidden.columns:
                try:
                    text = normalise_text(value, name, self._spelling)
                except RuleViolationError:
                    continue  # a value that breaks a rule has no pseudonym
                value = None if text is None else self._hidden.of_text(text)
            yield name, value

    def _time(self, row: Row) -> float:
        name = self._market.event.time
        try:
            seconds = parse_epoch_seconds(row.get(name), name, self._market.event.time_unit, self._spelling)
        except RuleViolationError:
            return math.nan
        return math.nan if seconds is None else seconds


def _text(value: Any) -> str | None:
    return None if value is None or value == "" or isinstance(value, list | dict) else str(value)
