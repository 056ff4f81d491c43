"""Train the trees of a model: LightGBM on the columns of `tsa.data.tree_columns`, stopped early on later payments.

The same store and settings give the same trees, to the bit, on any number of threads.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.store.store import EventStore
from tsa.data.tree_columns import TreeColumns
from tsa.model.boosted_trees import BoostedTrees, lightgbm_library
from tsa.model.tree_model import TreeModel

if TYPE_CHECKING:
    import lightgbm

Rows = NDArray[np.int64]
Array = NDArray[Any]

logger = logging.getLogger(__name__)

MAX_VALUES = 400_000_000
"""Above this many values (payments x columns), genuine payments are sampled, to limit time and memory."""
MAX_ROUNDS, PATIENCE = 1500, 50
"""Trees at most; and rounds without a better average precision on the later payments before training stops."""
LATER_SHARE = 0.15
"""Share of the training payments, the latest, that decide the number of trees if no validation range is left out."""
SETTINGS: dict[str, Any] = {
    "objective": "binary",
    "metric": "average_precision",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_child_samples": 50,
    "lambda_l2": 10.0,
    "feature_fraction": 0.2,
    "feature_pre_filter": False,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


def fit_trees(
    store: EventStore, train: Rows, validation: Rows, *, seed: int, threads: int, max_rounds: int = MAX_ROUNDS
) -> TreeModel:
    """Train on the labelled rows `train`; `validation` decides how many trees there are.

    Without validation rows, the latest training rows decide, and then all are learned from.

    Args:
        seed: Of the sampling and of LightGBM.
        threads: Of LightGBM.
        max_rounds: Trees at most.
    """
    library = lightgbm_library()
    columns = TreeColumns.of(store, train)
    settings = {**SETTINGS, "seed": seed % 2**31, "num_threads": threads}
    train, rate = _sample(np.asarray(store.label), train, MAX_VALUES // len(columns.names), seed)
    later = validation if len(validation) else _latest(train)
    learned = train if len(validation) else np.setdiff1d(train, later)
    data = _dataset(store, columns, learned, settings)
    check = _dataset(store, columns, later, settings, reference=data)
    stop = library.early_stopping(PATIENCE, first_metric_only=True, verbose=False)
    booster = library.train(settings, data, max_rounds, valid_sets=[check], valid_names=["later"], callbacks=[stop])
    rounds = max(1, int(booster.best_iteration))
    logger.info("trees: %d of %d columns, trained on %d payments", rounds, len(columns.names), len(learned))
    if not len(validation):
        booster = library.train(settings, _dataset(store, columns, train, settings), rounds)
    text = booster.model_to_string(num_iteration=rounds)
    return TreeModel(columns=columns, trees=BoostedTrees(text=text, names=columns.names, shift=math.log(rate)))


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
