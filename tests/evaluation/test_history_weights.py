"""The weights of histories, as the network gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tsa.data.history import history_lengths
from tsa.evaluation.history_weights import measure_history_weights
from tsa.evaluation.report.warnings import warnings_of
from tsa.evaluation.trained_run import TrainedRun
from tsa.model.collate import gather_batch


def test_mean_and_spread_are_those_of_the_fusion(demo_run: Path) -> None:
    run = TrainedRun.open(demo_run)
    found = measure_history_weights(run)
    assert found is not None
    network, rows = run.scorer.bundle.network, run.rows
    names = network.config.histories
    caught: list[torch.Tensor] = []
    importance = network.combine.importance
    network.combine.importance = lambda *inputs: caught.append(importance(*inputs)) or caught[-1]  # type: ignore[func-returns-value]
    with torch.inference_mode():
        network(gather_batch(run.store, rows))
    network.combine.importance = importance
    weights = caught[0].mean(1).numpy() if caught[0].ndim == 3 else caught[0].numpy()
    assert found["payments"] == len(rows)
    for at, (name, history) in enumerate(zip(names, found["histories"], strict=True)):
        seen = history_lengths(run.store.histories[name], rows, 2) > 1
        assert history["payments"] == int(seen.sum())
        assert history["mean"] == pytest.approx(weights[seen, at].mean(), abs=1e-5)
        assert history["std"] == pytest.approx(weights[seen, at].std(), abs=1e-5)
        assert history["mean"] >= found["floor"] > 0
    assert np.isclose(weights.sum(1), 1).all()


def test_a_gate_that_leaves_one_history_out_is_noticed(demo_run: Path) -> None:
    run = TrainedRun.open(demo_run)
    assert not warnings_of({"history_weights": measure_history_weights(run)})
    gate = run.scorer.bundle.network.combine.gate
    with torch.no_grad():
        gate.narrow.bias.copy_(torch.tensor([100.0, -100.0]))
    (warning,) = warnings_of({"history_weights": measure_history_weights(run)})
    name = run.scorer.bundle.config.histories[1]
    assert warning.startswith(f"The {name} history counts for almost nothing: its mean weight is 0.050 of 1")
