"""Sample the rows of an epoch: every fraud, and genuine payments at random or by importance.

Importance sampling draws risky payments more often and weights them less (Katharopoulos and Fleuret 2018). Scores are
corrected with `genuine_sampling_rate`: exactly if all are equally likely, approximately with importance sampling.
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
"""A payment with the mean score is drawn 1 + this many times as often as one with score 0."""

WEIGHT_POWER = 0.25
"""The weight of a payment is its probability to the power of minus this. 1 would be unbiased; less improves the top
ranks."""


@dataclass(frozen=True)
class EpochSample:
    """The rows of an epoch (m,) in random order."""

    rows: Rows
    weight: NDArray[np.float32]
    """(m,) the weight of each in the loss; the mean over genuine ones is 1."""
    variation: HistoryAugmentation
    """The augmentation of their histories."""

    def part(self, which: slice | Rows) -> EpochSample:
        """The rows `which`, in that order."""
        return EpochSample(self.rows[which], self.weight[which], self.variation.select(which))

    def state_dict(self) -> dict[str, Any]:
        """Plain arrays by name; see `from_state_dict`."""
        return {**vars(self), "variation": vars(self.variation)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> EpochSample:
        """The inverse of `state_dict`."""
        return cls(state["rows"], state["weight"], HistoryAugmentation(**state["variation"]))


def genuine_drawn(label: NDArray[Any], genuine_per_fraud: float) -> int:
    """The number of genuine rows that one epoch draws: at least one, at most all. label: (n,) of 0 and 1."""
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

    Args:
        rows: (m,) row numbers.
        label: (m,) their labels, 0 or 1.
        genuine_per_fraud: If there are too few genuine rows, all are used.
        rng: The random generator.
        genuine_score: A score for each genuine row, in their order among `rows`, for importance sampling.
        label_delay_augmentation: Share of rows with augmented label delays.
        event_dropout: Share of rows with event dropout.
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


def _chances(n: int, n_drawn: int, score: NDArray[Any] | None) -> Floats:
    """(n,) the probability of each to be drawn; at most 1, with sum `n_drawn`."""
    if score is None or n_drawn == n:
        return np.full(n, n_drawn / n if n else 0.0)
    share = 1.0 + IMPORTANCE_SLOPE * score.astype(np.float64) / max(float(score.mean()), 1e-12)
    chance = share * (n_drawn / share.sum())
    while chance.max() > 1.0 + 1e-9:
        # probability above 1 is spread over the others
        certain = chance >= 1.0
        chance[certain] = 1.0
        chance[~certain] *= (n_drawn - certain.sum()) / chance[~certain].sum()
    limited: Floats = np.minimum(chance, 1.0)
    return limited


def _systematic(chance: Floats, rng: np.random.Generator) -> Rows:
    """Draw each with its chance, round(sum) of them in all (systematic sampling over a random order; Madow 1949)."""
    order = rng.permutation(len(chance))
    passed = np.floor(np.cumsum(chance[order]) + rng.random() + 1e-9)
    hit = np.diff(passed, prepend=0.0) > 0
    drawn: Rows = np.sort(order[hit])
    return drawn
