"""The schedules: their shapes, that one-cycle is PyTorch's, and that each goes on from its state."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from tsa.errors import ConfigError
from tsa.training import TrainingConfig
from tsa.training.config import SCHEDULES
from tsa.training.optim import Schedule, make_optimizer, make_schedule

PER_EPOCH, EPOCHS = 7, 6


def made(optimizer: str = "adamw", **changes: Any) -> tuple[torch.optim.Optimizer, Schedule]:
    config = TrainingConfig.make({"optimizer": optimizer, "learning_rate": 0.5, "epochs": EPOCHS, **changes})
    opt = make_optimizer(nn.Linear(1, 1), config)
    return opt, make_schedule(opt, steps_per_epoch=PER_EPOCH, steps=PER_EPOCH * EPOCHS, config=config)


def rates(optimizer: torch.optim.Optimizer, schedule: Schedule, steps: int = PER_EPOCH * EPOCHS) -> list[float]:
    found = []
    for _ in range(steps):
        optimizer.step()
        assert schedule.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        found.append(schedule.get_last_lr()[0])
        schedule.step()
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_one_cycle_is_that_of_pytorch_momentum_and_all(optimizer: str) -> None:
    opt, schedule = made(optimizer, lr_schedule="one_cycle", warmup_fraction=0.15)
    other, _ = made(optimizer, lr_schedule="one_cycle")
    reference = OneCycleLR(other, 0.5, total_steps=PER_EPOCH * EPOCHS, pct_start=0.15)
    for _ in range(PER_EPOCH * EPOCHS):
        for key in ("lr", "betas", "momentum"):
            assert [group.get(key) for group in opt.param_groups] == [group.get(key) for group in other.param_groups]
        for each in (opt, schedule, other, reference):
            each.step()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_momentum_stays_where_the_cycle_leaves_it_alone(optimizer: str) -> None:
    key = "momentum" if optimizer == "sgd" else "betas"
    opt, schedule = made(optimizer, lr_schedule="one_cycle", cycle_momentum=False)
    before = opt.param_groups[0][key]
    rates(opt, schedule)
    assert opt.param_groups[0][key] == before


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_by_epoch_the_rate_moves_at_the_end_of_each(schedule: str) -> None:
    found = rates(*made(lr_schedule=schedule, lr_schedule_interval="epoch", warmup_fraction=0.5))
    by_epoch = [found[first : first + PER_EPOCH] for first in range(0, len(found), PER_EPOCH)]
    assert all(len(set(each)) == 1 for each in by_epoch)
    assert len({each[0] for each in by_epoch}) == (3 if schedule == "constant" else EPOCHS)


@pytest.mark.parametrize("every", ["step", "epoch"])
def test_cosine_rises_linearly_and_falls_towards_nothing(every: str) -> None:
    found = rates(*made(lr_schedule="cosine", lr_schedule_interval=every, warmup_fraction=1 / 3))
    moves = found if every == "step" else found[::PER_EPOCH]
    top = len(moves) // 3
    assert moves[:top] == pytest.approx([0.5 * (move + 1) / top for move in range(top)])
    fall = moves[top - 1 :]
    assert all(a > b for a, b in pairwise(fall))
    assert [a + b for a, b in zip(fall[1:], fall[:0:-1], strict=True)] == pytest.approx([0.5] * (len(fall) - 1))
    assert 0 < fall[-1] < 0.1


def test_constant_rises_and_stays() -> None:
    found = rates(*made(lr_schedule="constant", warmup_fraction=0.1))
    assert found[:5] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    assert set(found[4:]) == {0.5}


@pytest.mark.parametrize("every", ["step", "epoch"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("at", [1, 7, 13, 30])
def test_it_goes_on_from_its_state(schedule: str, every: str, at: int) -> None:
    whole = rates(*made(lr_schedule=schedule, lr_schedule_interval=every))
    opt, first = made(lr_schedule=schedule, lr_schedule_interval=every)
    assert rates(opt, first, at) == whole[:at]
    text = json.dumps(first.state_dict())
    again, second = made(lr_schedule=schedule, lr_schedule_interval=every)
    again.load_state_dict(opt.state_dict())
    second.load_state_dict(json.loads(text))
    assert rates(again, second, len(whole) - at) == whole[at:]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 20, 200])
@pytest.mark.parametrize("warmup_fraction", [0.05, 0.15, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_any_number_of_steps_and_any_warm_up(steps: int, warmup_fraction: float, schedule: str) -> None:
    config = TrainingConfig(learning_rate=0.5, warmup_fraction=warmup_fraction, lr_schedule=schedule)
    opt = make_optimizer(nn.Linear(1, 1), config)
    found = rates(opt, make_schedule(opt, steps_per_epoch=steps, steps=steps, config=config), steps)
    peak = found.index(max(found))
    assert 0 < found[peak] <= 0.5 + 1e-12
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    if steps >= 20:
        assert found[peak] > 0.4


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"lr_schedule": "linear"}, "training.lr_schedule: must be one_cycle"),
        ({"lr_schedule_interval": "day"}, "training.lr_schedule_interval"),
        ({"lr_schedule": "cosine", "cycle_momentum": True}, r"cycle_momentum needs lr_schedule='one_cycle' [(]got"),
        (
            {"lr_schedule": "one_cycle", "lr_schedule_interval": "epoch", "epochs": 1},
            r"needs epochs of at least 2 [(]got epochs=1",
        ),
    ],
)
def test_bad_settings_are_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        TrainingConfig.make(given)
