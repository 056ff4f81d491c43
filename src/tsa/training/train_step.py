"""One training step: loss, gradient, clipping, optimiser, schedule, running average."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tsa.model import TSANetwork
from tsa.model.batch import Batch, History
from tsa.model.config import ModelConfig
from tsa.training.config import TrainingConfig
from tsa.training.data.loader import Microbatch
from tsa.training.distributed import DistributedContext
from tsa.training.losses import make_loss
from tsa.training.optim import Schedule, evaluation_weights, make_optimizer, make_schedule
from tsa.training.precision import Precision

RECENT = 2.0
"""The weight of step n in the running average is this / (this + n), at least 1 − decay."""
PARTS = ("network", "average", "optimizer", "schedule", "scaler")


@dataclass(frozen=True)
class StepResult:
    """The loss over the batch, the gradient norm before clipping, and the learning rate."""

    loss: float
    gradient_norm: float
    learning_rate: float
    flags: Sequence[float]
    """The flags of all processes, summed."""


class NotFiniteError(Exception):
    """A loss or a gradient that is not finite; the weights are as before the step."""


class TrainStep:
    """A network with its optimiser, schedule, running average and loss scaler."""

    def __init__(
        self, network: TSANetwork, config: TrainingConfig, processes: DistributedContext, *, steps_per_epoch: int
    ) -> None:
        self.network, self.config, self.processes = network, config, processes
        self.parameters = list(network.parameters())
        self.optimizer = make_optimizer(network, config)
        self.steps_per_epoch = steps_per_epoch
        self.schedule = self._schedule(config.epochs * steps_per_epoch)
        self.average = AveragedModel(network, multi_avg_fn=running_average(config.ema_decay))
        self.precision = Precision(config.precision, processes.device)
        self.scaler = self.precision.scaler
        self.criterion = make_loss(config)
        if processes.count > 1:
            freeze_parameters_without_grad(network)
        self._module = processes.wrap_ddp(_compiled(network) if config.compile else network)

    def plan(self, steps: int) -> None:
        """Change the schedule to one of `steps` steps in all, of which those so far count."""
        done, self.schedule = self.schedule.steps, self._schedule(max(steps, self.schedule.steps + 1, 2))
        for _ in range(done):
            self.schedule.step()

    def _schedule(self, steps: int) -> Schedule:
        return make_schedule(self.optimizer, steps_per_epoch=self.steps_per_epoch, steps=steps, config=self.config)

    @property
    def ema_network(self) -> TSANetwork:
        """The network that is validated and saved: the running average."""
        return cast(TSANetwork, self.average.module)

    def step(self, parts: Sequence[Microbatch], epoch: int, flags: Sequence[float] = ()) -> StepResult:
        """Train on a batch, given in `parts`.

        Raises:
            NotFiniteError: In all processes, before the weights change.
        """
        self.network.train()
        rate = self.schedule.get_last_lr()[0]
        loss, *flag_sums = self._gradients(parts, epoch, flags)
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        if not math.isfinite(loss) or not (math.isfinite(norm) or self.precision.may_overflow):
            raise NotFiniteError(f"loss={loss}, gradient norm={norm} at rate {rate:g}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.average.update_parameters(self.network)
        return StepResult(loss, norm, rate, flag_sums)

    def _gradients(self, parts: Sequence[Microbatch], epoch: int, flags: Sequence[float]) -> list[float]:
        """Compute gradients of the mean loss over all processes; returns that mean and the sums of the flags."""
        self.optimizer.zero_grad()
        summed = torch.zeros((), device=self.processes.device)
        for part in parts[:-1]:
            with self.processes.no_sync(self._module):
                loss = self.loss(part, epoch)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                summed += loss.detach()
        loss = self.loss(parts[-1], epoch)
        total = loss.detach() if len(parts) == 1 else summed + loss.detach()
        # summed while gradients are computed
        sums = self.processes.sum(torch.stack([total.double(), *total.new_tensor(flags, dtype=torch.float64)]))
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        mean, *flag_sums = sums.barrier()
        return [mean / self.processes.count, *flag_sums]

    def loss(self, part: Microbatch, epoch: int) -> Tensor:
        """The weighted mean loss of a part plus the experts' balance loss, times its share in the step; scalar."""
        return self._loss(self._module, self.network, part, epoch)

    def try_batch(self, part: Microbatch, epoch: int) -> None:
        """Check whether a step on `part` fits into memory, using the averaged network, without training."""
        self.optimizer.zero_grad()
        try:
            self._loss(self.ema_network.train(), self.ema_network, part, epoch).backward()  # type: ignore[no-untyped-call]
        finally:
            self.ema_network.zero_grad()

    def _loss(self, module: nn.Module, network: TSANetwork, part: Microbatch, epoch: int) -> Tensor:
        device = self.processes.device
        batch, target, weight = part.batch.to(device), part.target.to(device), part.weight.to(device)
        with self.precision.products():
            logits = module(batch, per_member=True)
        if logits.ndim == 3:  # each member is trained on its own errors, not on those of the mean
            each = self.criterion(logits.flatten(0, 1), target.repeat_interleave(logits.shape[1]), epoch)
            each = each.view(logits.shape[:2]).mean(1)
        else:
            each = self.criterion(logits, target, epoch)
        return ((each * weight).mean() + network.auxiliary_loss()) * part.task.loss_weight

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """Inside the block, the network to save has the weights to validate; some optimisers compute the average themselves."""
        with evaluation_weights(self.optimizer):
            if self.config.ema_decay == 0.0:
                self.ema_network.load_state_dict(self.network.state_dict())
            yield

    def state_dict(self) -> dict[str, Any]:
        """Everything that steps change."""
        return {name: getattr(self, name).state_dict() for name in PARTS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the same settings."""
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])


def running_average(decay: float) -> Callable[..., None]:
    """An average over about the last half of the steps so far, at most over 1 / (1 − decay) of them.

    Unlike a plain moving average it forgets the initial weights in short runs (Shamir and Zhang 2013).
    """

    @torch.no_grad()
    def update(averages: list[Tensor], current: list[Tensor], seen: Tensor | int) -> None:
        share = max(1.0 - decay, RECENT / (RECENT + int(seen)))
        torch._foreach_lerp_(averages, current, share)

    return update


def _compiled(network: TSANetwork) -> nn.Module:
    """The network compiled for batches of any size and histories of any length."""
    return cast(nn.Module, torch.compile(network, dynamic=True))


def freeze_parameters_without_grad(network: TSANetwork) -> list[str]:
    """Freeze the weights that get no gradient; returns their names. Uses up no random numbers."""
    device = network.table.weight.device
    parameters = dict(network.named_parameters())
    network.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type=device.type):
        logits = network(_some_batch(network.config).to(device))
        total = logits.sum() + network.auxiliary_loss()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    unused = [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None]
    for name in unused:
        parameters[name].requires_grad_(False)
    return unused


def _some_batch(config: ModelConfig, payments: int = 2, events: int = 2) -> Batch:
    """Identical payments with identical events."""
    shape = payments, events
    history = History(
        categorical=torch.ones(*shape, config.n_categorical, dtype=torch.int32),
        numerical=torch.ones(*shape, config.n_numerical),
        age_seconds=torch.tensor([1.0, 0.0]).expand(shape),
        padding=torch.zeros(shape, dtype=torch.bool),
        outcome=torch.ones(shape, dtype=torch.int8),
        same_key=torch.ones(*shape, config.n_match_keys, dtype=torch.bool),
    )
    engineered = torch.ones(payments, config.n_engineered) if config.n_engineered else None
    return Batch(dict.fromkeys(config.histories, history), engineered)
