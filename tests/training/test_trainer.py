"""The optimiser's groups and its schedule."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tsa.data.store.store import EventStore
from tsa.model import TSANetwork
from tsa.training import TrainingConfig
from tsa.training.optim import make_optimizer, make_schedule
from tsa.training.train_model import network_settings


@pytest.mark.parametrize("preset", ["default", "reference-two-history"])
def test_only_the_weights_of_linear_maps_decay(demo_store: EventStore, preset: str) -> None:
    network = TSANetwork(network_settings(demo_store, preset, {}))
    optimizer = make_optimizer(network, TrainingConfig(weight_decay=0.123))
    decay = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0.123 for p in group["params"]}
    rest = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0.0 for p in group["params"]}
    every = {id(p) for p in network.parameters()}
    assert decay | rest == every
    assert not decay & rest
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(every), "each once"
    for module in network.modules():
        if isinstance(module, nn.Linear):
            assert id(module.weight) in decay
        if isinstance(module, nn.Embedding | nn.LayerNorm):
            assert id(module.weight) in rest
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 or name.endswith(("bias", "frequency", "token", "engineered")):
            assert id(parameter) in rest, name
        if name.endswith("in_proj_weight"):
            assert id(parameter) in decay, name


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 20, 200])
@pytest.mark.parametrize("warmup_fraction", [0.05, 0.15, 0.25, 0.5, 0.99])
def test_the_rate_rises_and_falls(steps: int, warmup_fraction: float) -> None:
    """Any number of steps and any warm-up: also those whose rise takes no step at all."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))])
    config = TrainingConfig(learning_rate=0.5, warmup_fraction=warmup_fraction, lr_schedule="one_cycle")
    schedule = make_schedule(optimizer, steps_per_epoch=steps, steps=steps, config=config)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    peak = max(rates)
    assert 0 < peak <= 0.5 + 1e-12
    if steps >= 20:
        assert peak > 0.4
        assert rates[: rates.index(peak) + 1] == sorted(rates[: rates.index(peak) + 1])
        assert rates[rates.index(peak) :] == sorted(rates[rates.index(peak) :], reverse=True)
        assert rates[-1] < 0.01 * peak
