"""What training adds to a network: trees, and how both are joined. All processes take part, the first one computes.

Checkpoints hold nothing of it: a run that was killed trains the same trees again, which takes a moment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tsa.data.store.store import EventStore
from tsa.model.config import ModelConfig
from tsa.model.network_and_trees import ALONE, Joining, raw_scores
from tsa.model.tree_model import TreeModel
from tsa.progress import Progress
from tsa.training.config import TrainingConfig
from tsa.training.distributed import DistributedContext
from tsa.training.finalize import range_rows
from tsa.training.parts.choose_parts import PartsChoice, choose_form
from tsa.training.parts.trees import fit_trees

Array = NDArray[Any]
Rows = NDArray[np.int64]
HeldOut = Mapping[str, Mapping[str, Array]]
"""(m,) log odds by part ("network", "trees") and range, of all its payments, by models that did not learn from them."""


@dataclass(frozen=True, kw_only=True)
class TrainedTrees:
    """Trees, and their log odds (m,) of all payments per range."""

    model: TreeModel
    log_odds: Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class JoinedParts:
    """Trees (None for a network alone), how they are joined with the network, and what was measured to decide it."""

    trees: TreeModel | None = None
    joining: Joining = ALONE["network"]
    choice: Mapping[str, Any]
    scores: Mapping[str, NDArray[np.float32]]
    """Raw scores of all payments per range; in the first process alone."""


def train_trees(
    model: ModelConfig,
    store: EventStore,
    rows: Mapping[str, Rows],
    config: TrainingConfig,
    progress: Progress,
    *,
    seconds: float = math.inf,
) -> TrainedTrees:
    """Train trees in this process, and score the ranges with them. seconds: training ends after about so many."""
    with progress("training trees", 1) as advance:
        fitted = fit_trees(
            store,
            rows["train"],
            rows["validation"],
            seed=config.seed,
            threads=max(1, torch.get_num_threads()),
            n_ensemble=model.n_tree_ensemble,
            seconds=seconds,
            n_trees=config.n_trees,
            n_deep=config.n_deep_trees,
        )
        advance(1)
    return TrainedTrees(
        model=fitted, log_odds={name: fitted.of_store(store, some) for name, some in range_rows(store).items()}
    )


def join_parts(
    model: ModelConfig,
    store: EventStore,
    rows: Mapping[str, Rows],
    network: Mapping[str, Array],
    config: TrainingConfig,
    processes: DistributedContext,
    progress: Progress,
    trees: TrainedTrees | None = None,
    *,
    held_out: HeldOut | None = None,
) -> JoinedParts:
    """Train trees on the rows of a run, and join them with its network.

    Args:
        model: Its settings say which parts there are, and how many models of trees.
        rows: Labelled rows, "train" and "validation".
        network: (m,) log odds of the trained network, of all payments per range.
        trees: In the first process, if they are trained already.
        held_out: Log odds to join by instead, of models that did not learn from the payments.
    """
    network = network if held_out is None else held_out["network"]
    if model.parts == "network":
        return JoinedParts(choice={}, scores={name: raw_scores(log_odds) for name, log_odds in network.items()})

    def work() -> tuple[str, dict[str, Any], PartsChoice, dict[str, NDArray[np.float32]]]:
        fitted = trees or train_trees(model, store, rows, config, progress)
        log_odds = fitted.log_odds if held_out is None else held_out["trees"]
        learned = config.train_on if held_out is None else ()
        choice = _choice(model.parts, store, {"network": network, "trees": log_odds}, learned, config.seed)
        scores = {
            name: raw_scores(choice.joining({"network": network[name], "trees": of_range}))
            for name, of_range in log_odds.items()
        }
        return fitted.model.trees.text, fitted.model.to_dict(), choice, scores

    made = processes.run_then_barrier("parts", work if processes.is_main else None)
    text, table, choice = processes.broadcast(None if made is None else made[:3])
    return JoinedParts(
        trees=TreeModel.read(text, table),
        joining=choice.joining,
        choice=choice.to_dict(),
        scores={} if made is None else made[3],
    )


def _choice(
    parts: str, store: EventStore, log_odds: Mapping[str, Mapping[str, Array]], learned: Sequence[str], seed: int
) -> PartsChoice:
    """Decided on the labelled payments of the ranges that were not `learned` from.

    Both parts stopped early by the validation range, which is little: without it, the calibration range alone would have
    half the frauds or fewer.
    """
    ranges = [name for name in range_rows(store) if name not in learned]
    known = {name: store.labels(name) >= 0 for name in ranges}
    label = [store.labels(name)[known[name]] for name in ranges]
    values = {
        part: np.concatenate([np.empty(0), *(of_range[name][known[name]] for name in ranges)])
        for part, of_range in log_odds.items()
    }
    return choose_form(parts, values, np.concatenate([np.empty(0, np.int8), *label]), seed=seed)
