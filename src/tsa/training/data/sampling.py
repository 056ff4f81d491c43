"""Which training rows an epoch sees: every fraud, and a fresh draw of genuine payments.

Drawing fewer genuine payments than there are shifts every score; `genuine_sampling_rate` is the number that a score must be
corrected with. Most genuine payments teach little. Once the network has an opinion, they are drawn by importance: the
riskier a payment looks, the likelier it is drawn, and the less it counts (after Katharopoulos and Fleuret 2018). The
correction by the rate is then only roughly right; it is exact where all are drawn alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.augmentation import HistoryAugmentation

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
IMPORTANCE_SLOPE = 5.0
"""How much more often a payment is drawn whose score is the mean score than one whose score is 0, less one."""

WEIGHT_POWER = 0.25
"""How much less a payment counts that is likelier to be drawn. 1 would undo the preference in expectation; less keeps some of
it, and the ranks at the top, where teams work, gain by that."""


@dataclass(frozen=True)
class EpochSample:
    """The rows of an epoch (m,) in random order."""

    rows: Rows
    weight: NDArray[np.float32]
    """(m,) how much each counts in the loss, 1 on average over genuine ones."""
    variation: HistoryAugmentation
    """How each sees its histories."""

    def part(self, which: slice | Rows) -> EpochSample:
        """Some of it, in the order of `which`."""
        return EpochSample(self.rows[which], self.weight[which], self.variation.select(which))

    def state_dict(self) -> dict[str, Any]:
        """Plain arrays by name; `from_state_dict` makes it anew."""
        return {**vars(self), "variation": vars(self.variation)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> EpochSample:
        """What `state_dict` was of."""
        return cls(state["rows"], state["weight"], HistoryAugmentation(**state["variation"]))


def genuine_drawn(label: NDArray[Any], genuine_per_fraud: float) -> int:
    """How many genuine rows one epoch draws: one at least, and all where they are too few. label: (n,) of 0 and 1."""
    n_fraud, n_genuine = int(np.count_nonzero(label == 1)), int(np.count_nonzero(label == 0))
    return min(n_genuine, max(1, round(n_fraud * genuine_per_fraud)))


def genuine_sampling_rate(label: NDArray[Any], genuine_per_fraud: float) -> float:
    """Share of the genuine rows that one epoch draws. label: (n,) of 0 and 1."""
    n_genuine = int(np.count_nonzero(label == 0))
    return genuine_drawn(label, genuine_per_fraud) / n_genuine if n_genuine else 1.0


def sample_epoch(
    rows: Rows,
    label: NDArray[Any],
    genuine_per_fraud: float,
    rng: np.random.Generator,
    genuine_score: NDArray[Any] | None = None,
    label_delay_augmentation: float = 0.0,
    event_dropout: float = 0.0,
) -> EpochSample:
    """All frauds and `genuine_per_fraud` times as many genuine rows, drawn without replacement, in random order.

    rows: (m,) row numbers; label: (m,) their labels, 0 or 1. Too few genuine rows: all of them. genuine_score: a score
    of each genuine row, in their order among `rows`, to draw by importance; without it all are equally likely.
    label_delay_augmentation,
    event_dropout: the shares of rows that see their histories otherwise than they were.
    """
    fraud, genuine = rows[label == 1], rows[label == 0]
    chance = _chances(len(genuine), genuine_drawn(label, genuine_per_fraud), genuine_score)
    drawn = _systematic(chance, rng)
    weight = (1.0 / chance[drawn]) ** WEIGHT_POWER
    all_rows = np.concatenate([fraud, genuine[drawn]])
    weights = np.concatenate([np.ones(len(fraud)), weight / weight.mean() if len(weight) else weight])
    order = rng.permutation(len(all_rows))
    variation = HistoryAugmentation.draw(
        len(order), label_delay_augmentation=label_delay_augmentation, event_dropout=event_dropout, rng=rng
    )
    return EpochSample(all_rows[order], weights[order].astype(np.float32), variation)


def _chances(n: int, wanted: int, score: NDArray[Any] | None) -> Floats:
    """(n,) the chance of each to be drawn; they add up to `wanted`, and none is above 1."""
    if score is None or wanted == n:
        return np.full(n, wanted / n if n else 0.0)
    share = 1.0 + IMPORTANCE_SLOPE * score.astype(np.float64) / max(float(score.mean()), 1e-12)
    chance = share * (wanted / share.sum())
    while chance.max() > 1.0 + 1e-9:
        # what a certain one cannot take is spread over the others
        certain = chance >= 1.0
        chance[certain] = 1.0
        chance[~certain] *= (wanted - certain.sum()) / chance[~certain].sum()
    held: Floats = np.minimum(chance, 1.0)
    return held


def _systematic(chance: Floats, rng: np.random.Generator) -> Rows:
    """Draw each with its chance, round(sum) of them in all (systematic sampling over a random order; Madow 1949)."""
    order = rng.permutation(len(chance))
    passed = np.floor(np.cumsum(chance[order]) + rng.random() + 1e-9)
    hit = np.diff(passed, prepend=0.0) > 0
    drawn: Rows = np.sort(order[hit])
    return drawn
