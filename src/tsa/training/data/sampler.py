"""Choose the payments of each epoch: every fraud, and genuine payments at random or by importance.

Importance sampling draws risky payments more often and weights them less (Katharopoulos and Fleuret 2018). Scores are
corrected with `genuine_sampling_rate`: exactly if all are equally likely, approximately with importance sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.augmentation import HistoryAugmentation
from tsa.data.store.store import EventStore
from tsa.errors import TrainingError
from tsa.training.config import TrainingConfig

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Score = Callable[[Rows], NDArray[np.float32]]
"""Raw scores (m,) of the payments `rows` (m,) by the current network."""
IMPORTANCE_SLOPE = 5.0
"""A payment with the mean score is drawn 1 + this many times as often as one with score 0."""

WEIGHT_POWER = 0.25
"""The weight of a payment is its probability to the power of minus this. 1 would be unbiased; less improves the top
ranks."""

CANDIDATES = 4
"""For importance sampling, this many times the genuine payments of an epoch are scored."""


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


class Sampler:
    """Draws the payments of each epoch: all frauds, and genuine payments at random, later by importance."""

    def __init__(self, store: EventStore, train: Rows, config: TrainingConfig) -> None:
        label = store.label[train]
        self.store, self.config = store, config
        self.fraud, self.genuine = train[label == 1], train[label == 0]
        self.n_genuine_per_epoch = genuine_drawn(label, config.genuine_per_fraud)
        self.candidates = self.genuine
        self.score: NDArray[np.float32] | None = None
        self.steps = self._steps()

    def _steps(self) -> int:
        """The complete batches of an epoch. Raises TrainingError if the rows do not fill one."""
        n_fraud, n_genuine = len(self.fraud), len(self.genuine)
        if n_fraud == 0 or n_genuine == 0:
            unknown = sum(int(np.count_nonzero(self.store.labels(name) < 0)) for name in self.config.train_on)
            raise TrainingError(
                f"the training range must hold both outcomes (got frauds={n_fraud}, genuine={n_genuine}, "
                f"not known={unknown}); a label of -1 or a missing label means not known"
            )
        rows = n_fraud + self.n_genuine_per_epoch
        if rows < self.config.batch_size:
            raise TrainingError(
                f"an epoch must fill a batch (training.batch_size, training.genuine_per_fraud) "
                f"(got rows={rows}, batch_size={self.config.batch_size})"
            )
        return rows // self.config.batch_size

    def epoch(self, epoch: int, score: Score) -> EpochSample:
        """The payments of an epoch in random order: `steps` complete batches; the rest is left out.

        The same seed, epoch and scores give the same draw.

        Args:
            epoch: From 1.
            score: Scores genuine payments, in epochs with importance sampling.
        """
        rng = np.random.default_rng([self.config.seed, epoch])
        if self.config.samples_by_importance(epoch):
            self._score_candidates(score, rng)
        rows = np.concatenate([self.fraud, self.candidates])
        config, label = self.config, self.store.label[rows]
        drawn = sample_epoch(
            rows,
            label,
            config.genuine_per_fraud,
            rng,
            self.score,
            label_delay_augmentation=config.label_delay_augmentation,
            event_dropout=config.event_dropout,
        )
        return drawn.part(slice(self.steps * config.batch_size))

    def _score_candidates(self, score: Score, rng: np.random.Generator) -> None:
        """Score a random part of the genuine payments. The next epochs draw from these, the risky ones more often."""
        chosen = rng.permutation(len(self.genuine))[: CANDIDATES * self.n_genuine_per_epoch]
        self.candidates = self.genuine[np.sort(chosen)]
        self.score = score(self.candidates)

    def state_dict(self) -> dict[str, Any]:
        """The scored candidates for later epochs; empty without importance sampling."""
        return {} if self.score is None else {"candidates": self.candidates, "score": self.score}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a sampler of the same store and settings."""
        self.candidates, self.score = state.get("candidates", self.genuine), state.get("score")
