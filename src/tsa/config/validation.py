"""The rules between the sections of a market file. Each error is one line: `key: rule (got value)`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta

from tsa.config.derived import NUMBERS, TEXTS
from tsa.config.legacy import LegacyArtifacts
from tsa.config.market_tables import MarketTables
from tsa.config.reason_texts import Reasons
from tsa.config.split import Split
from tsa.config.tables import Label
from tsa.config.wire_validation import history_fields, is_finite, twice, wire_findings
from tsa.times import DAY_SECONDS

MARK = " is missing"
"""Ending of the names of missing-value indicators of numerical features."""


def findings(market: MarketTables) -> Iterator[str]:
    """What breaks a rule between sections."""
    yield from _range_findings(market.split, market.label)
    for rules in RULES:
        yield from rules(market)


def _range_findings(split: Split, label: Label) -> Iterator[str]:
    ranges = split.ranges
    for name, (start, end) in ranges.items():
        if not start < end:
            yield f"split.{name}: must start before it ends (got {start.isoformat()} to {end.isoformat()})"
    fitted = [name for name in ranges if name != "test"]
    for earlier, later in itertools.pairwise(fitted):
        end, start = ranges[earlier][1], ranges[later][0]
        if start < end:
            rule = f"must not start before {earlier} ends at {end.isoformat()}"
            yield f"split.{later}: {rule} (got {start.isoformat()})"
    if fitted and "test" in ranges:
        needed = max(ranges[name][1] for name in fitted) + timedelta(seconds=label.gap_seconds)
        start = ranges["test"][0]
        if start < needed:
            delay = f"{label.gap_seconds / DAY_SECONDS:g} days (label.delay_days)"
            rule = f"must start {delay} after the other ranges end, so not before {needed.isoformat()}"
            yield f"split.test: {rule} (got {start.isoformat()})"


def _promotion_findings(market: MarketTables) -> Iterator[str]:
    names = () if market.promotion is None else market.promotion.segments or ()
    for name in (name for name in names if name not in market.raw_columns):
        yield f"promotion.segments: must be columns of the market, such as evaluation.segments (got {name!r})"


def _name_findings(market: MarketTables) -> Iterator[str]:
    features, names = market.features, [view.name for view in market.views]
    if not names:
        yield "history: at least one history is needed (got none)"
    for history in market.history:
        if not history.columns and market.wire is None:
            yield f"history.{history.name}.key: is required unless rows carry their own history (a [wire] section)"
        if history.keys is not None and market.wire is not None:
            yield f"history.{history.name}.keys: must not be given with a [wire] section (got both): give one key"
    own = [history.name for history in market.history if history.keys is not None]
    for name in twice([*names, *own]):
        yield f"history: names must be unique (with keys: NAME and NAME_COLUMN), but {name!r} occurs twice"
    for name in twice([*features.names, *features.calendar, *market.role_names]):
        yield f"features: names must be unique over all kinds of features, but {name!r} occurs twice"
    for feature in (*features.numerical, *features.engineered):
        if feature.name.endswith(MARK):
            rule = f"must not end in {MARK!r}, which is for missing-value indicators (rename it in the log)"
            yield f"features: {rule} (got {feature.name!r})"
    for name in twice(market.evaluation.segments):
        yield f"evaluation.segments: must be unique, but {name!r} occurs twice"
    ignored = () if market.monitoring is None else market.monitoring.ignore
    for name in [name for name in ignored if name not in (*features.names, *features.calendar)]:
        yield f"monitoring.ignore: must be features (got {name!r})"
    if market.evaluation.entity not in (None, *names):
        yield f"evaluation.entity: must be one of the histories {names} (got {market.evaluation.entity!r})"


def _role_findings(market: MarketTables) -> Iterator[str]:
    """Columns that would leak the outcome, or are meaningless as an input."""
    event, label = market.event, market.label
    if event.amount in {feature.name for feature in market.features.categorical}:
        yield f"event.amount: must be a number, not a categorical feature (got {event.amount!r})"
    for name in ("id", "time"):
        if event.amount == getattr(event, name):
            yield f"event.amount: must be another column than event.{name} (got {event.amount!r}): leave it out if there is none"
    if event.id == event.time:
        yield f"event.time: must be another column than event.id, but both are {event.id!r}"
    outcome = {label.column: "label.column", **({label.known_at: "label.known_at"} if label.known_at else {})}
    if label.column == label.known_at:
        yield f"label.known_at: must be another column than label.column, but both are {label.column!r}"
    if label.decision is not None:  # only known after the score
        outcome[label.decision.column] = "label.decision"
    for use, column in _uses(market):
        if column in outcome:
            yield f"{use}: must not be {outcome[column]} (the outcome would leak) (got {column!r})"
        if use == "features" and column == event.id:
            yield f"features: must not be event.id (it identifies a payment and says nothing about it) (got {column!r})"
        if use[:5] != "event" and use[:16] != "features.derived" and column == event.time:
            yield f"{use}: must not be event.time (use features.calendar for the time of day) (got {column!r})"


def _derived_findings(market: MarketTables) -> Iterator[str]:
    """Derived features that cannot be computed, or are used as what they are not."""
    derived, names = market.features.derivations, market.derived_names
    if derived and market.wire is not None:
        yield "features.derived: must not be given with a [wire] section, whose rows carry all features (got both)"
    for name in twice([feature.name for feature in derived]):
        yield f"features.derived: names must be unique, but {name!r} occurs twice"
    own = {market.event.id, market.event.time, market.label.column, market.label.known_at}
    own |= {rule.column for rule in market.features.exclude}
    pseudonymised = set(() if market.privacy is None else market.privacy.pseudonymise)
    own |= {rule.column for rule in market.role_rules}
    for feature in derived:
        key, columns = (
            f"features.derived.{feature.name}",
            {item.column for item in feature.inputs(market.event.time, None)},
        )
        if feature.name in own:
            yield f"{key}: must have another name than the columns of [event], [label] and features.exclude"
        if inner := sorted(columns & names):
            yield f"{key}: must be computed from columns of the log, not from derived ones (got {inner[0]!r})"
        if feature.name not in market.raw_columns:
            yield f"{key}: must be used: as a feature, key, segment or amount"
        elif feature.kind in NUMBERS and feature.name not in market.number_columns:
            yield f"{key}: kind={feature.kind!r} is a number: use it as a numerical or engineered feature"
        elif feature.kind in TEXTS and feature.name in market.number_columns:
            yield f"{key}: kind={feature.kind!r} is a text: use it as a categorical feature, a key or a segment"
        for name in sorted((columns | {feature.name}) & pseudonymised):
            yield f"privacy.pseudonymise: must not be a derived feature or a column of one (got {name!r})"


def _joined_findings(market: MarketTables) -> Iterator[str]:
    """Joined columns that are not used, or as what they are not."""
    used = {column for _, column in _uses(market)} | {market.label.column, market.label.known_at}
    used |= {rule.column for rule in market.features.exclude} | {rule.column for rule in market.role_rules}
    pseudonymised = set(() if market.privacy is None else market.privacy.pseudonymise)
    for made in market.reading.joined or ():
        key = f"input.joined.{made.name}"
        if made.name not in used:
            yield f"{key}: must be used: as event.time, event.id, a key or a feature"
        if made.name in market.number_columns:
            yield f"{key}: is a text: do not use it as a number"
        for name in sorted(set(made.columns) & {market.label.column, market.label.known_at}):
            yield f"{key}: must not be made of the outcome (got {name!r})"
        for name in sorted(set(made.columns) & (market.derived_names | pseudonymised)):
            yield f"{key}: must be made of columns of the log that are not pseudonymised (got {name!r})"


def _uses(market: MarketTables) -> list[tuple[str, str | None]]:
    """What each column is used for, except the outcome, which is not an input."""
    event = market.event
    uses = [("event.id", event.id), ("event.time", event.time), ("event.amount", event.amount)]
    uses += [(f"history.{view.history}.key", view.key) for view in market.views]
    uses += [("features", name) for name in market.features.names]
    uses += [("event.scored", event.scored.column)] if event.scored else []
    uses += [("event.asks", event.asks.column)] if event.asks else []
    uses += [
        (f"features.derived.{feature.name}", column)
        for feature in market.features.derivations
        for column in feature.columns
    ]
    return uses + [("evaluation.segments", name) for name in market.evaluation.segments]


def _privacy_findings(market: MarketTables) -> Iterator[str]:
    privacy, features = market.privacy, market.features
    if privacy is None:
        return
    excluded = [("features.exclude", rule.column) for rule in features.exclude]
    forbidden = {name.strip().casefold() for name in privacy.forbidden}
    in_rows = [] if market.wire is None else [("wire", field) for field in history_fields(market)]
    outcome = [("label.column", market.label.column), ("label.known_at", market.label.known_at)]
    joined = [(f"input.joined.{made.name}", name) for made in market.reading.joined or () for name in made.columns]
    for use, column in [*_uses(market), *excluded, *outcome, *in_rows, *joined]:
        # customer.gender and gender.code are gender too
        if column is not None and {name := column.strip().casefold(), *map(str.strip, name.split("."))} & forbidden:
            yield f"{use}: must not be one of privacy.forbidden (got {column!r})"
    for history in market.history:
        pseudonymised = [name for name in history.columns if name in privacy.pseudonymise]
        if 0 < len(pseudonymised) < len(history.columns):
            rule = f"must name all or none of history.{history.name}.keys, {list(history.columns)}"
            yield f"privacy.pseudonymise: {rule} (got {pseudonymised})"
    allowed = {
        market.event.id,
        *market.key_columns,
        *(f.name for f in features.categorical),
        *market.evaluation.segments,
    }
    allowed -= {feature.name for feature in (*features.numerical, *features.engineered)} | {market.event.amount}
    allowed -= {rule.column for rule in market.role_rules}
    for name in [name for name in privacy.pseudonymise if name not in allowed]:
        yield f"privacy.pseudonymise: must be the id, keys, categorical features or segments (got {name!r})"


def _legacy_findings(market: MarketTables) -> Iterator[str]:
    features = market.features
    numbers = {*(f.name for f in (*features.numerical, *features.engineered)), market.event.time}
    for name, default in (market.legacy or LegacyArtifacts()).defaults.items():
        if name not in (*features.names, market.event.time):
            yield f"legacy.defaults: must be of features or event.time (got {name!r})"
        elif name in numbers and not is_finite(default):
            yield f"legacy.defaults.{name}: must be a finite number (got {default!r})"


def _reason_findings(market: MarketTables) -> Iterator[str]:
    features = market.features
    known = {*features.names, *features.calendar, *market.role_names, *(view.name for view in market.views)}
    for name in sorted((market.reasons or Reasons()).subjects - known):
        yield f"reasons: must name features or histories (got {name!r})"


RULES = (
    _name_findings,
    _role_findings,
    _derived_findings,
    _joined_findings,
    wire_findings,
    _privacy_findings,
    _reason_findings,
    _legacy_findings,
    _promotion_findings,
)
