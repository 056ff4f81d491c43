"""Statistics of an epoch: mean loss, speed, padding, waiting time, memory."""

from __future__ import annotations

import math
import resource
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tsa.training.data.loader import Microbatch
from tsa.training.train_step import StepResult

NOT_REPRODUCIBLE = ("payments_per_second", "waiting_share", "checkpoint_seconds", "memory_bytes", "seconds")
"""Measurements of the machine. They differ from run to run, so a bundle does not hold them."""


def reproducible(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records of epochs without the measurements of the machine."""
    return [{name: value for name, value in record.items() if name not in NOT_REPRODUCIBLE} for record in records]


@dataclass
class EpochStats:
    """Sums over the steps of an epoch, and seconds spent."""

    steps: int = 0
    loss: float = 0.0
    gradient_norm: float = 0.0
    finite_norms: int = 0
    learning_rate: float = 0.0
    positions: int = 0
    filled: int = 0
    waiting: float = 0.0
    learning: float = 0.0
    saving: float = 0.0
    seconds: float = 0.0

    def add(self, step: StepResult, parts: Sequence[Microbatch]) -> None:
        """Add a step. A gradient that overflowed is not part of the mean norm."""
        self.steps += 1
        self.loss += step.loss
        self.learning_rate = step.learning_rate
        if math.isfinite(step.gradient_norm):
            self.gradient_norm += step.gradient_norm
            self.finite_norms += 1
        self.positions += sum(part.task.positions for part in parts)
        self.filled += sum(part.task.filled for part in parts)

    def record(self, batch_size: int, device: torch.device) -> dict[str, Any]:
        """Means, rate and speed. Shares are of the time spent on steps; memory is the peak of this process."""
        return {
            "loss": self.loss / self.steps,
            "gradient_norm": self.gradient_norm / max(self.finite_norms, 1),
            "learning_rate": self.learning_rate,
            "payments_per_second": self.steps * batch_size / max(self.learning, 1e-9),
            "padding_share": 1.0 - self.filled / self.positions,
            "waiting_share": self.waiting / max(self.learning, 1e-9),
            "checkpoint_seconds": self.saving,
            "memory_bytes": peak_memory(device),
        }

    def state_dict(self) -> dict[str, Any]:
        """The sums."""
        return asdict(self)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of tensors on a GPU, else of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
