"""Records: what a history store keeps of a payment beside its place in histories, as JSON.

That is its clean values, from which it can be encoded anew, what became of it, and what was answered, so that the same
request gets the same answer. It does not know engines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import orjson

from tsa.data.online.payments import EncodedPayments
from tsa.errors import HistoryError


@dataclass(frozen=True, kw_only=True)
class Record:
    """One payment."""

    time_seconds: float
    keys: Mapping[str, str | None]
    """By history; None: it has no history there."""
    raw: Mapping[str, Any]
    """Clean values by column, veiled where the market asks for it."""
    label: int = -1
    known_at_seconds: float = math.inf
    answer: Mapping[str, Any] | None = None
    """The scores that were given; None for a payment that came with a log and was never asked for."""

    @classmethod
    def of(cls, payments: EncodedPayments, row: int, answer: Mapping[str, Any] | None) -> Self:
        """The record of one of several payments. A new payment has no outcome yet."""
        keys = {name: found[row] for name, found in payments.keys.items()}
        time_seconds = float(payments.time_seconds[row])
        return cls(time_seconds=time_seconds, keys=keys, raw=payments.raw[row], answer=answer)

    def pack(self) -> bytes:
        """The record as JSON."""
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
        """The record in this JSON. Raises HistoryError for anything else."""
        try:
            found = orjson.loads(data)
            known_at = found["known_at"]
            return cls(
                time_seconds=float(found["time"]),
                keys=found["keys"],
                raw=found["raw"],
                label=found["label"],
                known_at_seconds=math.inf if known_at is None else float(known_at),
                answer=found["answer"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise HistoryError(f"a payment's record cannot be read: {error!r}") from error

    def first_difference(self, time_seconds: float, raw: Mapping[str, Any]) -> str | None:
        """The first column that a payment with this record's id has another value in; "time" is its time.

        Columns that only one of the two has do not count: bundles of one market may read more columns or fewer.
        """
        if time_seconds != self.time_seconds:
            return "time"
        return next((name for name, value in raw.items() if name in self.raw and self.raw[name] != value), None)

    def with_result(self, answer: Mapping[str, Any]) -> Record:
        """The record with the answer that was given."""
        return replace(self, answer=answer)

    def with_outcome(self, label: int, known_at_seconds: float) -> Record:
        """The record after a report of its outcome.

        The same outcome counts from the earliest report on. Another one takes its place if it was reported at the same
        time or later; an older report changes nothing.
        """
        if self.label == -1:
            return replace(self, label=label, known_at_seconds=known_at_seconds)
        if label == self.label:
            return replace(self, known_at_seconds=min(known_at_seconds, self.known_at_seconds))
        later = known_at_seconds >= self.known_at_seconds
        return replace(self, label=label, known_at_seconds=known_at_seconds) if later else self
