"""`AggregateSpec`: which aggregates are computed, in which order, and the units that numbers are counted in.

It is made once, when a model is trained, and saved as JSON with the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.aggregates.kernels import VALUE_BITS
from tsa.data.key_roles import PARTNER
from tsa.data.raw_values import number_columns
from tsa.errors import StoreError

if TYPE_CHECKING:
    from tsa.data.store.store import EventStore

VERSION = 1
ALL = "all"
"""Name of the window that holds all visible events."""

DETAILED = 4
"""This many numerical features use every window; the others use all events only."""

COMPARED = 12
"""This many categorical features have all statistics of `Kind` "same"; the others only a count."""

OUTCOME_SECONDS = 86_400
"""Outcomes are counted in windows of at least a day: most become known after days."""

SAMPLE_ROWS = 200_000
"""Training rows that the units of numbers are taken from."""

Kind = Literal["events", "gap", "number", "categorical", "key", "outcome", "fraud_number"]


@dataclass(frozen=True)
class Aggregate:
    """One column."""

    history: str
    kind: Kind
    feature: str
    """The numerical or categorical feature, or the other history; empty for the rest."""
    statistic: str
    window: str
    """As in the market file, or "all"."""
    role: str = ""
    """The column of keys in which the aggregated events have the key; empty for all events."""

    @property
    def name(self) -> str:
        """Such as `customer/number/amount/mean_7d`. A history's name has no slash, so no two aggregates share one."""
        role = f"as {self.role}" if self.role else ""
        parts = (self.history, role, self.kind, self.feature, f"{self.statistic}_{self.window}")
        return "/".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class AggregateSpec:
    """The aggregates of a market's histories."""

    histories: tuple[str, ...]
    """In the market's order."""
    keys: tuple[str, ...]
    """Histories whose keys are among the tokens, in that order; none if rows carry their own history."""
    categorical: tuple[str, ...]
    numerical: tuple[str, ...]
    scale: tuple[float, ...]
    """Per numerical feature: units per 1 of the value."""
    windows: tuple[str, ...]
    window_seconds: tuple[int, ...]
    history_length: int | None
    """Events that an aggregate sees of a key, the current one included; None for all."""
    outcomes: bool
    """Whether outcomes of earlier events are used."""
    raw: bool
    """Whether events are compared by their texts and numbers as they are, or encoded: if rows carry their history."""
    roles: tuple[tuple[str, ...], ...] = ()
    """Of each history with several columns of keys: its name and these columns, its roles."""

    @classmethod
    def of(cls, store: EventStore, rows: NDArray[np.int64], *, history_length: int | Literal["market"] | None) -> Self:
        """The aggregates of a store's market.

        Args:
            rows: Training rows, which give the units of numbers.
            history_length: Events that an aggregate sees, None for all, or "market" for the market's setting.
        """
        market, settings = store.market, store.market.aggregation
        raw = market.wire is None
        rows = np.asarray(rows)
        sample = rows[:: max(1, len(rows) // SAMPLE_ROWS)]
        numbers = store.raw_numerical if raw else store.numerical
        assert numbers is not None
        names = number_columns(market)
        return cls(
            histories=tuple(view.name for view in market.views),
            keys=tuple(sorted(view.name for view in market.views)) if raw else (),
            categorical=tuple(feature.name for feature in market.features.categorical),
            numerical=names,
            scale=tuple(unit_scale(np.asarray(numbers[sample, at], np.float64)) for at in range(len(names))),
            windows=settings.windows,
            window_seconds=settings.window_seconds,
            history_length=settings.history_length if history_length == "market" else history_length,
            outcomes=market.label.as_feature,
            raw=raw,
            roles=tuple((view.name, *view.columns) for view in market.views if view.has_roles),
        )

    @cached_property
    def aggregates(self) -> tuple[Aggregate, ...]:
        """All columns, history after history."""
        return tuple(aggregate for history in self.histories for aggregate in self.of_history(history))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Their names, all different. They have a slash after the history's name."""
        return tuple(aggregate.name for aggregate in self.aggregates)

    def of_history(self, history: str) -> list[Aggregate]:
        """The columns of one history, in the order of `tsa.data.aggregates.columns`."""
        spans = (*self.windows, ALL)
        made: list[tuple[Kind, str, str, str]] = [("events", "", "count", span) for span in spans]
        made += [("gap", "", name, ALL) for name in GAPS]
        for at, feature in enumerate(self.numerical):
            for span in spans if at < DETAILED else (ALL,):
                made += [("number", feature, name, span) for name in NUMBERS]
        for kind, feature in self.compared(history):
            made += [(kind, feature, name, ALL) for name in SAME]
        made += [("categorical", feature, SAME[0], ALL) for feature in self.categorical[COMPARED:]]
        if self.outcomes:
            for span in (*self.outcome_windows, ALL):
                made += [("outcome", "", name, span) for name in OUTCOMES]
            made += [("outcome", "", name, ALL) for name in LAST_OUTCOMES]
            for feature in self.numerical[:DETAILED]:
                made += [("fraud_number", feature, name, ALL) for name in FRAUD_NUMBERS]
        every = tuple(map(str, range(self.n_roles)))
        of_roles = (
            Aggregate(history, *column, role)
            for role in self.roles_of.get(history, () if history else every)
            for column in self._of_role()
        )
        return [*(Aggregate(history, *column) for column in made), *of_roles]

    def _of_role(self) -> list[tuple[Kind, str, str, str]]:
        """The columns of the events in one role."""
        spans = (*self.windows, ALL)
        made: list[tuple[Kind, str, str, str]] = [("events", "", "count", span) for span in spans]
        made += [("gap", "", name, ALL) for name in GAPS]
        made += [("number", feature, name, ALL) for feature in self.numerical[:DETAILED] for name in NUMBERS]
        if self.outcomes:
            for span in (*self.outcome_windows, ALL):
                made += [("outcome", "", name, span) for name in OUTCOMES]
            made += [("outcome", "", name, ALL) for name in LAST_OUTCOMES]
            made += [("fraud_number", f, name, ALL) for f in self.numerical[:DETAILED] for name in FRAUD_NUMBERS]
        return made

    @cached_property
    def roles_of(self) -> dict[str, tuple[str, ...]]:
        """By history with several columns of keys: these columns."""
        return {name: tuple(columns) for name, *columns in self.roles}

    def key_columns(self, histories: Sequence[str]) -> list[list[int]]:
        """For each history the columns of tokens with its keys, where these are several; empty if no history has roles."""
        members = []
        for history in histories if self.roles else ():
            columns = self.roles_of.get(history, ())
            views = [name for name, others in self.roles_of.items() if others == columns][: len(columns)]
            members.append([len(self.categorical) + self.keys.index(view) for view in views])
        return members

    @cached_property
    def has_partners(self) -> bool:
        """Whether a history has two columns of keys, so that an event has another key, its partner."""
        return any(len(columns) == 2 for columns in self.roles_of.values())

    @cached_property
    def n_roles(self) -> int:
        """The most columns of keys that a history has; 0 if each has one."""
        return max((len(columns) for columns in self.roles_of.values()), default=0)

    @cached_property
    def stored_columns(self) -> dict[str, NDArray[np.int64]]:
        """By history: which of the columns that compare every key are its own columns, all but those of its own key."""
        every = self.of_history("")
        left_out = {
            name: [
                (one.kind == "key" and one.feature == name and name not in self.roles_of)
                or (one.kind == "key" and one.feature == PARTNER and len(self.roles_of.get(name, ())) != 2)
                or (one.role != "" and int(one.role) >= len(self.roles_of.get(name, ())))
                for one in every
            ]
            for name in self.histories
        }
        return {name: np.flatnonzero(~np.array(flags)) for name, flags in left_out.items()}

    def compared(self, history: str) -> list[tuple[Kind, str]]:
        """What the current event's value of is looked for among the earlier events of a history."""
        features: list[tuple[Kind, str]] = [("categorical", feature) for feature in self.categorical[:COMPARED]]
        keys = [key for key in self.keys if key != history or key in self.roles_of]
        has_partner = len(self.roles_of.get(history, ())) == 2 if history else self.has_partners
        return features + [("key", key) for key in ([*keys, PARTNER] if has_partner else keys)]

    @cached_property
    def outcome_windows(self) -> tuple[str, ...]:
        """The windows that outcomes are counted in."""
        pairs = zip(self.windows, self.window_seconds, strict=True)
        return tuple(window for window, seconds in pairs if seconds >= OUTCOME_SECONDS)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "version": VERSION,
            "histories": list(self.histories),
            "keys": list(self.keys),
            "categorical": list(self.categorical),
            "numerical": list(self.numerical),
            "scale": list(self.scale),
            "windows": list(self.windows),
            "window_seconds": list(self.window_seconds),
            "history_length": self.history_length,
            "outcomes": self.outcomes,
            "raw": self.raw,
            **({"roles": [list(role) for role in self.roles]} if self.roles else {}),
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """What `to_dict` wrote. Raises StoreError for anything else."""
        try:
            if table["version"] != VERSION:
                raise StoreError(f"aggregates: this program reads version {VERSION} (got version={table['version']!r})")
            table = {**table, "roles": [tuple(role) for role in table.get("roles", ())]}
            fields: dict[str, Any] = {name: table[name] for name in cls.__dataclass_fields__}
            fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise StoreError(f"aggregates must be as this program writes it (got {error!r})") from error

    def check_market(self, market: Market) -> None:
        """Raise StoreError if these are not aggregates of the market's features and histories."""
        declared = {
            "histories": tuple(view.name for view in market.views),
            "roles": tuple((view.name, *view.columns) for view in market.views if view.has_roles),
            "categorical": tuple(feature.name for feature in market.features.categorical),
            "numerical": number_columns(market),
        }
        for name, expected in declared.items():
            if getattr(self, name) != expected:
                raise StoreError(
                    f"aggregates: {name} must be those of market {market.name!r}, {list(expected)} "
                    f"(got {list(getattr(self, name))})"
                )


GAPS = ("last_seconds", "before_seconds", "mean_seconds", "first_seconds")
NUMBERS = ("total", "mean", "std", "highest", "ratio", "difference")
SAME = ("count", "last_seconds", "share", "distinct")
OUTCOMES = ("known", "fraud", "fraud_rate")
LAST_OUTCOMES = ("last_fraud_seconds", "first_fraud_seconds", "last_is_fraud")
FRAUD_NUMBERS = ("mean", "ratio")


def unit_scale(values: NDArray[np.float64]) -> float:
    """Units per 1 of a value (n,): a power of ten, so that amounts in cents stay exact.

    2^31 units hold a thousand times the greatest usual value (99.9 % of them), and 1 unit is at most a millionth of it.
    """
    finite = np.abs(values[np.isfinite(values)])
    usual = float(np.quantile(finite, 0.999)) if len(finite) else 0.0
    if usual <= 0.0:
        usual = float(finite.max(initial=0.0)) or 1.0
    return 10.0 ** math.floor(math.log10(2.0**VALUE_BITS / 1000.0 / usual))
