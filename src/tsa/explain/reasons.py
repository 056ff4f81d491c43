"""Reasons from attributions and facts: one sentence per group of attributions, the strongest first.

A group is a feature (current and earlier values), the known outcomes of a history, its pace, or another key in it; network
and trees add up in it. The sentences come from
`tsa.explain.reason_kinds`, with the market's wording.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tsa.config.reason_texts import Reasons
from tsa.explain.attributions_by_feature import FeatureAttributions
from tsa.explain.explanation import Reason
from tsa.explain.part_attributions import TreePart
from tsa.explain.raw_values import Payment
from tsa.explain.reason_groups import Group, Key, combinations, key_of_pair, with_trees
from tsa.explain.reason_kinds import (
    AGAINST,
    HistoryContext,
    ReasonTemplate,
    number,
    of_calendar,
    of_key,
    of_number,
    of_outcomes,
    of_pace,
    of_text,
)

MIN_SHARE = 0.01
"""Minimum share of the sum of absolute attributions for a reason."""
COUNTS = 0.5
"""A text is compared with histories whose values of it have at least this share of the largest attribution: that a device
is new to a shop means little where the customer's history is what counts."""
MIN_COMBINED = 0.05
"""Minimum share of a combination."""
MAX_JOINED = 4
"""Largest number of values named in a combination."""
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
    middle: frozenset[str] = frozenset()
    """Numbers without earlier values that are near the middle of all payments' values, so nothing unusual."""
    fixed: Mapping[str, Collection[str]] = field(default_factory=dict)
    """By history, features whose value never changes in it (`tsa.data.store.constant_in_history`)."""


def reasons_of(
    shares: FeatureAttributions,
    payment: Payment,
    pasts: Sequence[HistoryContext],
    kinds: Kinds,
    wording: Reasons,
    trees: TreePart | None = None,
) -> tuple[Reason, ...]:
    """The reasons of a payment, strongest first, at most `wording.most`.

    What is said for fraud is unusual, what is said against it usual. Attributions of which neither can be said are joined
    into one reason per direction: they count only in combination with the rest.
    """
    groups = dict([*_features(shares, payment, pasts, kinds), *_histories(shares, pasts)])
    groups |= _keys(shares, pasts, kinds)
    if trees is not None:
        groups = with_trees(groups, trees, payment)
    everything = sum(abs(group.attribution) for group in groups.values())
    groups = {key: group for key, group in groups.items() if abs(group.attribution) > MIN_SHARE * everything}
    said, unsaid = combinations(groups)
    joined = [_combination([(key, groups[key]) for key in keys], payment, wording) for keys in unsaid.values()]
    said += [group for group in joined if abs(group.attribution) > MIN_COMBINED * everything]
    said.sort(key=lambda group: -abs(group.attribution))
    return tuple(_reason(group, wording) for group in said[: wording.most])


def _features(
    shares: FeatureAttributions, payment: Payment, pasts: Sequence[HistoryContext], kinds: Kinds
) -> Iterator[tuple[Key, Group]]:
    of_pasts = np.array([history.features.sum(0) for history in shares.histories])
    for at, name in enumerate(shares.names):
        attribution = float(shares.current[at] + of_pasts[:, at].sum())
        # the history whose values have the largest attribution comes first
        weight = np.abs(of_pasts[:, at])
        order = [] if name in kinds.alone else np.argsort(-weight, kind="stable").tolist()
        ordered = [pasts[k] for k in order]
        value = payment.values.get(name)
        if name in kinds.calendar:
            sentences = of_calendar(name, value, ordered)
        elif name in kinds.texts:
            fixed = [history for history, names in kinds.fixed.items() if name in names]
            counting = [pasts[k] for k in order if weight[k] >= COUNTS * weight.max()]
            sentences = of_text(name, value, name not in kinds.unknown, counting, fixed)
        else:
            sentences = of_number(name, value, ordered)
            if name in kinds.middle:
                sentences = [replace(one, speaks=AGAINST) for one in sentences]
        yield ("feature", name), Group(attribution, sentences, name)


def _histories(shares: FeatureAttributions, pasts: Sequence[HistoryContext]) -> Iterator[tuple[Key, Group]]:
    for history, past in zip(shares.histories, pasts, strict=True):
        yield ("outcomes", past.name), Group(float(history.outcome.sum()), of_outcomes(past))
        yield ("pace", past.name), Group(float(history.presence.sum()), of_pace(past))


def _keys(shares: FeatureAttributions, pasts: Sequence[HistoryContext], kinds: Kinds) -> dict[Key, Group]:
    """That a card is new to a shop and that the shop is new to the card are one group."""
    groups: dict[Key, Group] = {}
    for history, past in zip(shares.histories, pasts, strict=True):
        for name, values in zip(kinds.keys, history.keys.T, strict=False):
            key = key_of_pair(past.name, name)
            before = groups.get(key, Group(0.0, []))
            groups[key] = Group(before.attribution + float(values.sum()), [*before.sentences, *of_key(name, past)])
    return groups


def _combination(joined: Sequence[tuple[Key, Group]], payment: Payment, wording: Reasons) -> Group:
    texts = [_called(key, payment, wording) for key, _ in joined]
    values = ", ".join(dict.fromkeys(texts[:MAX_JOINED])) + (", …" if len(texts) > MAX_JOINED else "")
    attribution = sum(group.attribution for _, group in joined)
    return Group(attribution, [ReasonTemplate("combination", {"values": values})])


def _called(key: Key, payment: Payment, wording: Reasons) -> str:
    """A group in a few words."""
    name = _named(key[-1], wording)
    if key[0] == "feature":
        value = payment.values.get(key[1])
        return f"no {name}" if value is None else f"{name} {number(value, 3) if isinstance(value, float) else value}"
    history = _named(key[1], wording)
    return {"outcomes": f"outcomes of this {history}", "pace": f"pace of this {history}"}.get(
        key[0], f"{name} of this {history}"
    )


def _named(name: str, wording: Reasons) -> str:
    return wording.names.get(name, CALENDAR_NAMES.get(name, name))


def _reason(group: Group, wording: Reasons) -> Reason:
    sentence = group.sentence
    assert sentence is not None
    feature = sentence.feature or group.feature
    subject = feature or sentence.history or ""
    names = {"feature": feature, "history": sentence.history}
    filled: dict[str, Any] = {
        **{key: _named(name, wording) for key, name in names.items() if name},
        **sentence.facts,
    }
    text = wording.text(sentence.kind, subject)
    for name, value in filled.items():
        text = text.replace(f"{{{name}}}", str(value))
    return Reason(
        kind=sentence.kind,
        code=wording.code(sentence.kind, subject),
        text=text,
        attribution=group.attribution,
        feature=feature,
        history=sentence.history,
        facts=sentence.facts,
    )
