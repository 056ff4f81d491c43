"""What a run ends with: scores of the ranges that were not learned from, calibration fitted on them, the bundle.

Knows the trained network and the store; not how it was trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.calibration.calibration import Calibration
from tsa.data.store.store import EventStore
from tsa.evaluation.run import WEIGHTS_SHA256
from tsa.files.writing import atomic_file
from tsa.model import TSANetwork
from tsa.training.config import TrainingConfig
from tsa.training.data.sampling import genuine_sampling_rate
from tsa.training.validation import DistributedScorer, Scores

logger = logging.getLogger(__name__)

RANGES = ("validation", "calibration")


def score_splits(network: TSANetwork, scoring: DistributedScorer) -> dict[str, Scores]:
    """Raw scores of all payments of each range, labelled or not."""
    store = scoring.store
    rows = {name: store.split_rows(name) for name in RANGES}
    return {name: scoring(network, found, f"scoring the {name} range") for name, found in rows.items()}


def write_split_scores(store: EventStore, name: str, scores: Scores, out: Path, weights: str) -> None:
    """`NAME_scores.parquet`: id, time (UTC), raw score and label (null where it is not known), in time order.

    weights: the sha256 of the weights that gave the scores. It stands in the file, so that evaluation uses these scores
    for these weights alone.
    """
    rows = store.split_rows(name)
    frame = pl.DataFrame(
        {
            "id": store.ids_of(rows),
            "time": (store.time_seconds[rows] * 1e6).round().astype(np.int64),
            "raw_score": scores,
            "label": store.labels(name),
        }
    )
    known = pl.when(pl.col("label") >= 0).then(pl.col("label"))
    with atomic_file(out / f"{name}_scores.parquet") as aside:
        typed = frame.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")), label=known)
        typed.write_parquet(aside, metadata={WEIGHTS_SHA256: weights})


def fit_calibration(
    store: EventStore, scores: Mapping[str, Scores], train: NDArray[np.int64], config: TrainingConfig
) -> Calibration:
    """Fitted on the calibration range; on the validation range where the former was learned from or is empty.

    Where both were, there is no calibration, which says so: on what it has learned a network is too sure.
    """
    usable = [name for name in ("calibration", "validation") if name not in config.train_on and len(scores[name])]
    if not usable:
        reason = (
            "the calibration and validation ranges were learned from or hold no payments; one of them must be kept out"
        )
        return Calibration(reasons=dict.fromkeys(("percentile", "probability"), reason))
    name = usable[0]
    found = Calibration.fit(
        scores=scores[name],
        labels=store.labels(name),
        method=config.calibration,
        sampling_rate_genuine=genuine_sampling_rate(store.label[train], config.genuine_per_fraud),
    )
    if found.note:
        logger.warning("%s", found.note)
    return found
