"""Groups of attributions that become one reason each, of the network and of trees together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from tsa.explain.explanation import AggregateShare
from tsa.explain.parts import TreePart
from tsa.explain.raw_values import Payment
from tsa.explain.templates import ReasonTemplate, number

Key = tuple[str, ...]
"""What a group is about: ("feature", NAME), ("outcomes", HISTORY), ("pace", HISTORY) or ("key", HISTORY, OTHER HISTORY)."""
Group = tuple[float, ReasonTemplate, str | None]  # attribution, sentence, feature


def with_trees(groups: Mapping[Key, Group], trees: TreePart, payment: Payment) -> list[Group]:
    """The groups of a network, with what trees add to each, and those that trees alone have.

    The sentence is that of the strongest aggregate with the sign of the group, where it weighs more than everything that the
    network and the payment's own values add.
    """
    own: dict[Key, float] = defaultdict(float)
    for name, attribution in trees.features.items():
        own["feature", name] += attribution
    aggregates: dict[Key, list[AggregateShare]] = defaultdict(list)
    for share in trees.aggregates:
        aggregates[_key(share)].append(share)
    return [
        _joined(key, groups.get(key), own.get(key, 0.0), aggregates.get(key, ()), trees, payment)
        for key in dict.fromkeys([*groups, *own, *aggregates])
    ]


def _key(share: AggregateShare) -> Key:
    if share.kind in ("outcome", "fraud_number"):
        return "outcomes", share.history
    if share.kind in ("events", "gap"):
        return "pace", share.history
    if share.kind == "key":
        return "key", share.history, str(share.feature)
    return "feature", str(share.feature)


def _joined(
    key: Key,
    group: Group | None,
    own: float,
    aggregates: list[AggregateShare] | tuple[()],
    trees: TreePart,
    payment: Payment,
) -> Group:
    first = own if group is None else group[0] + own
    total = first + sum(share.attribution for share in aggregates)
    alike = [share for share in aggregates if share.attribution * total > 0]
    best = max(alike, key=lambda share: abs(share.attribution), default=None)
    feature = key[1] if key[0] == "feature" else key[2] if key[0] == "key" else None
    if best is not None and (first * total <= 0 or abs(best.attribution) > abs(first) or not _says(group, own)):
        return total, ReasonTemplate("aggregate", {"fact": best.text}, best.history), feature
    if group is not None:
        return total, group[1], group[2]
    if key[0] != "feature":
        share = max(aggregates, key=lambda share: abs(share.attribution))
        return total, ReasonTemplate("aggregate", {"fact": share.text}, share.history), feature
    return total, _value(key[1], trees, payment), feature


def _says(group: Group | None, own: float) -> bool:
    """Whether there is a sentence without aggregates."""
    return group is not None or own != 0.0


def _value(name: str, trees: TreePart, payment: Payment) -> ReasonTemplate:
    """A value of the payment that only trees read."""
    value = payment.values.get(name)
    if value is None:
        seen = trees.values.get(name)
        value = None if seen is None or seen != seen else number(seen, 3)
    return ReasonTemplate("missing_value") if value is None else ReasonTemplate("value", {"value": value})
