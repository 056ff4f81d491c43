"""Validation: distributed scoring, and metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from tsa.data.store.store import EventStore
from tsa.errors import TrainingError
from tsa.inference.score_parts import BATCH_SIZE, event_log_odds
from tsa.model import TSANetwork
from tsa.model.network_and_trees import raw_scores
from tsa.progress import Advance, Progress
from tsa.training.distributed import DistributedContext
from tsa.training.ending.stop_signals import StopRequest

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]


class ScoringInterruptedError(Exception):
    """Scoring was interrupted by a signal to stop. Raised in all processes."""


class _StoppedError(Exception):
    """This process stops scoring; the others have to be notified."""


class DistributedScorer:
    """Scores payments of a store, each process a part; all processes get all scores."""

    def __init__(
        self, store: EventStore, processes: DistributedContext, progress: Progress, asked: StopRequest
    ) -> None:
        self.store, self.processes, self.progress, self.asked = store, processes, progress, asked

    def __call__(self, network: TSANetwork, rows: Rows, what: str) -> Scores:
        """(m,) raw scores of the payments `rows` (m,), bit-identical for any number of processes."""
        return raw_scores(self.log_odds(network, rows, what))

    def log_odds(self, network: TSANetwork, rows: Rows, what: str) -> Scores:
        """(m,) float32 log odds of the payments `rows` (m,), as `__call__`."""
        blocks = self.processes.shard(-(-len(rows) // BATCH_SIZE))
        own = slice(blocks.start * BATCH_SIZE, min(blocks.stop * BATCH_SIZE, len(rows)))
        scores = np.zeros(len(rows), np.float32)
        stopped = False
        with self.progress(what, len(rows[own])) as advance:
            try:
                scores[own] = event_log_odds(network, self.store, rows[own], advance=self._stoppable(advance))
            except _StoppedError:
                stopped = True
        if self.processes.any(stopped):
            raise ScoringInterruptedError
        return self._all(scores)

    def _stoppable(self, advance: Advance) -> Advance:
        """`advance`, which also checks for a signal to stop, between two batches."""

        def advanced(done: int) -> None:
            advance(done)
            if self.asked.to_stop:
                raise _StoppedError

        return advanced

    def _all(self, scores: Scores) -> Scores:
        """The scores of all processes. Raises TrainingError if one is not finite."""
        every: Scores = self.processes.all_reduce(torch.from_numpy(scores).to(self.processes.device)).cpu().numpy()
        if not np.isfinite(every).all():
            raise TrainingError(f"scores must be finite (got {np.count_nonzero(~np.isfinite(every))} that are not)")
        return every


def validation_metrics(label: NDArray[Any], score: Scores) -> dict[str, float]:
    """Metrics of scores (m,) for labels (m,) of both kinds. Counts are at a score of 0.5; the loss is cross-entropy."""
    fraud, flagged = label == 1, score >= 0.5
    hits = int(np.count_nonzero(fraud & flagged))
    exact = score.astype(np.float64).clip(1e-12, 1 - 1e-12)
    return {
        "validation_average_precision": float(average_precision_score(label, score)),
        "validation_roc_auc": float(roc_auc_score(label, score)),
        "validation_loss": float(-np.log(np.where(fraud, exact, 1.0 - exact)).mean()),
        "validation_accuracy": float((fraud == flagged).mean()),
        "validation_precision": hits / max(int(flagged.sum()), 1),
        "validation_recall": hits / int(fraud.sum()),
        "validation_f1": 2 * hits / (int(fraud.sum()) + int(flagged.sum())),
    }


def has_both_classes(label: NDArray[Any]) -> bool:
    """Whether labels (m,) are of both kinds, as metrics require."""
    return bool((label == 1).any() and (label == 0).any())
