"""Which payments each epoch learns from. Knows the network only as something that scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tsa.data.sampling import Draw, epoch_rows, genuine_drawn
from tsa.data.store import EventStore
from tsa.errors import TrainingError
from tsa.model import TSANetwork
from tsa.progress import Progress, silent
from tsa.scoring.scorer import score_events
from tsa.training.config import TrainingConfig

Rows = NDArray[np.int64]

CANDIDATES = 4
"""Times as many genuine payments as an epoch draws are scored when the network looks for risky ones."""


class Sampler:
    """All frauds of the training rows in every epoch, and genuine payments drawn anew: at first any, then by importance."""

    def __init__(self, store: EventStore, train: Rows, config: TrainingConfig) -> None:
        label = store.label[train]
        self.store, self.config = store, config
        self.fraud, self.genuine = train[label == 1], train[label == 0]
        self.wanted = genuine_drawn(label, config.genuine_per_fraud)
        self.candidates = self.genuine
        self.score: NDArray[np.float32] | None = None
        self.steps = self._steps()

    def _steps(self) -> int:
        """Whole batches of an epoch; TrainingError when the rows do not fill one."""
        n_fraud, n_genuine = len(self.fraud), len(self.genuine)
        if n_fraud == 0 or n_genuine == 0:
            raise TrainingError(
                f"the training range must hold both outcomes, however: frauds={n_fraud}, genuine={n_genuine}"
            )
        rows = n_fraud + self.wanted
        if rows < self.config.batch_size:
            raise TrainingError(
                f"an epoch must fill a batch (training.batch_size, training.genuine_per_fraud), "
                f"however: rows={rows}, batch_size={self.config.batch_size}"
            )
        return rows // self.config.batch_size

    def epoch(self, epoch: int, network: TSANetwork, progress: Progress = silent) -> Iterator[Draw]:
        """The batches of an epoch, the first being 1. What is left over after the last whole one waits for another epoch.

        `network` scores the genuine payments to draw from, in the epochs that the settings name. The same seed, epoch
        and network give the same batches.
        """
        rng = np.random.default_rng([self.config.seed, epoch])
        if self.config.looks_again(epoch):
            self._look(network, rng, progress)
        rows = np.concatenate([self.fraud, self.candidates])
        drawn = epoch_rows(rows, self.store.label[rows], self.config.genuine_per_fraud, rng, self.score)
        return self._batches(drawn)

    def _batches(self, drawn: Draw) -> Iterator[Draw]:
        for first in range(0, self.steps * self.config.batch_size, self.config.batch_size):
            part = slice(first, first + self.config.batch_size)
            yield Draw(drawn.rows[part], drawn.weight[part])

    def _look(self, network: TSANetwork, rng: np.random.Generator, progress: Progress) -> None:
        """Score a random part of the genuine payments: the next epochs draw from these, the risky ones more often."""
        some = rng.permutation(len(self.genuine))[: CANDIDATES * self.wanted]
        self.candidates = self.genuine[np.sort(some)]
        with progress("looking for genuine payments that look risky", len(self.candidates)) as advance:
            self.score = score_events(network, self.store, self.candidates, advance=advance)
