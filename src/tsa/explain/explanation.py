"""What an explanation says, as plain frozen values. Knows how they are written down; not how they come about."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PROMISED = 0.01
MIN_TOTAL = 4e-3
"""Log odds: of a smaller total no share is asked for, float32 would not tell it."""
MAX_SHOWN = 12
"""So many features of an earlier event are written down, the strongest; there may be hundreds."""


@dataclass(frozen=True, kw_only=True)
class FeatureShare:
    """A feature of the current payment: its raw value, and what that adds to the log odds of fraud."""

    name: str
    value: Any
    attribution: float


@dataclass(frozen=True, kw_only=True)
class EventShare:
    """An earlier event and what it adds: attribution = presence + outcome_attribution + Σ features.

    outcome   "fraud", "genuine" or "not known", as of the current payment
    presence  what it adds that it happened, when it did
    attention how much the last attention layer looks at it, mean over heads; a history's add up to at most 1
    """

    id: Any
    time: str | None
    age_seconds: float
    outcome: str
    values: Mapping[str, Any]
    attribution: float
    presence: float
    outcome_attribution: float
    features: Mapping[str, float]
    attention: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: of the features the strongest, and the sum of the others."""
        shown = sorted(self.features, key=lambda name: -abs(self.features[name]))[:MAX_SHOWN]
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {
            "values": {name: self.values.get(name) for name in shown},
            "features": {name: self.features[name] for name in shown},
            "other_features": sum(self.features.values()) - sum(self.features[name] for name in shown),
        }


@dataclass(frozen=True, kw_only=True)
class HistoryShare:
    """A history: how much the gate lets it count (None where the network has no gate), what its events add, and these."""

    name: str
    importance: float | None
    attribution: float
    events: tuple[EventShare, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        own = {"name": self.name, "importance": self.importance, "attribution": self.attribution}
        return own | {"events": [event.to_dict() for event in self.events]}


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A sentence made of facts, and what they add; above 0 speaks for fraud, below 0 against it.

    code is the market's name for `kind`, one of `tsa.config.optional_tables.REASONS`; facts are what the sentence
    was filled in with.
    """

    kind: str
    code: str
    text: str
    attribution: float
    feature: str | None
    history: str | None
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a payment got its score.

    scores    raw_score, and percentile and probability as far as the bundle is calibrated
    score     log odds of the raw score; baseline those of a neutral payment without histories
    total     score − baseline: Σ of features, Σ of histories, and the residual
    residual  what the attributions miss the total by
    steps     of the integration
    reasons   strongest first
    """

    id: Any
    time: str | None
    scores: Mapping[str, float]
    score: float
    baseline: float
    total: float
    residual: float
    steps: int
    reasons: tuple[Reason, ...]
    features: tuple[FeatureShare, ...]
    histories: tuple[HistoryShare, ...]

    @property
    def adds_up(self) -> bool:
        """Whether the residual is within 1 % of the total. Where the score jumps on the way, as experts that come in at a
        threshold let it, no attribution can add up."""
        return abs(self.residual) <= PROMISED * max(abs(self.total), MIN_TOTAL)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {
            "adds_up": self.adds_up,
            "scores": dict(self.scores),
            "reasons": [dataclasses.asdict(reason) for reason in self.reasons],
            "features": [dataclasses.asdict(feature) for feature in self.features],
            "histories": [history.to_dict() for history in self.histories],
        }
