"""Which weights of a network no payment reaches, as where one history needs no choice among several.

Alone they are harmless: they get no gradient and stay as they are. Processes that exchange gradients would wait for theirs.
"""

from __future__ import annotations

import torch

from tsa.model import TSANetwork
from tsa.model.batch import Batch, History
from tsa.model.config import ModelConfig


def freeze_unused(network: TSANetwork) -> list[str]:
    """Let gradients be asked of no weight that gets none; returns their names. No random number is used up."""
    device = network.table.weight.device
    parameters = dict(network.named_parameters())
    network.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type=device.type):
        logits = network(_some_batch(network.config).to(device))
        total = logits.sum() + network.auxiliary_loss()
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    unused = [name for name, gradient in zip(parameters, found, strict=True) if gradient is None]
    for name in unused:
        parameters[name].requires_grad_(False)
    return unused


def _some_batch(config: ModelConfig, payments: int = 2, events: int = 2) -> Batch:
    """Two payments with two events each, all alike."""
    shape = payments, events
    history = History(
        categorical=torch.ones(*shape, config.n_categorical, dtype=torch.int32),
        numerical=torch.ones(*shape, config.n_numerical),
        age_seconds=torch.tensor([1.0, 0.0]).expand(shape),
        padding=torch.zeros(shape, dtype=torch.bool),
        outcome=torch.ones(shape, dtype=torch.int8),
    )
    engineered = torch.ones(payments, config.n_engineered) if config.n_engineered else None
    return Batch(dict.fromkeys(config.histories, history), engineered)
