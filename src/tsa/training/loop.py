"""The training loop: epochs of sampled rows, one optimiser step a batch, a running average of the weights, early stopping.

It knows tensors and rows; where a run is written and what becomes of its weights is in fit.py.
"""

from __future__ import annotations

import logging
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
from torch.optim.swa_utils import AveragedModel

from tsa.data.sampling import epoch_rows
from tsa.data.store import EventStore
from tsa.errors import TrainingError
from tsa.model import TSANetwork
from tsa.model.inputs import gather_batch
from tsa.progress import Progress
from tsa.scoring.scorer import score_events
from tsa.training.config import TrainingConfig

logger = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Weights = dict[str, Tensor]


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
    device = next(network.parameters()).device
    steps = steps_per_epoch(store, train, config)
    optimizer = make_optimizer(network, config)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=steps * config.epochs, pct_start=config.warm_up
    )
    averaged = AveragedModel(network, multi_avg_fn=_running_average(config.ema_decay))
    history = History()
    for epoch in range(1, config.epochs + 1):
        started, network_loss, norm = time.perf_counter(), 0.0, 0.0
        network.train()
        with progress(f"epoch {epoch} of {config.epochs}", steps) as advance:
            for rows in batches(store, train, config, epoch):
                rate = float(schedule.get_last_lr()[0])
                loss = _loss(network, store, rows, device)
                _refuse_not_finite(loss, epoch, rate)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                norm += float(nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm))
                optimizer.step()
                schedule.step()
                averaged.update_parameters(network)
                network_loss += loss.item()
                advance(1)
        record = {
            "epoch": epoch,
            "loss": network_loss / steps,
            "gradient_norm": norm / steps,
            "learning_rate": rate,
            "payments_per_second": steps * config.batch_size / (time.perf_counter() - started),
            **_validate(cast(TSANetwork, averaged.module), store, validation, progress),
        }
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


def steps_per_epoch(store: EventStore, train: Rows, config: TrainingConfig) -> int:
    """Whole batches of an epoch; TrainingError when the rows do not fill one."""
    label = store.label[train]
    n_fraud, n_genuine = int((label == 1).sum()), int((label == 0).sum())
    if n_fraud == 0 or n_genuine == 0:
        raise TrainingError(
            f"the training range must hold both outcomes, however: frauds={n_fraud}, genuine={n_genuine}"
        )
    rows = n_fraud + min(n_genuine, round(n_fraud * config.genuine_per_fraud))
    if rows < config.batch_size:
        raise TrainingError(f"an epoch must fill a batch, however: rows={rows}, batch_size={config.batch_size}")
    return rows // config.batch_size


def batches(store: EventStore, train: Rows, config: TrainingConfig, epoch: int) -> Iterator[Rows]:
    """The row numbers of each batch of an epoch. What is left over after the last whole batch waits for another epoch."""
    rng = np.random.default_rng([config.seed, epoch])
    rows = epoch_rows(train, store.label[train], config.genuine_per_fraud, rng)
    whole = len(rows) // config.batch_size * config.batch_size
    yield from rows[:whole].reshape(-1, config.batch_size)


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; weights of linear maps decay, biases, norms and embeddings do not (Loshchilov and Hutter 2019)."""
    kept = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag | nn.LayerNorm)}
    decay = [p for p in network.parameters() if p.ndim > 1 and id(p) not in kept]
    rest = [p for p in network.parameters() if p.ndim <= 1 or id(p) in kept]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _loss(network: TSANetwork, store: EventStore, rows: Rows, device: torch.device) -> Tensor:
    logits = network(gather_batch(store, rows, trim=True).to(device))
    target = torch.from_numpy(store.label[rows].astype(np.int64)).to(device)
    return functional.cross_entropy(logits, target) + network.auxiliary_loss()


def _refuse_not_finite(loss: Tensor, epoch: int, rate: float) -> None:
    if not torch.isfinite(loss):
        raise TrainingError(f"the loss must be finite, however: loss={loss.item()} in epoch {epoch} at rate {rate:g}")


def _running_average(decay: float) -> Callable[..., None]:
    """An average that follows the weights at first, so that the starting point is forgotten, then decays at `decay`."""

    @torch.no_grad()
    def update(averages: list[Tensor], current: list[Tensor], seen: Tensor | int) -> None:
        share = max(1.0 - decay, 1.0 / (1.0 + int(seen)))
        torch._foreach_lerp_(averages, current, share)

    return update


def _validate(network: TSANetwork, store: EventStore, rows: Rows, progress: Progress) -> dict[str, float]:
    if not len(rows):
        return {}
    label = store.label[rows]
    with progress("validation", len(rows)) as advance:
        scores = score_events(network, store, rows, advance=advance)
    return {
        "validation_average_precision": float(average_precision_score(label, scores)),
        "validation_roc_auc": float(roc_auc_score(label, scores)),
    }


def _copy(network: nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
