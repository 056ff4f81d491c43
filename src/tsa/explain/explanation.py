"""The results of an explanation as frozen dataclasses, with their JSON form (`to_dict`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PROMISED = 0.01
MIN_TOTAL = 4e-3
"""Log odds: below this total, relative errors are not checked because of float32 precision."""
MAX_SHOWN = 12
"""Maximum number of features written per earlier event, and of aggregates per history, the strongest."""


@dataclass(frozen=True, kw_only=True)
class FeatureShare:
    """A feature of the current payment: its raw value, and its attribution to the log odds of fraud."""

    name: str
    value: Any
    attribution: float


@dataclass(frozen=True, kw_only=True)
class AggregateShare:
    """An aggregate of a history that the trees read: what it says in words, and its attribution.

    kind and feature are those of `tsa.data.aggregates.spec.Aggregate`; value is None where there was nothing to aggregate.
    """

    name: str
    history: str
    kind: str
    feature: str | None
    text: str
    value: float | None
    attribution: float


@dataclass(frozen=True, kw_only=True)
class EventShare:
    """An earlier event: attribution = presence + outcome_attribution + Σ features + Σ keys.

    outcome   "fraud", "genuine" or "not known", at the time of the current payment
    presence  attribution of its occurrence and time
    keys      attribution of having the current payment's key or not, by the name of the key's history
    attention its weight in the last attention layer, mean over heads; the sum over a history is at most 1
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
    keys: Mapping[str, float]
    attention: float

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values: the strongest features, and the sum of the others."""
        shown = sorted(self.features, key=lambda name: -abs(self.features[name]))[:MAX_SHOWN]
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {
            "values": {name: self.values.get(name) for name in shown},
            "features": {name: self.features[name] for name in shown},
            "other_features": sum(self.features.values()) - sum(self.features[name] for name in shown),
        }


@dataclass(frozen=True, kw_only=True)
class HistoryShare:
    """A history: its gate weight (None if the network has no gate), its earlier events, and the aggregates that trees read.

    attribution is the sum of those of events and aggregates.
    """

    name: str
    importance: float | None
    attribution: float
    events: tuple[EventShare, ...]
    aggregates: tuple[AggregateShare, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        own = {"name": self.name, "importance": self.importance, "attribution": self.attribution}
        shown = self.aggregates[:MAX_SHOWN]
        return own | {
            "events": [event.to_dict() for event in self.events],
            "aggregates": [dataclasses.asdict(aggregate) for aggregate in shown],
            "other_aggregates": sum(aggregate.attribution for aggregate in self.aggregates[MAX_SHOWN:]),
        }


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A sentence about facts, and their attribution; positive if it raises the score, negative if it lowers it.

    code is the market's name for `kind`, one of `tsa.config.reason_texts.REASONS`; facts are the values
    in the sentence.
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

    scores    raw_score; percentile and probability if the bundle is calibrated for them
    score     log odds of the raw score; baseline: log odds of a neutral payment without histories, for trees the mean of
              the training payments
    parts     log odds of each part of the model that counts, times its weight
    total     score − baseline: Σ of features, Σ of histories, and the residual
    residual  the total minus the sum of the attributions
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
    parts: Mapping[str, float]
    reasons: tuple[Reason, ...]
    features: tuple[FeatureShare, ...]
    histories: tuple[HistoryShare, ...]

    @property
    def adds_up(self) -> bool:
        """Whether the residual is within 1 % of the total. If the score jumps along the path, as with experts that are
        activated at a threshold, attributions cannot add up."""
        return abs(self.residual) <= PROMISED * max(abs(self.total), MIN_TOTAL)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {
            "adds_up": self.adds_up,
            "scores": dict(self.scores),
            "parts": dict(self.parts),
            "reasons": [dataclasses.asdict(reason) for reason in self.reasons],
            "features": [dataclasses.asdict(feature) for feature in self.features],
            "histories": [history.to_dict() for history in self.histories],
        }
