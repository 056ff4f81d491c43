"""The columns that boosted trees read of a payment: its own values, then the aggregates of its histories.

One code serves stores, single payments and rows that carry their history, and gives the same bits for the same payment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.aggregates.compute import compute_aggregates
from tsa.data.aggregates.spec import AggregateSpec
from tsa.data.encoding.encoder import Encoder
from tsa.data.history import EventHistories
from tsa.data.store.store import EventStore
from tsa.errors import StoreError
from tsa.times import DAY_SECONDS

Array = NDArray[Any]
VERSION = 1
CALENDAR = ("hour_of_day", "day_of_week")
ROWS_AT_ONCE = 65_536
"""Payments whose columns are in memory together."""


@dataclass(frozen=True, kw_only=True)
class TreeColumns:
    """K columns: numerical, engineered, calendar and categorical values of the payment, then aggregates."""

    aggregates: AggregateSpec
    numerical: tuple[str, ...]
    """As they are, NaN for missing; scaled, with missing indicators, if rows carry their history."""
    engineered: tuple[str, ...]
    """Scaled."""
    categorical: tuple[str, ...]
    """Rows of the encoder."""

    @classmethod
    def of(
        cls, store: EventStore, rows: NDArray[np.int64], *, history_length: int | Literal["market"] | None = "market"
    ) -> Self:
        """The columns of a store's market. rows: training rows, which give the units of the aggregates."""
        spec = AggregateSpec.of(store, rows, history_length=history_length)
        return cls(aggregates=spec, **_own(spec, store.encoder))

    @property
    def own(self) -> tuple[str, ...]:
        """The names of the columns of the payment itself."""
        return (*self.numerical, *self.engineered, *CALENDAR, *self.categorical)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """(K,) names; those of aggregates have slashes after the history's name."""
        return (*self.own, *self.aggregates.names)

    @property
    def codes(self) -> list[int]:
        """Positions of the columns that are codes, not quantities."""
        first = len(self.own) - len(self.categorical)
        return list(range(first, len(self.own)))

    def of_store(self, store: EventStore, rows: NDArray[np.int64]) -> Array:
        """(R, K) float32 columns of the events `rows` (R,) of a store, in any order."""
        return self._joined(
            store, rows, np.asarray(store.engineered[rows]), compute_aggregates(self.aggregates, store, rows)
        )

    def of_payments(self, seen: EventHistories, engineered: Array) -> Array:
        """(B, K) float32 columns of B single payments, the first of the events. engineered: (B, G)."""
        rows = np.arange(len(engineered))
        return self._joined(seen, rows, engineered, compute_aggregates(self.aggregates, seen))

    def parts(self, store: EventStore, rows: NDArray[np.int64]) -> Iterator[Array]:
        """As `of_store`, in parts of `ROWS_AT_ONCE` payments."""
        for first in range(0, len(rows), ROWS_AT_ONCE):
            yield self.of_store(store, rows[first : first + ROWS_AT_ONCE])

    def _joined(self, seen: EventStore | EventHistories, rows: Array, engineered: Array, aggregates: Array) -> Array:
        events = seen.events
        numbers = events.raw_numerical if self.aggregates.raw else events.numerical
        assert numbers is not None
        time = np.take(events.time_seconds, rows)
        # the epoch began on a Thursday; 0 is Monday
        calendar = np.stack([time % DAY_SECONDS / 3600, (time // DAY_SECONDS + 3) % 7], axis=1)
        codes = np.take(events.categorical, rows, axis=0)[:, : len(self.categorical)]
        parts = (np.take(numbers, rows, axis=0), engineered, calendar, codes, aggregates)
        columns = np.concatenate([np.asarray(part, np.float32) for part in parts], axis=1)
        return columns

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = {name: list(getattr(self, name)) for name in ("numerical", "engineered", "categorical")}
        return {"version": VERSION, **names, "aggregates": self.aggregates.to_dict()}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote. Raises StoreError."""
        try:
            if table["version"] != VERSION:
                raise StoreError(f"columns of trees: this program reads version {VERSION} (got {table['version']!r})")
            names = {name: tuple(map(str, table[name])) for name in ("numerical", "engineered", "categorical")}
            return cls(aggregates=AggregateSpec.from_dict(table["aggregates"]), **names)
        except (KeyError, TypeError) as error:
            raise StoreError(f"columns of trees must be as this program writes it (got {error!r})") from error

    def check(self, market: Market, encoder: Encoder) -> None:
        """Raise StoreError if these are not columns of the market and encoder."""
        self.aggregates.check_market(market)
        for name, expected in _own(self.aggregates, encoder).items():
            if getattr(self, name) != expected:
                raise StoreError(
                    f"columns of trees: {name} must be those of the encoder, {list(expected)} "
                    f"(got {list(getattr(self, name))})"
                )


def _own(spec: AggregateSpec, encoder: Encoder) -> dict[str, tuple[str, ...]]:
    return {
        "numerical": spec.numerical if spec.raw else tuple(encoder.numerical_names),
        "engineered": tuple(encoder.engineered_names),
        "categorical": tuple(vocabulary.name for vocabulary in encoder.categorical_vocabularies),
    }
