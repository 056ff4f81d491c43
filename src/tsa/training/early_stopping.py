"""Early stopping: the record of each epoch, the best epoch, and whether to continue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tsa.training.config import TrainingConfig

Record = dict[str, Any]
Weights = dict[str, Tensor]


@dataclass
class EarlyStopping:
    """The record of each epoch, and the best weights."""

    epochs: list[Record] = field(default_factory=list)
    best_epoch: int = 0
    best: Weights = field(default_factory=dict)

    def should_continue(self, config: TrainingConfig) -> bool:
        """Whether to train another epoch: not after the last, nor after `patience` epochs without improvement."""
        done = len(self.epochs)
        return done < config.epochs and not (config.early_stopping and done - self.best_epoch >= config.patience)

    def add(self, record: Record, config: TrainingConfig) -> bool:
        """Add the record of the next epoch; returns whether it is the best so far."""
        better = not config.early_stopping or not self.epochs or self._better(record, config)
        self.epochs.append(record)
        if better:
            self.best_epoch = len(self.epochs)
        return better

    def best_epochs(self, config: TrainingConfig) -> list[int]:
        """The `save_top_k` best epochs, the best first; of equal ones the earlier."""
        if not config.early_stopping:
            return [len(self.epochs)] if self.epochs else []
        sign = -1.0 if config.higher_is_better else 1.0
        order = sorted(range(len(self.epochs)), key=lambda at: sign * float(self.epochs[at][config.monitor]))
        first = [self.best_epoch] if self.best_epoch else []  # with a min_delta there may be higher values
        return [*first, *(at + 1 for at in order if at + 1 not in first)][: config.save_top_k]

    def _better(self, record: Record, config: TrainingConfig) -> bool:
        best, now = float(self.epochs[self.best_epoch - 1][config.monitor]), float(record[config.monitor])
        gain = now - best if config.higher_is_better else best - now
        return gain > config.min_delta

    def state_dict(self) -> dict[str, Any]:
        """Everything except the weights, which are saved separately."""
        return {"epochs": self.epochs, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore an earlier state."""
        self.epochs, self.best_epoch = list(state["epochs"]), int(state["best_epoch"])
