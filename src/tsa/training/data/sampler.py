"""Choose the payments of each epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.store.store import EventStore
from tsa.errors import TrainingError
from tsa.training.config import TrainingConfig
from tsa.training.data.sampling import EpochSample, genuine_drawn, sample_epoch

Rows = NDArray[np.int64]
Score = Callable[[Rows], NDArray[np.float32]]
"""Raw scores (m,) of the payments `rows` (m,) by the current network."""

CANDIDATES = 4
"""For importance sampling, this many times the genuine payments of an epoch are scored."""


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
