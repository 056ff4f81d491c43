"""The optimisers: which weights decay, that each learns, goes on from its state to the bit, and what settings are refused."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.model import TSANetwork
from tsa.training import TrainingConfig
from tsa.training.config import OPTIMIZERS
from tsa.training.optim import evaluation_weights, make_optimizer
from tsa.training.train_model import network_settings

SCHEDULE_FREE = {"optimizer": "schedule_free_adamw", "lr_schedule": "constant", "ema_decay": 0.0}


def config(optimizer: str, **changes: Any) -> TrainingConfig:
    own = SCHEDULE_FREE if optimizer == "schedule_free_adamw" else {"optimizer": optimizer}
    return TrainingConfig.make({**own, **changes})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    """So many steps towards one fixed target; the losses."""
    found = []
    for step in range(first, last):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x[:, :2]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def weights(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


@pytest.mark.parametrize("preset", ["default", "reference-two-history"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_the_weights_of_linear_maps_decay(demo_store: EventStore, preset: str, optimizer: str) -> None:
    made = TSANetwork(network_settings(demo_store, preset, {}))
    groups = make_optimizer(made, config(optimizer, weight_decay=0.123)).param_groups
    decay = {id(p) for group in groups if group["weight_decay"] == 0.123 for p in group["params"]}
    rest = {id(p) for group in groups if group["weight_decay"] == 0.0 for p in group["params"]}
    assert decay | rest == {id(p) for p in made.parameters()}
    assert not decay & rest
    for module in made.modules():
        if isinstance(module, nn.Linear):
            assert id(module.weight) in decay
        if isinstance(module, nn.Embedding | nn.LayerNorm):
            assert id(module.weight) in rest
    for name, parameter in made.named_parameters():
        if parameter.ndim == 1 or name.endswith(("bias", "frequency", "token", "engineered")):
            assert id(parameter) in rest, name
        if name.endswith("in_proj_weight"):
            assert id(parameter) in decay, name


PLAIN = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.99), weight_decay=0.0),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99)),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.7, nesterov=True),
}


@pytest.mark.parametrize("optimizer", PLAIN)
def test_it_is_the_optimiser_of_pytorch(optimizer: str) -> None:
    own = {"momentum": 0.7, "nesterov": True} if optimizer == "sgd" else {"betas": (0.8, 0.99)}
    model, other = network(), network()
    made = make_optimizer(model, config(optimizer, learning_rate=0.01, weight_decay=0.0, **own))
    assert made.defaults["fused"]
    steps(model, made, 0, 20)
    steps(other, PLAIN[optimizer](other.parameters()), 0, 20)
    torch.testing.assert_close(weights(model), weights(other), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_goes_on_from_its_state_to_the_bit(optimizer: str) -> None:
    settings = config(optimizer, learning_rate=0.02)
    model = network()
    made = make_optimizer(model, settings)
    before = steps(model, made, 0, 5)
    saved = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": made.state_dict()}, saved)
    after = steps(model, made, 5, 40)
    assert after[-1] < 0.8 * before[0]

    again = network()
    remade = make_optimizer(again, settings)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    again.load_state_dict(state["model"])
    remade.load_state_dict(state["optimizer"])
    assert steps(again, remade, 5, 40) == after
    assert torch.equal(weights(again), weights(model))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_looking_at_the_weights_to_keep_changes_nothing(optimizer: str) -> None:
    settings = config(optimizer, learning_rate=0.02)
    model, other = network(), network()
    made, remade = (make_optimizer(each, settings) for each in (model, other))
    for step in range(10):
        steps(model, made, step, step + 1)
        with evaluation_weights(made):
            kept = weights(model)
        steps(other, remade, step, step + 1)
        assert torch.equal(weights(model), weights(other))
    assert torch.equal(kept, weights(model)) == (optimizer != "schedule_free_adamw")


def test_schedule_free_weights_to_keep_are_the_running_mean() -> None:
    """At a constant rate they are the mean of the sequence z (Defazio et al. 2024, equation 8)."""
    model = network()
    made = make_optimizer(model, config("schedule_free_adamw", learning_rate=0.02))
    sequence = []
    for step in range(12):
        steps(model, made, step, step + 1)
        sequence.append(torch.cat([made.state[p]["z"].flatten() for p in model.parameters()]))
    with evaluation_weights(made):
        torch.testing.assert_close(weights(model), torch.stack(sequence).mean(0), rtol=1e-4, atol=1e-5)


def test_an_error_while_looking_restores_the_weights() -> None:
    model = network()
    made = make_optimizer(model, config("schedule_free_adamw"))
    steps(model, made, 0, 3)
    before = weights(model)
    with pytest.raises(RuntimeError, match="validation failed"), evaluation_weights(made):
        raise RuntimeError("validation failed")
    assert torch.equal(weights(model), before)
    steps(model, made, 3, 4)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"optimizer": "lion"}, "training.optimizer: must be adamw"),
        ({"betas": [0.9, 1.0]}, r"betas must lie in \[0, 1\) [(]got \(0.9, 1.0\)"),
        ({"betas": [0.9]}, "training.betas"),
        ({"momentum": 0.9}, r"momentum needs optimizer='sgd' [(]got optimizer='adamw', momentum=0.9"),
        (
            {"optimizer": "sgd", "betas": [0.9, 0.99]},
            "betas needs optimizer='adamw' or 'adam' or 'schedule_free_adamw'",
        ),
        ({"optimizer": "sgd", "momentum": 1.0}, r"training.momentum: .* [(]got 1.0"),
        (
            {"optimizer": "sgd", "momentum": 0, "nesterov": True, "lr_schedule": "constant"},
            r"nesterov needs a momentum above 0 [(]got momentum=0.0",
        ),
        ({**SCHEDULE_FREE, "lr_schedule": "one_cycle"}, r"needs lr_schedule='constant' [(]got lr_schedule='one_cycle'"),
        (
            {**SCHEDULE_FREE, "ema_decay": 0.9},
            r"averages the weights itself, it needs ema_decay=0 [(]got ema_decay=0.9",
        ),
    ],
)
def test_bad_settings_are_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        TrainingConfig.make(given)
