"""How much each history counts: the weights that a network gives the histories of the measured payments."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tsa.data.history import history_lengths
from tsa.evaluation.trained_run import TrainedRun
from tsa.model.collate import gather_batch

PAYMENTS = 4096
"""Payments that the weights are measured on, spread evenly over the range."""
BATCH = 512


def measure_history_weights(run: TrainedRun) -> dict[str, Any] | None:
    """Mean and spread of the weight of each history, over the payments that have an earlier event in it.

    Returns:
        `payments`, `floor` (the least weight that `model.fusion_floor` allows), and `histories`: name, payments, mean and
        std (None without payments). None for one history, a fusion without weights, or
        a model whose scores are of the trees alone.
    """
    network = run.scorer.bundle.network
    names = network.config.histories
    rows = run.rows[:: max(1, -(-len(run.rows) // PAYMENTS))]
    if len(names) == 1 or not len(rows) or not run.scorer.bundle.joining.network:
        return None
    parts = []
    with torch.inference_mode():
        for first in range(0, len(rows), BATCH):
            weights = network.history_weights(gather_batch(run.store, rows[first : first + BATCH], trim=True))
            if weights is None:
                return None
            parts.append(weights.double().numpy())
    all_weights = np.concatenate(parts)
    histories = []
    for at, name in enumerate(names):
        seen = all_weights[history_lengths(run.store.histories[name], rows, 2) > 1, at]
        mean, std = (float(seen.mean()), float(seen.std())) if len(seen) else (None, None)
        histories.append({"name": name, "payments": len(seen), "mean": mean, "std": std})
    floor = network.config.fusion_floor / len(names) if network.config.fusion == "softmax" else 0.0
    return {"payments": len(rows), "floor": floor, "histories": histories}
