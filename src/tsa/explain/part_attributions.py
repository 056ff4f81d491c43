"""What each part of a model says of one payment, weighted as in its score: the network and the trees.

Both are in log odds, so that their attributions may be added up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.aggregates.in_words import describe
from tsa.data.encoding.encoder import Encoder
from tsa.explain.attributions_by_feature import FeatureAttributions, no_shares, shares_of
from tsa.explain.explanation import AggregateShare
from tsa.explain.integrated_gradients import attribute
from tsa.explain.path import InterpolationPath
from tsa.explain.tree_reasons import speaks_of
from tsa.model import History
from tsa.model.tree_model import TreeModel


@dataclass(frozen=True, kw_only=True)
class NetworkPart:
    """The network's attributions, all but `importances` and `attention` times its weight.

    importances  of each history; None without weights of histories
    attention    per history, of each event
    """

    shares: FeatureAttributions
    baseline: float = 0.0
    score: float = 0.0
    residual: float = 0.0
    steps: int = 0
    importances: Sequence[float] | None = None
    attention: Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class TreePart:
    """The trees' attributions, times their weight. `features`: of the payment's own values, by feature.

    `values` are those that the trees read of the payment itself, for features that the network does not read.
    """

    features: Mapping[str, float]
    values: Mapping[str, float]
    aggregates: Sequence[AggregateShare]
    speaks: Mapping[str, int | None]
    """By name of an aggregate, what it may be said for (`tsa.explain.tree_reasons`)."""
    baseline: float
    score: float


def network_part(encoder: Encoder, passage: InterpolationPath, weight: float, others: float) -> NetworkPart:
    """Integrated gradients of a network, times its weight in the score. Raises ConfigError if captum is not installed.

    others: What the other parts add to the difference to explain, in log odds of the score.
    """
    attributed = attribute(passage, others / weight)
    shares = shares_of(encoder, passage, attributed)
    importances = passage.importances()
    return NetworkPart(
        shares=shares if weight == 1.0 else shares.scaled(weight),
        baseline=weight * attributed.baseline,
        score=weight * attributed.score,
        residual=weight * attributed.residual,
        steps=attributed.steps,
        importances=None if importances is None else importances.tolist(),
        attention=[values.tolist() for values in passage.attention()],
    )


def absent_network(encoder: Encoder, histories: Sequence[History]) -> NetworkPart:
    """The part of a network that does not count in the score."""
    lengths = [history.padding.shape[1] - 1 for history in histories]
    return NetworkPart(shares=no_shares(encoder, lengths), attention=[[0.0] * length for length in lengths])


def tree_part(model: TreeModel, columns: NDArray[Any], weight: float, names: Mapping[str, str]) -> TreePart:
    """TreeSHAP of the trees, times their weight in the score.

    Args:
        columns: (1, K) what the trees read of the payment.
        names: What features and histories are called, as `[reasons.names]`.
    """
    contributions = weight * model.trees.contributions(columns)[0]
    values, spec = columns[0].astype(np.float64), model.columns
    features: dict[str, float] = {}
    for name, attribution in zip(spec.own, contributions.tolist(), strict=False):
        owner = re.sub(r" is missing$", "", name)
        features[owner] = features.get(owner, 0.0) + attribution
    first = len(spec.own)
    aggregates = [
        AggregateShare(
            name=aggregate.name,
            history=aggregate.history,
            kind=aggregate.kind,
            feature=aggregate.feature or None,
            text=describe(aggregate, float(values[at]), names, scaled=not spec.aggregates.raw),
            value=None if np.isnan(values[at]) else float(values[at]),
            attribution=float(contributions[at]),
        )
        for at, aggregate in enumerate(spec.aggregates.aggregates, start=first)
        if contributions[at]
    ]
    aggregates.sort(key=lambda share: -abs(share.attribution))
    baseline, scaled = float(contributions[-1]), not spec.aggregates.raw
    named = dict(zip(spec.aggregates.names, values[first:].tolist(), strict=True))
    contributed = {share.name for share in aggregates}
    return TreePart(
        features=features,
        values=dict(zip(spec.own, values.tolist(), strict=False)),
        aggregates=aggregates,
        speaks={
            aggregate.name: speaks_of(aggregate, named, scaled=scaled)
            for aggregate in spec.aggregates.aggregates
            if aggregate.name in contributed
        },
        baseline=baseline,
        score=float(weight * model.trees.log_odds(columns)[0]),
    )
