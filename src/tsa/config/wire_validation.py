"""The rules of a market whose rows carry their own history."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tsa.config.input import Input
from tsa.config.market_tables import MarketTables
from tsa.config.wire import InlineHistory


def wire_findings(market: MarketTables) -> Iterator[str]:
    """What breaks a rule of `[wire]`."""
    wire, features, names = market.wire, market.features, {history.name for history in market.history}
    if wire is None:
        return
    if market.reading.missing != Input().missing:
        yield (
            "input.missing: must not be given with a [wire] section, which has wire.missing (got both); leave one out"
        )
    for option in ("separator", "quote", "encoding", "decimal", "time_zone", "joined"):
        if getattr(market.reading, option) is not None:
            yield f"input.{option}: must not be given with a [wire] section (got both); leave it out"
    if market.event.time_unit is None:
        yield "event.time_unit: is required with a [wire] section: times in histories are numbers"
    if market.role_rules:
        keys = "event.scored, event.asks, label.decision"
        yield f"{keys}: must not be given with a [wire] section, whose rows are all scored (got both)"
    if market.label.as_feature:
        yield "label.as_feature: must be false with a [wire] section (histories contain no outcomes) (got true)"
    if not (features.categorical or features.numerical):
        yield "features: histories need categorical or numerical features (got none)"
    for name in sorted(set(wire.histories) - names):
        yield f"wire.histories: must be of the histories {sorted(names)} (got {name!r})"
    categorical = {feature.name for feature in features.categorical}
    for name in [name for name in wire.numeric_categorical if name not in categorical]:
        yield f"wire.numeric_categorical: must be categorical features (got {name!r})"
    for name in [name for name in wire.decimal_categorical or () if name not in categorical]:
        yield f"wire.decimal_categorical: must be categorical features (got {name!r})"
    for name in sorted(set(wire.decimal_categorical or ()) & set(wire.numeric_categorical)):
        yield f"wire.decimal_categorical: must not be in numeric_categorical as well (got {name!r})"
    in_histories = {*categorical, *(feature.name for feature in features.numerical)}
    for name in [name for name in wire.batches or () if name not in in_histories]:
        yield f"wire.batches: must be categorical or numerical features (got {name!r})"
    numbers = {feature.name for feature in (*features.numerical, *features.engineered)} | {market.event.time}
    for name, default in wire.defaults.items():
        if name not in categorical | numbers | {market.event.id}:
            yield f"wire.defaults: must be of features, event.time or event.id (got {name!r})"
        elif name in numbers and not is_finite(default):
            yield f"wire.defaults.{name}: must be a finite number (got {default!r})"
    events = [*categorical, *(feature.name for feature in features.numerical), market.event.time, market.event.id]
    for begin in [begin for begin in wire.prefixes or {} if not any(name.startswith(begin) for name in events)]:
        yield f"wire.prefixes: must begin a feature, event.time or event.id (got {begin!r})"
    for name in twice([*history_fields(market), *market.raw_columns, market.event.time, market.label.column]):
        yield f"wire: field names must be unique (patterns, exceptions), but {name!r} occurs twice"
    yield from _exception_findings(market, wire)


def _exception_findings(market: MarketTables, wire: InlineHistory) -> Iterator[str]:
    """Exceptions for a name that histories do not have."""
    features = market.features
    known = {*(feature.name for feature in features.categorical), *(feature.name for feature in features.numerical)}
    known |= {f"{part}.{name}" for part in wire.parts for name in (market.event.time, market.event.id)}
    tables = {
        "wire": wire.exceptions,
        **{f"wire.histories.{k}": h.exceptions for k, h in wire.histories.items()},
    }
    for place, exceptions in tables.items():
        for name in sorted(set(exceptions) - known):
            rule = "must be a categorical or numerical feature, or PART.TIME or PART.ID"
            yield f"{place}.exceptions: {rule} (got {name!r})"


def history_fields(market: MarketTables) -> Iterator[str]:
    """Every field of a wire row that contains earlier payments. Parts without features are left out."""
    wire, features = market.wire, market.features
    assert wire is not None
    for history in market.history:
        groups = [feature.name for feature in features.categorical], [feature.name for feature in features.numerical]
        for part, group in zip(wire.parts, groups, strict=True):
            if group:
                yield from (wire.field(history.name, part, name) for name in group)
                yield from (
                    wire.event_field_name(history.name, part, name) for name in (market.event.time, market.event.id)
                )


def is_finite(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def twice(names: Sequence[str]) -> list[str]:
    """The names that occur more than once."""
    return sorted({name for name in names if names.count(name) > 1})
