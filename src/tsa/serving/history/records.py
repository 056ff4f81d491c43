"""The record of a payment in a history store, as JSON: its clean values, outcome and answer.

From the values it can be encoded again; with the answer, a repeated request gets the same result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import orjson

from tsa.config.market import Market
from tsa.data.online.encoded import EncodedPayments
from tsa.data.online.histories import Key
from tsa.errors import HistoryError


@dataclass(frozen=True, kw_only=True)
class Record:
    """One payment."""

    time_seconds: float
    keys: Mapping[str, str | list[str | None] | None]
    """Key by history name, or a list where several columns name keys; None if the payment has no key there."""
    raw: Mapping[str, Any]
    """Clean values by column, pseudonymized where the market asks for it."""
    label: int = -1
    known_at_seconds: float = math.inf
    answer: Mapping[str, Any] | None = None
    """The stored fields of the result; None for a payment that was loaded from a log and never scored."""

    @classmethod
    def of(cls, market: Market, payments: EncodedPayments, row: int, answer: Mapping[str, Any] | None) -> Self:
        """Create the record of payment `row`, which has no outcome yet."""
        keys: dict[str, str | list[str | None] | None] = {}
        for history in market.history:
            own = [payments.keys[view.name][row] for view in history.views]
            keys[history.name] = own[0] if history.keys is None else own
        time_seconds = float(payments.time_seconds[row])
        return cls(time_seconds=time_seconds, keys=keys, raw=payments.raw[row], answer=answer)

    def pack(self) -> bytes:
        """Encode as JSON."""
        known_at = None if math.isinf(self.known_at_seconds) else self.known_at_seconds
        return orjson.dumps(
            {
                "time": self.time_seconds,
                "keys": self.keys,
                "raw": self.raw,
                "label": self.label,
                "known_at": known_at,
                "answer": self.answer,
            }
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Decode a record. Raises HistoryError if the JSON is invalid."""
        try:
            fields = orjson.loads(data)
            known_at = fields["known_at"]
            return cls(
                time_seconds=float(fields["time"]),
                keys=fields["keys"],
                raw=fields["raw"],
                label=fields["label"],
                known_at_seconds=math.inf if known_at is None else float(known_at),
                answer=fields["answer"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise HistoryError(f"a payment's record cannot be read: {error!r}") from error

    @property
    def places(self) -> list[Key]:
        """The histories that the payment is in, with its key there: each once."""
        keys = ((name, of if isinstance(of, list) else [of]) for name, of in self.keys.items())
        return list(dict.fromkeys((name, key) for name, own in keys for key in own if key is not None))

    def first_difference(self, time_seconds: float, raw: Mapping[str, Any]) -> str | None:
        """The first column in which a payment with the same id differs from this record; "time" for its time.

        Columns that only one of the two has are ignored: bundles of one market may read different columns.
        """
        if time_seconds != self.time_seconds:
            return "time"
        return next((name for name, value in raw.items() if name in self.raw and self.raw[name] != value), None)

    def with_result(self, answer: Mapping[str, Any]) -> Record:
        """The record with the stored fields of a result."""
        return replace(self, answer=answer)

    def with_outcome(self, label: int, known_at_seconds: float) -> Record:
        """The record after a report of its outcome.

        The same outcome counts from its earliest report. A different one replaces it if reported at the same time or
        later; an older report changes nothing.
        """
        if self.label == -1:
            return replace(self, label=label, known_at_seconds=known_at_seconds)
        if label == self.label:
            return replace(self, known_at_seconds=min(known_at_seconds, self.known_at_seconds))
        later = known_at_seconds >= self.known_at_seconds
        return replace(self, label=label, known_at_seconds=known_at_seconds) if later else self
