"""The names and order of the fields of a market's wire rows. The other modules of `tsa.data.wire` use this order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.config.wire import InlineHistory
from tsa.errors import MarketError


@dataclass(frozen=True, kw_only=True)
class FieldPart:
    """The categorical or the numerical half of a history: one field per feature, then the times and the ids.

    `first` is the index of its first field among all history fields of the row.
    """

    first: int
    features: tuple[str, ...]
    fields: tuple[str, ...]

    @property
    def time(self) -> int:
        """Index of the field with the times."""
        return self.first + len(self.features)

    @property
    def id(self) -> int:
        """Index of the field with the ids."""
        return self.first + len(self.features) + 1

    @property
    def stop(self) -> int:
        """The index after the last field."""
        return self.first + len(self.features) + 2


@dataclass(frozen=True, kw_only=True)
class HistoryFields:
    """One history: its parts in the order categorical, numerical. A part without features is left out."""

    name: str
    length: int
    kinds: tuple[str, ...]
    """Of each part: "categorical" or "numerical"."""
    parts: tuple[FieldPart, ...]
    batches: tuple[int, ...]
    """Indices of the fields that say how many payments each batch of fields covers; empty if all are written at once."""

    @property
    def fields(self) -> slice:
        """Indices of all its fields."""
        return slice(self.parts[0].first, self.parts[-1].stop)


@dataclass(frozen=True)
class FieldLayout:
    """All fields of a market's wire rows."""

    market: Market

    @cached_property
    def wire(self) -> InlineHistory:
        """The market's [wire] section. Raises MarketError for a market of logs."""
        if self.market.wire is None:
            raise MarketError(
                f"market {self.market.name!r} must have a [wire] section to read rows that carry their history"
            )
        return self.market.wire

    @cached_property
    def categorical(self) -> tuple[str, ...]:
        """Names of the C categorical features."""
        return tuple(feature.name for feature in self.market.features.categorical)

    @cached_property
    def numerical(self) -> tuple[str, ...]:
        """Names of the F numerical features."""
        return tuple(feature.name for feature in self.market.features.numerical)

    @cached_property
    def numeric(self) -> frozenset[str]:
        """Categorical features that hold integers."""
        return frozenset(self.wire.numeric_categorical)

    @cached_property
    def decimal(self) -> frozenset[str]:
        """Categorical features that hold numbers with a fraction."""
        return frozenset(self.wire.decimal_categorical or ())

    @cached_property
    def engineered(self) -> tuple[str, ...]:
        """Names of the G engineered features."""
        return tuple(feature.name for feature in self.market.features.engineered)

    @cached_property
    def events(self) -> tuple[str, ...]:
        """Names of the C + F features that histories contain."""
        return (*self.categorical, *self.numerical)

    @cached_property
    def histories(self) -> tuple[HistoryFields, ...]:
        """For each history of the market, the positions of its fields in `history_fields`."""
        histories: list[HistoryFields] = []
        first = 0
        for history in self.market.history:
            parts, kinds = [], []
            groups = {"categorical": self.categorical, "numerical": self.numerical}
            for part, (kind, features) in zip(self.wire.parts, groups.items(), strict=True):
                if features:
                    kinds.append(kind)
                    fields = [self.wire.field(history.name, part, name) for name in features]
                    event = self.market.event
                    fields += [self.wire.event_field_name(history.name, part, name) for name in (event.time, event.id)]
                    parts.append(FieldPart(first=first, features=features, fields=tuple(fields)))
                    first = parts[-1].stop
            places = {name: part.first + at for part in parts for at, name in enumerate(part.features)}
            batches = tuple(places[name] for name in self.wire.batches or ())
            histories.append(
                HistoryFields(
                    name=history.name, length=history.length, kinds=tuple(kinds), parts=tuple(parts), batches=batches
                )
            )
        return tuple(histories)

    @cached_property
    def history_fields(self) -> tuple[str, ...]:
        """The K fields that contain earlier payments."""
        return tuple(field for history in self.histories for part in history.parts for field in part.fields)

    @cached_property
    def times(self) -> NDArray[np.int64]:
        """Indices of the fields with times in `history_fields`."""
        return np.array([part.time for history in self.histories for part in history.parts])

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """Indices of all fields that hold numbers: features and times."""
        numerical = [
            place
            for history in self.histories
            for kind, part in zip(history.kinds, history.parts, strict=True)
            for place in range(part.first if kind == "numerical" else part.time, part.id)
        ]
        return np.array(numerical)

    @cached_property
    def current(self) -> tuple[str, ...]:
        """The payment's own fields that a score needs: features, time, id; each once."""
        event = self.market.event
        return tuple(dict.fromkeys((*self.market.features.names, event.time, event.id)))

    @cached_property
    def others(self) -> tuple[str, ...]:
        """Other columns of a file: keys, amount, segments, excluded columns and the outcome. They may be empty."""
        market = self.market
        known_at = () if market.label.known_at is None else (market.label.known_at,)
        excluded = (rule.column for rule in market.features.exclude)
        names = dict.fromkeys((*market.raw_columns, market.label.column, *known_at, *excluded))
        return tuple(name for name in names if name not in self.current)
