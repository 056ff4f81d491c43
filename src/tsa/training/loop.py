"""The training loop: epochs of sampled rows, one optimiser step a batch, a running average of the weights, early stopping.

It knows tensors and rows; where a run is written and what becomes of its weights is in fit.py.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel

from tsa.data.sampling import Draw
from tsa.data.store import EventStore
from tsa.errors import TrainingError
from tsa.model import TSANetwork
from tsa.model.inputs import gather_batch
from tsa.progress import Advance, Progress
from tsa.scoring.scorer import score_events
from tsa.training.config import TrainingConfig
from tsa.training.sampler import Sampler

logger = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Weights = dict[str, Tensor]

NO_LINEAR_MAP = ("bias", "engineered", "frequency", "token")
"""How the names of matrices end that no event is multiplied with: embeddings and biases per feature, frequencies."""


@dataclass
class History:
    """What happened in each epoch, and the weights that are to be kept."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best: Weights = field(default_factory=dict)

    def better(self) -> bool:
        """Whether the latest epoch has the highest validation average precision so far."""
        values = [epoch["validation_average_precision"] for epoch in self.epochs]
        return len(values) == 1 or values[-1] > max(values[:-1])


@dataclass(frozen=True)
class _Loop:
    """What an epoch of training works on."""

    network: TSANetwork
    averaged: AveragedModel
    optimizer: torch.optim.Optimizer
    schedule: OneCycleLR
    store: EventStore
    config: TrainingConfig


def train_network(
    network: TSANetwork,
    store: EventStore,
    train: Rows,
    validation: Rows,
    config: TrainingConfig,
    *,
    progress: Progress,
    on_epoch: Callable[[dict[str, Any]], None],
) -> History:
    """Train `network` in place on the labelled rows `train` and leave it with the weights that are to be kept."""
    sampler = Sampler(store, train, config)
    optimizer = make_optimizer(network, config)
    schedule = make_schedule(optimizer, sampler.steps * config.epochs, config)
    averaged = AveragedModel(network, multi_avg_fn=_running_average(config.ema_decay))
    loop = _Loop(network, averaged, optimizer, schedule, store, config)
    history = History()
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        drawn = sampler.epoch(epoch, cast(TSANetwork, averaged.module), progress)
        with progress(f"epoch {epoch} of {config.epochs}", sampler.steps) as advance:
            record = {"epoch": epoch, **_train_epoch(loop, drawn, epoch, advance)}
        record |= _validate(cast(TSANetwork, averaged.module), store, validation, progress)
        record["seconds"] = time.perf_counter() - started
        history.epochs.append(record)
        on_epoch(record)
        if not config.early_stopping or history.better():
            history.best_epoch, history.best = epoch, _copy(averaged.module)
        elif epoch - history.best_epoch >= config.patience:
            logger.info("no better validation average precision for %d epochs: stopping", config.patience)
            break
    network.load_state_dict(history.best)
    network.eval()
    return history


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; weights of linear maps decay, biases, norms and embeddings do not (Loshchilov and Hutter 2019)."""
    kept = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag | nn.LayerNorm)}
    decay: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        linear = parameter.ndim > 1 and id(parameter) not in kept and not name.endswith(NO_LINEAR_MAP)
        (decay if linear else rest).append(parameter)
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, steps: int, config: TrainingConfig) -> OneCycleLR:
    """Up to the learning rate in the first share `warm_up` of the steps, then down to almost nothing (Smith 2018)."""
    share = config.warm_up
    if share * steps == 1.0:  # a rise of no steps at all, which OneCycleLR would divide by
        share *= 1.0 + 1e-6
    return OneCycleLR(optimizer, config.learning_rate, total_steps=steps, pct_start=share)


def _train_epoch(loop: _Loop, drawn: Iterator[Draw], epoch: int, advance: Advance) -> dict[str, Any]:
    """One step a batch. Returns the means of loss and gradient norm, the last learning rate, and the speed."""
    started, losses, norms = time.perf_counter(), [], []
    parameters = list(loop.network.parameters())
    loop.network.train()
    for draw in drawn:
        rate = float(loop.schedule.get_last_lr()[0])
        loss = _loss(loop.network, loop.store, draw, parameters[0].device)
        loop.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        norms.append(float(nn.utils.clip_grad_norm_(parameters, loop.config.clip_norm)))
        _refuse_not_finite(losses[-1], norms[-1], epoch, rate)
        loop.optimizer.step()
        loop.schedule.step()
        loop.averaged.update_parameters(loop.network)
        advance(1)
    steps = len(losses)
    return {
        "loss": sum(losses) / steps,
        "gradient_norm": sum(norms) / steps,
        "learning_rate": rate,
        "payments_per_second": steps * loop.config.batch_size / (time.perf_counter() - started),
    }


def _loss(network: TSANetwork, store: EventStore, draw: Draw, device: torch.device) -> Tensor:
    logits = network(gather_batch(store, draw.rows, trim=True).to(device))
    target = torch.from_numpy(store.label[draw.rows].astype(np.int64)).to(device)
    each = functional.cross_entropy(logits, target, reduction="none")
    return (each * torch.from_numpy(draw.weight).to(device)).mean() + network.auxiliary_loss()


def _refuse_not_finite(loss: float, norm: float, epoch: int, rate: float) -> None:
    """Before the step: one that is not finite would ruin the weights, and be seen only later or never."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        found = f"loss={loss}, gradient norm={norm} in epoch {epoch} at rate {rate:g}"
        raise TrainingError(f"the loss and its gradient must be finite, however: {found}")


def _running_average(decay: float) -> Callable[..., None]:
    """An average that follows the weights at first, so that the starting point is forgotten, then decays at `decay`."""

    @torch.no_grad()
    def update(averages: list[Tensor], current: list[Tensor], seen: Tensor | int) -> None:
        share = max(1.0 - decay, 1.0 / (1.0 + int(seen)))
        torch._foreach_lerp_(averages, current, share)

    return update


def _validate(network: TSANetwork, store: EventStore, rows: Rows, progress: Progress) -> dict[str, float]:
    """Nothing where the range lacks one of the two outcomes: early stopping, which would need it, was refused then."""
    label = store.label[rows]
    if len(np.unique(label)) < 2:
        return {}
    with progress("validation", len(rows)) as advance:
        scores = score_events(network, store, rows, advance=advance)
    if not np.isfinite(scores).all():
        raise TrainingError(f"scores must be finite, however: {np.count_nonzero(~np.isfinite(scores))} are not")
    return {
        "validation_average_precision": float(average_precision_score(label, scores)),
        "validation_roc_auc": float(roc_auc_score(label, scores)),
    }


def _copy(network: nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
