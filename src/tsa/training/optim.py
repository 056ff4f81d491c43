"""Optimisers and learning-rate schedules by name, and the parameters to which weight decay applies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from schedulefree import AdamWScheduleFree
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

if TYPE_CHECKING:
    from tsa.training.config import TrainingConfig

import math

from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

if TYPE_CHECKING:
    from tsa.training.config import TrainingConfig


Groups = list[dict[str, Any]]

NO_LINEAR_MAP = ("bias", "engineered", "frequency", "token")
"""Endings of the names of matrices that are not linear maps: embeddings and biases per feature, frequencies."""


def make_optimizer(network: nn.Module, config: TrainingConfig) -> Optimizer:
    """The optimiser of the settings, in training mode. See OPTIMIZERS."""
    return OPTIMIZERS[config.optimizer](parameter_groups(network, config.weight_decay), config)


def parameter_groups(network: nn.Module, weight_decay: float) -> Groups:
    """Weights of linear maps decay; biases, norms and embeddings do not (Loshchilov and Hutter 2019)."""
    undecayed = {
        id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag | nn.LayerNorm)
    }
    decay: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        linear = parameter.ndim > 1 and id(parameter) not in undecayed and not name.endswith(NO_LINEAR_MAP)
        (decay if linear else rest).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


@contextmanager
def evaluation_weights(optimizer: Optimizer) -> Iterator[None]:
    """Inside the block the network has the weights to validate and save; after it, exactly the previous ones.

    They differ only for a schedule-free optimiser, whose gradients are taken between its average and its newest weights.
    """
    if not isinstance(optimizer, AdamWScheduleFree):
        yield
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    before = [parameter.detach().clone() for parameter in parameters]  # switching back would round
    optimizer.eval()
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, before)
        for group in optimizer.param_groups:
            group["train_mode"] = True


def _adamw(groups: Groups, config: TrainingConfig) -> Optimizer:
    """Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization."""
    return AdamW(groups, lr=config.learning_rate, betas=_betas(config), fused=True)


def _adam(groups: Groups, config: TrainingConfig) -> Optimizer:
    """Kingma and Ba 2015, Adam: A Method for Stochastic Optimization. Weight decay is a part of the gradient here."""
    return Adam(groups, lr=config.learning_rate, betas=_betas(config), fused=True)


def _sgd(groups: Groups, config: TrainingConfig) -> Optimizer:
    """Gradient descent with momentum; Nesterov's as in Sutskever et al. 2013. Weight decay is a part of the gradient."""
    momentum, nesterov = config.momentum or 0.0, bool(config.nesterov)
    if config.cycle_momentum:
        momentum = momentum or 0.9  # any value: the schedule sets it, but Nesterov momentum requires one
    return SGD(groups, lr=config.learning_rate, momentum=momentum, nesterov=nesterov, fused=True)


def _schedule_free_adamw(groups: Groups, config: TrainingConfig) -> Optimizer:
    """Defazio et al. 2024, The Road Less Scheduled."""
    optimizer: Optimizer = AdamWScheduleFree(groups, lr=config.learning_rate, betas=_betas(config))
    optimizer.train()  # type: ignore[attr-defined]
    return optimizer


def _betas(config: TrainingConfig) -> tuple[float, float]:
    assert config.betas is not None  # the settings fill it in for every optimiser that has betas
    return config.betas


OPTIMIZERS: dict[str, Callable[[Groups, TrainingConfig], Optimizer]] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
    "schedule_free_adamw": _schedule_free_adamw,
}


class Schedule:
    """A scheduler that changes the rate every `every` steps: 1, or the steps of an epoch.

    Call `step` after each step of the optimiser. The state is plain numbers, texts and lists of them.
    """

    def __init__(self, scheduler: LRScheduler, every: int) -> None:
        self._scheduler, self._every, self._steps = scheduler, every, 0

    def step(self) -> None:
        """Count a step of the optimiser."""
        self._steps += 1
        if self._steps % self._every == 0:
            self._scheduler.step()

    @property
    def steps(self) -> int:
        """Steps of the optimiser so far."""
        return self._steps

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group for the next step."""
        return [float(rate) for rate in self._scheduler.get_last_lr()]

    def state_dict(self) -> dict[str, Any]:
        """The position of the schedule. The rates are in the optimiser's state."""
        return {"steps": self._steps, "scheduler": self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position of a schedule of the same settings. The optimiser's state is loaded separately."""
        self._steps = state["steps"]
        self._scheduler.load_state_dict(state["scheduler"])


def make_schedule(optimizer: Optimizer, *, steps_per_epoch: int, steps: int, config: TrainingConfig) -> Schedule:
    """The schedule of the settings, for `steps` steps in all, `steps_per_epoch` of them in an epoch."""
    by_epoch = config.lr_schedule_interval == "epoch"
    moves = -(-steps // steps_per_epoch) if by_epoch else steps
    every = steps_per_epoch if by_epoch else 1
    if config.lr_schedule == "one_cycle":
        return Schedule(_one_cycle(optimizer, moves, config), every)
    rise = max(1, round(config.warmup_fraction * moves))
    fall = moves - rise if config.lr_schedule == "cosine" else 0
    return Schedule(LambdaLR(optimizer, lambda move: _rise_and_fall(move, rise, fall)), every)


def _one_cycle(optimizer: Optimizer, moves: int, config: TrainingConfig) -> OneCycleLR:
    """Up to the learning rate in the first share `warmup_fraction` of the moves, then down to almost 0 (Smith 2018)."""
    share = config.warmup_fraction
    if share * moves == 1.0:  # OneCycleLR would divide by zero
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
