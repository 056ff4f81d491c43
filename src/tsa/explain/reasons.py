"""Reasons from attributions and facts: one sentence per group of attributions, the strongest first.

A group is a feature (current and earlier values), the known outcomes of a history, its pace, or another key in it; network
and trees add up in it. The sentences come from
`tsa.explain.templates`, with the market's wording.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsa.config.optional_tables import Reasons
from tsa.explain.aggregate import FeatureAttributions
from tsa.explain.explanation import Reason
from tsa.explain.parts import TreePart
from tsa.explain.raw_values import Payment
from tsa.explain.reason_groups import Group, Key, with_trees
from tsa.explain.templates import (
    HistoryContext,
    ReasonTemplate,
    of_calendar,
    of_key,
    of_number,
    of_outcomes,
    of_pace,
    of_text,
)

MIN_SHARE = 0.01
"""Minimum share of the sum of absolute attributions for a reason."""
CALENDAR_NAMES = {
    "hour_of_day": "hour of the day",
    "day_of_week": "day of the week",
    "day_of_month": "day of the month",
    "month": "month",
}


@dataclass(frozen=True)
class Kinds:
    """Which features are texts and which are times; all others are numbers. Texts unknown to the encoder, numbers without
    earlier values to compare with, and the keys that are compared."""

    texts: frozenset[str]
    calendar: frozenset[str]
    unknown: frozenset[str]
    alone: frozenset[str]
    keys: tuple[str, ...] = ()


def reasons_of(
    shares: FeatureAttributions,
    payment: Payment,
    pasts: Sequence[HistoryContext],
    kinds: Kinds,
    wording: Reasons,
    trees: TreePart | None = None,
) -> tuple[Reason, ...]:
    """The reasons of a payment, strongest first, at most `wording.most`."""
    own = [*_features(shares, payment, pasts, kinds), *_histories(shares, pasts), *_keys(shares, pasts, kinds)]
    groups = [group for _, group in own] if trees is None else with_trees(dict(own), trees, payment)
    everything = sum(abs(attribution) for attribution, _, _ in groups)
    selected = [group for group in groups if abs(group[0]) > MIN_SHARE * everything]
    selected.sort(key=lambda group: -abs(group[0]))
    return tuple(_reason(*group, wording) for group in selected[: wording.most])


def _features(
    shares: FeatureAttributions, payment: Payment, pasts: Sequence[HistoryContext], kinds: Kinds
) -> Iterator[tuple[Key, Group]]:
    of_pasts = np.array([history.features.sum(0) for history in shares.histories])
    for at, name in enumerate(shares.names):
        attribution = float(shares.current[at] + of_pasts[:, at].sum())
        # compare with the history whose values have the largest attribution
        ordered = [pasts[k] for k in np.argsort(-np.abs(of_pasts[:, at]), kind="stable") if name not in kinds.alone]
        value = payment.values.get(name)
        if name in kinds.calendar:
            sentence = of_calendar(name, value, ordered)
        elif name in kinds.texts:
            sentence = of_text(name, value, name not in kinds.unknown, ordered)
        else:
            sentence = of_number(name, value, ordered)
        yield ("feature", name), (attribution, sentence, name)


def _histories(shares: FeatureAttributions, pasts: Sequence[HistoryContext]) -> Iterator[tuple[Key, Group]]:
    for history, past in zip(shares.histories, pasts, strict=True):
        outcomes, pace = (of_outcomes(past), history.outcome), (of_pace(past), history.presence)
        for kind, (sentence, values) in (("outcomes", outcomes), ("pace", pace)):
            if sentence is not None:
                yield (kind, past.name), (float(values.sum()), sentence, None)


def _keys(shares: FeatureAttributions, pasts: Sequence[HistoryContext], kinds: Kinds) -> Iterator[tuple[Key, Group]]:
    for history, past in zip(shares.histories, pasts, strict=True):
        for name, values in zip(kinds.keys, history.keys.T, strict=False):
            if (sentence := of_key(name, past)) is not None:
                yield ("key", past.name, name), (float(values.sum()), sentence, name)


def _reason(attribution: float, sentence: ReasonTemplate, feature: str | None, wording: Reasons) -> Reason:
    subject = feature or sentence.history or ""
    names = {"feature": feature, "history": sentence.history}
    filled: dict[str, Any] = {
        **{key: wording.names.get(name, CALENDAR_NAMES.get(name, name)) for key, name in names.items() if name},
        **sentence.facts,
    }
    text = wording.text(sentence.kind, subject)
    for name, value in filled.items():
        text = text.replace(f"{{{name}}}", str(value))
    return Reason(
        kind=sentence.kind,
        code=wording.code(sentence.kind, subject),
        text=text,
        attribution=attribution,
        feature=feature,
        history=sentence.history,
        facts=sentence.facts,
    )
