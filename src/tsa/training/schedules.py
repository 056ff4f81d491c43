"""How the learning rate moves: one interface over PyTorch's schedulers, advanced after each step of the optimiser.

It knows counts of steps and epochs, and neither data nor network.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

if TYPE_CHECKING:
    from tsa.training.config import TrainingConfig


class Schedule:
    """A scheduler that moves every `every` steps: 1, or as many as an epoch has.

    Call `step` after each step of the optimiser. The state is plain numbers, texts and lists of them.
    """

    def __init__(self, scheduler: LRScheduler, every: int) -> None:
        self._scheduler, self._every, self._steps = scheduler, every, 0

    def step(self) -> None:
        """A step of the optimiser was made."""
        self._steps += 1
        if self._steps % self._every == 0:
            self._scheduler.step()

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group, that the next step of the optimiser is made with."""
        return [float(rate) for rate in self._scheduler.get_last_lr()]

    def state_dict(self) -> dict[str, Any]:
        """How far the schedule is. The rates themselves stand in the optimiser's state."""
        return {"steps": self._steps, "scheduler": self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where a schedule of the same settings was. The optimiser's state is loaded beside it."""
        self._steps = state["steps"]
        self._scheduler.load_state_dict(state["scheduler"])


def make_schedule(optimizer: Optimizer, *, steps_per_epoch: int, epochs: int, config: TrainingConfig) -> Schedule:
    """The schedule that the settings name, over so many epochs of so many steps of the optimiser each."""
    by_epoch = config.schedule_every == "epoch"
    moves = epochs if by_epoch else epochs * steps_per_epoch
    every = steps_per_epoch if by_epoch else 1
    if config.schedule == "one_cycle":
        return Schedule(_one_cycle(optimizer, moves, config), every)
    rise = max(1, round(config.warm_up * moves))
    fall = moves - rise if config.schedule == "cosine" else 0
    return Schedule(LambdaLR(optimizer, lambda move: _rise_and_fall(move, rise, fall)), every)


def _one_cycle(optimizer: Optimizer, moves: int, config: TrainingConfig) -> OneCycleLR:
    """Up to the learning rate in the first share `warm_up` of the moves, then down to almost nothing (Smith 2018)."""
    share = config.warm_up
    if share * moves == 1.0:  # a rise of no moves at all, which OneCycleLR would divide by
        share *= 1.0 + 1e-6
    cycles = bool(config.cycle_momentum)
    return OneCycleLR(optimizer, config.learning_rate, total_steps=moves, pct_start=share, cycle_momentum=cycles)


def _rise_and_fall(move: int, rise: int, fall: int) -> float:
    """Share of the highest rate: linear up to 1 in `rise` moves, then along a cosine towards 0 in `fall` moves, if any.

    Loshchilov and Hutter 2017, SGDR: Stochastic Gradient Descent with Warm Restarts, without restarts.
    """
    if move < rise:
        return (move + 1) / rise
    return (1 + math.cos(math.pi * min((move - rise + 1) / (fall + 1), 1.0))) / 2 if fall else 1.0
