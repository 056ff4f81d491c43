"""A market: which columns a payment log has and what they mean, checked and fingerprinted.

The one place that knows the rules of a market file. It does not know any market's column names, and never opens a log.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from tsa import toml
from tsa.errors import MarketError
from tsa.tables import (
    DAY_SECONDS,
    SPLITS,
    Categorical,
    Evaluation,
    Event,
    Exclude,
    Features,
    HistoryKey,
    Label,
    Numerical,
    Split,
    Table,
)

__all__ = [
    "DAY_SECONDS",
    "SPLITS",
    "Categorical",
    "Evaluation",
    "Event",
    "Exclude",
    "Features",
    "HistoryKey",
    "Label",
    "Market",
    "Numerical",
    "Split",
]


class Market(Table):
    """A market file, checked. Make one with `Market.load`; equal meaning gives an equal `fingerprint`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    event: Event
    label: Label
    history: tuple[HistoryKey, ...]
    features: Features = Features()
    split: Split = Split(fractions=(0.7, 0.1, 0.1, 0.1))
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _rules(self) -> Self:
        found = [*_range_findings(self.split, self.label), *_name_findings(self), *_role_findings(self)]
        if found:
            raise ValueError("\n".join(found))
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Market:
        """Read a market file, what it extends, and `key=value` overrides. Raises MarketError listing every finding."""
        layers = toml.read_layers(Path(path))
        for text in overrides:
            layers.append(toml.override_layer(text, toml.fold(layers, _join)))
        return _checked(toml.fold(layers, _join), str(path), layers)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Market:
        """The market that `to_dict` wrote. Raises MarketError."""
        return _checked(dict(table), "market", [toml.Layer(origin="market", table=dict(table))])

    def override(self, texts: Sequence[str]) -> Market:
        """This market with `key=value` overrides. Raises MarketError listing every finding."""
        layers = [toml.Layer(origin=f"market {self.name}", table=self.to_dict())]
        for text in texts:
            layers.append(toml.override_layer(text, toml.fold(layers, _join)))
        return _checked(toml.fold(layers, _join), f"market {self.name}", layers)

    def to_dict(self) -> dict[str, Any]:
        """The meaning as plain JSON values, defaults filled in."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def fingerprint(self) -> str:
        """sha256 of the meaning: not of key order, comments, `extends` or the spelling of dates."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    @property
    def raw_columns(self) -> tuple[str, ...]:
        """Columns that a clean table keeps under their own names, each once: id, keys, amount, features, segments."""
        amount = () if self.event.amount is None else (self.event.amount,)
        keys = (history.key for history in self.history)
        return tuple(dict.fromkeys((self.event.id, *keys, *amount, *self.features.names, *self.evaluation.segments)))

    @property
    def entity(self) -> HistoryKey:
        """The history whose keys are ranked in the report."""
        return next(h for h in self.history if self.evaluation.entity in (None, h.name))


def _join(lower: toml.Table, upper: toml.Table) -> toml.Table:
    """Merge, but let one form of a split replace the other instead of clashing with it."""
    below, above = lower.get("split"), upper.get("split")
    if isinstance(below, dict) and isinstance(above, dict):
        gone = set(SPLITS) if "fractions" in above else {"fractions"} if set(SPLITS) & set(above) else set()
        lower = {**lower, "split": {key: value for key, value in below.items() if key not in gone}}
    return toml.merge(lower, upper)


def _checked(table: toml.Table, source: str, layers: Sequence[toml.Layer]) -> Market:
    try:
        return Market.model_validate(table)
    except ValidationError as error:
        found = toml.findings(error, Market, layers, source)
    count = f"{len(found)} findings" if len(found) > 1 else "1 finding"
    raise MarketError("\n  ".join([f"{source}: {count}", *found]))


def _range_findings(split: Split, label: Label) -> Iterator[str]:
    ranges = split.ranges
    for name, (start, end) in ranges.items():
        if not start < end:
            yield f"split.{name}: must start before it ends, however: {start.isoformat()} to {end.isoformat()}"
    fitted = [name for name in ranges if name != "test"]
    for earlier, later in itertools.pairwise(fitted):
        end, start = ranges[earlier][1], ranges[later][0]
        if start < end:
            rule = f"must not start before {earlier} ends at {end.isoformat()}"
            yield f"split.{later}: {rule}, however: {start.isoformat()}"
    if ranges:
        needed = max(ranges[name][1] for name in fitted) + timedelta(seconds=label.gap_seconds)
        start = ranges["test"][0]
        if start < needed:
            delay = f"{label.gap_seconds / DAY_SECONDS:g} days (label.delay_days)"
            rule = f"must start {delay} after the other ranges end, so not before {needed.isoformat()}"
            yield f"split.test: {rule}, however: {start.isoformat()}"


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _name_findings(market: Market) -> Iterator[str]:
    features, names = market.features, [history.name for history in market.history]
    if not names:
        yield "history: at least one history is needed, however: there is none"
    for name in _twice(names):
        yield f"history: names must be unique, however: {name!r} stands twice"
    for name in _twice([*features.names, *features.calendar]):
        yield f"features: names must be unique over all kinds of features, however: {name!r} stands twice"
    for name in _twice(market.evaluation.segments):
        yield f"evaluation.segments: must be unique, however: {name!r} stands twice"
    if market.evaluation.entity not in (None, *names):
        yield f"evaluation.entity: must be one of the histories {names}, however: {market.evaluation.entity!r}"


def _role_findings(market: Market) -> Iterator[str]:
    """Columns that would leak the outcome, or that mean nothing as an input."""
    event, label = market.event, market.label
    if event.amount in {feature.name for feature in market.features.categorical}:
        yield f"event.amount: must be a number, not a categorical feature, however: {event.amount!r}"
    if event.id == event.time:
        yield f"event.time: must be another column than event.id, however: both are {event.id!r}"
    outcome = {label.column: "label.column", **({label.known_at: "label.known_at"} if label.known_at else {})}
    if label.column == label.known_at:
        yield f"label.known_at: must be another column than label.column, however: both are {label.column!r}"
    uses = [("event.id", event.id), ("event.time", event.time), ("event.amount", event.amount)]
    uses += [(f"history.{history.name}.key", history.key) for history in market.history]
    uses += [("features", name) for name in market.features.names]
    uses += [("evaluation.segments", name) for name in market.evaluation.segments]
    for use, column in uses:
        if column in outcome:
            yield f"{use}: must not be {outcome[column]} (the outcome would leak), however: {column!r}"
        if use == "features" and column == event.id:
            yield f"features: must not be event.id (it names a payment, it says nothing of it), however: {column!r}"
        if use[:5] != "event" and column == event.time:
            yield f"{use}: must not be event.time (use features.calendar for the time of day), however: {column!r}"
