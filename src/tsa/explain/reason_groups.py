"""Groups of attributions that become one reason each, of the network and of trees together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tsa.explain.explanation import AggregateShare
from tsa.explain.part_attributions import TreePart
from tsa.explain.raw_values import Payment
from tsa.explain.reason_kinds import ReasonTemplate, number

STRONG = 0.25
"""An aggregate may give the sentence of its group if it weighs at least this share of the strongest one."""
Key = tuple[str, ...]
"""What a group is about: ("feature", NAME), ("outcomes", HISTORY), ("pace", HISTORY) or ("key", HISTORY, OTHER HISTORY)."""


@dataclass(frozen=True)
class Group:
    """An attribution and the sentences that may be said of it, the most telling first."""

    attribution: float
    sentences: Sequence[ReasonTemplate]
    feature: str | None = None

    @property
    def sentence(self) -> ReasonTemplate | None:
        """The first sentence that may be said for this direction; None if there is none."""
        return next((one for one in self.sentences if one.fits(self.attribution)), None)


def with_trees(groups: Mapping[Key, Group], trees: TreePart, payment: Payment) -> dict[Key, Group]:
    """The groups of a network, with what trees add to each, and those that trees alone have.

    Sentences on aggregates with the sign of the group come first where the strongest of them weighs more than everything
    that the network and the payment's own values add.
    """
    own: dict[Key, float] = defaultdict(float)
    for name, attribution in trees.features.items():
        own["feature", name] += attribution
    aggregates: dict[Key, list[AggregateShare]] = defaultdict(list)
    for share in trees.aggregates:
        aggregates[_key(share)].append(share)
    return {
        key: _joined(key, groups.get(key), own.get(key, 0.0), aggregates.get(key, []), trees, payment)
        for key in dict.fromkeys([*groups, *own, *aggregates])
    }


def _key(share: AggregateShare) -> Key:
    if share.kind in ("outcome", "fraud_number"):
        return "outcomes", share.history
    if share.kind in ("events", "gap"):
        return "pace", share.history
    if share.kind == "key":
        return key_of_pair(share.history, str(share.feature))
    return "feature", str(share.feature)


def key_of_pair(history: str, other: str) -> Key:
    """The group of a key in the history of another, and the other way round, which is the same fact."""
    return "key", *sorted((history, other))


def _joined(
    key: Key, group: Group | None, own: float, aggregates: list[AggregateShare], trees: TreePart, payment: Payment
) -> Group:
    first = own if group is None else group.attribution + own
    total = first + sum(share.attribution for share in aggregates)
    alike = sorted((one for one in aggregates if one.attribution * total > 0), key=lambda one: -abs(one.attribution))
    least = STRONG * abs(alike[0].attribution) if alike else 0.0
    of_trees = [
        ReasonTemplate(
            "aggregate", {"fact": share.text}, share.history, speaks, share.feature if share.kind == "key" else None
        )
        for share in alike
        if (speaks := trees.speaks.get(share.name)) is not None and abs(share.attribution) >= least
    ]
    others: Sequence[ReasonTemplate] = () if group is None else group.sentences
    if key[0] == "key" and aggregates and not any(one.speaks > 0 for one in of_trees):
        others = [one for one in others if one.speaks <= 0]  # aggregates know whether new keys are usual
    if group is None and key[0] == "feature":
        others = [_value(key[1], trees, payment)]
    strongest = abs(alike[0].attribution) if alike else 0.0
    trees_first = first * total <= 0 or strongest > abs(first) or group is None
    feature = key[1] if key[0] == "feature" else None
    return Group(total, [*of_trees, *others] if trees_first else [*others, *of_trees], feature)


def _value(name: str, trees: TreePart, payment: Payment) -> ReasonTemplate:
    """A value of the payment that only trees read."""
    value = payment.values.get(name)
    if value is None:
        seen = trees.values.get(name)
        value = None if seen is None or seen != seen else number(seen, 3)
    return ReasonTemplate("missing_value") if value is None else ReasonTemplate("value", {"value": value})


def combinations(groups: Mapping[Key, Group]) -> tuple[list[Group], dict[int, list[Key]]]:
    """Groups with a sentence, and the groups without one joined by sign: what counts only together with the rest.

    Returns:
        The groups; and per sign, 1 or -1, the keys that were joined, strongest first.
    """
    said = [group for group in groups.values() if group.sentence is not None]
    unsaid = {key: group for key, group in groups.items() if group.sentence is None}
    by_sign: dict[int, list[Key]] = {}
    for key, group in sorted(unsaid.items(), key=lambda item: -abs(item[1].attribution)):
        by_sign.setdefault(1 if group.attribution > 0 else -1, []).append(key)
    return said, by_sign
