"""Train the trees of a model: LightGBM on the columns of `tsa.data.tree_columns`, stopped early on later payments.

Several such models with different seeds are averaged, and where frauds are few two of them may have deep trees
(docs/concepts/design.md has measurements).

The same store and settings give the same trees, to the bit, on any number of threads.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from tsa.data.store.store import EventStore
from tsa.data.tree_columns import TreeColumns
from tsa.model.boosted_trees import BoostedTrees, lightgbm_library
from tsa.model.tree_model import TreeModel
from tsa.training.parts.averaged_trees import averaged

if TYPE_CHECKING:
    import lightgbm

Rows = NDArray[np.int64]
Array = NDArray[Any]

logger = logging.getLogger(__name__)

MAX_VALUES = 400_000_000
"""Above this many values (payments x columns) in all models together, each draws its own sample of genuine payments, to
limit time and memory."""
MAX_ROUNDS, PATIENCE = 1500, 50
"""Trees at most; and rounds without a better result on the later payments before training stops."""
LATER_SHARE = 0.15
"""Share of the training payments, the latest, that decide the number of trees if no validation range is left out."""
MIN_LEAVES, MAX_LEAVES = 7, 31
CASES_PER_LEAF = 40
"""Training payments with the rarer outcome for each leaf of a tree: the fewer frauds, the fewer leaves."""
FEW_CASES = 64
"""With fewer later payments of the rarer outcome, average precision jumps with each of them, and log loss ends training."""
DEEP_SHARE = 0.4
"""With so few validation payments of the rarer outcome, deep trees are tried too: in this share of the averaged models."""
DEEP_ROUNDS = 250
"""Deep trees of a model: later payments do not end its training, so they can judge it."""
DEEP: dict[str, Any] = {"num_leaves": MAX_LEAVES, "lambda_l2": 1.0, "feature_fraction": 0.8}
SETTINGS: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.05,
    "min_child_samples": 50,
    "lambda_l2": 10.0,
    "feature_fraction": 0.2,
    "feature_pre_filter": False,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}


def fit_trees(
    store: EventStore,
    train: Rows,
    validation: Rows,
    *,
    seed: int,
    threads: int,
    n_ensemble: int = 1,
    max_rounds: int = MAX_ROUNDS,
    seconds: float = math.inf,
    n_trees: int | None = None,
    n_deep: int | None = None,
) -> TreeModel:
    """Train on the labelled rows `train`; `validation` decides how many trees there are, and whether some are deep.

    Without validation rows, the latest training rows decide, and then all are learned from.

    Args:
        seed: Of the sampling and of LightGBM.
        threads: Of LightGBM.
        n_ensemble: Models that are averaged.
        max_rounds: Trees of each model at most.
        seconds: After about so many, training ends with the trees that there are.
        n_trees: So many trees of each model, whatever later payments say; then all of `train` is learned from.
        n_deep: So many of the models have deep trees; None: some of them where that ranks the validation rows better.
    """
    columns = TreeColumns.of(store, train)
    label = np.asarray(store.label)
    settings = {**SETTINGS, "num_leaves": _leaves(label[train]), "num_threads": threads}
    later = validation if len(validation) else _latest(train)
    is_tried = n_deep is None and n_trees is None and 0 < _rarer(label[validation]) < FEW_CASES
    deep = (round(DEEP_SHARE * n_ensemble) if is_tried else 0) if n_deep is None else min(n_deep, n_ensemble)
    fitting = _Fitting(
        store,
        columns,
        settings,
        most=MAX_VALUES // len(columns.names) // n_ensemble,
        max_rounds=max_rounds,
        train=train,
        later=later,
        is_held_out=len(validation) > 0,
        n_trees=n_trees,
        ends=time.monotonic() + seconds,
    )
    plain = fitting.members(n_ensemble if is_tried else n_ensemble - deep, seed)
    texts = plain + fitting.members(deep, seed + n_ensemble - deep, DEEP, first=not plain)
    if is_tried and deep:
        mixed = plain[: n_ensemble - deep] + texts[len(plain) :]
        deep = deep if len(texts) == len(plain) + deep and fitting.ranks_better(mixed, plain) else 0
        texts = mixed if deep else plain
    logger.info(
        "trees: %d models, %d of them deep, %d columns, trained on %d payments",
        *(len(texts), deep, len(columns.names), len(train)),
    )
    trees = BoostedTrees(text=averaged(texts), names=columns.names, shift=math.log(fitting.rate))
    return TreeModel(columns=columns, trees=trees, n_deep=deep)


def _share(deadline: float, n: int) -> float:
    """When the first of `n` trainings of equal length has to end."""
    now = time.monotonic()
    return now + (deadline - now) / n


def _leaves(label: Array) -> int:
    """Leaves of a tree, for training labels (n,)."""
    return min(MAX_LEAVES, max(MIN_LEAVES, _rarer(label) // CASES_PER_LEAF))


def _rarer(label: Array) -> int:
    """How many labels (n,) are of the rarer outcome."""
    return min(int((label == 1).sum()), int((label == 0).sum()))


@dataclass
class _Fitting:
    """Trains models one after the other. Datasets are made once if all payments are learned from."""

    store: EventStore
    columns: TreeColumns
    settings: dict[str, Any]
    most: int
    """Payments that a model learns from at most."""
    max_rounds: int
    train: Rows
    later: Rows
    """Payments that decide how many trees there are."""
    is_held_out: bool
    """Whether no model learns from `later`."""
    n_trees: int | None
    ends: float
    """When all have to be trained, by the monotonic clock."""
    deadline: float = math.inf
    """When the training of a model has to end."""
    rate: float = 1.0
    """Share of the genuine payments that the last model learned from."""
    _made: dict[str, tuple[Rows, Any, lightgbm.Dataset]] = field(default_factory=dict)

    def members(self, count: int, seed: int, kind: Mapping[str, Any] | None = None, *, first: bool = True) -> list[str]:
        """The texts of `count` models with successive seeds; fewer where time ends, but at least one if these are the first.

        Args:
            kind: Settings that differ from the usual ones.
        """
        rounds = self.n_trees or (min(DEEP_ROUNDS, self.max_rounds) if kind else None)
        texts: list[str] = []
        for member in range(count):
            if (texts or not first) and time.monotonic() >= self.ends:
                break
            self.deadline = _share(self.ends, count - member + (not self.is_held_out))
            if rounds is None:
                text, stopped = self.stopped_early(seed + member)
                if self.is_held_out:
                    texts.append(text)
                    continue
                rounds = stopped
            texts.append(self.with_rounds(rounds, seed + member, kind))
        return texts

    def ranks_better(self, texts: Sequence[str], others: Sequence[str]) -> bool:
        """Whether the mean of some models has the higher average precision on the later payments."""
        values = np.concatenate(list(self.columns.parts(self.store, self.later)))
        label = np.asarray(self.store.label[self.later])
        one, other = (
            average_precision_score(label, BoostedTrees(text=averaged(some), names=self.columns.names).log_odds(values))
            for some in (texts, others)
        )
        logger.info("trees: average precision %.4f with deep trees, %.4f without", one, other)
        return bool(one > other)

    def stopped_early(self, seed: int) -> tuple[str, int]:
        """Train until the later payments get no better: the text and its number of trees."""
        library = lightgbm_library()
        data = self._sampled(self.train if self.is_held_out else np.setdiff1d(self.train, self.later), seed)
        check = self._dataset("later", self.later, reference=data)
        stop = library.early_stopping(PATIENCE, first_metric_only=True, verbose=False)
        checks = {"valid_sets": [check], "valid_names": ["later"], "callbacks": [stop, self._stop_when_late]}
        metric = "binary_logloss" if _rarer(self.store.label[self.later]) < FEW_CASES else "average_precision"
        booster = library.train({**self._seeded(seed), "metric": metric}, data, self.max_rounds, **checks)
        rounds = max(1, int(booster.best_iteration))
        return booster.model_to_string(num_iteration=rounds), rounds

    def _stop_when_late(self, env: Any) -> None:
        """A callback of LightGBM."""
        if time.monotonic() >= self.deadline:
            logger.info("trees: time ends training after %d trees", env.iteration + 1)
            raise lightgbm_library().callback.EarlyStopException(env.iteration, env.evaluation_result_list)

    def with_rounds(self, rounds: int, seed: int, kind: Mapping[str, Any] | None) -> str:
        """The text of so many trees."""
        data, callbacks = self._sampled(self.train, seed), [self._stop_when_late]
        booster = lightgbm_library().train(self._seeded(seed, kind), data, rounds, callbacks=callbacks)
        return str(booster.model_to_string())

    def _seeded(self, seed: int, kind: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Settings with the seed of the columns that each tree reads, which is all that is random in training."""
        return {**self.settings, **(kind or {}), "feature_fraction_seed": seed % 2**31}

    def _sampled(self, rows: Rows, seed: int) -> lightgbm.Dataset:
        sample, self.rate = _sample(np.asarray(self.store.label), rows, self.most, seed)
        return self._dataset("learned", sample)

    def _dataset(self, name: str, rows: Rows, reference: Any = None) -> lightgbm.Dataset:
        """The dataset of some rows; the last one of this name if it is the same."""
        if (last := self._made.get(name)) is not None and last[1] is reference and np.array_equal(last[0], rows):
            return last[2]
        made = _dataset(self.store, self.columns, rows, self.settings, reference)
        self._made[name] = (rows, reference, made)
        return made


def _sample(label: Array, rows: Rows, most: int, seed: int) -> tuple[Rows, float]:
    """Every fraud, and a sample of the genuine rows so that about `most` rows are left; also the sampling rate."""
    genuine = rows[label[rows] == 0]
    n_sampled = max(most - (len(rows) - len(genuine)), most // 10)
    if len(rows) <= most or n_sampled >= len(genuine):
        return rows, 1.0
    chosen = np.random.default_rng(seed).choice(genuine, n_sampled, replace=False)
    return np.sort(np.concatenate([rows[label[rows] != 0], chosen])), n_sampled / len(genuine)


def _latest(rows: Rows) -> Rows:
    """The latest share of rows, in time order."""
    ordered = np.sort(rows)
    return ordered[int(len(ordered) * (1 - LATER_SHARE)) :]


def _dataset(
    store: EventStore, columns: TreeColumns, rows: Rows, settings: dict[str, Any], reference: Any = None
) -> lightgbm.Dataset:
    values = np.empty((len(rows), len(columns.names)), np.float32)
    first = 0
    for part in columns.parts(store, rows):
        values[first : first + len(part)] = part
        first += len(part)
    data: lightgbm.Dataset = lightgbm_library().Dataset(
        values,
        np.asarray(store.label[rows], np.float32),
        reference=reference,
        params=settings,
        categorical_feature=columns.codes,
        free_raw_data=True,
    )
    data.construct()
    return data
