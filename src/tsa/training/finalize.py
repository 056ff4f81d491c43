"""The end of a run: score the validation and calibration ranges, and fit the calibration."""

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
from tsa.training.validation import DistributedScorer, Scores

logger = logging.getLogger(__name__)

RANGES = ("validation", "calibration")


def range_rows(store: EventStore) -> dict[str, NDArray[np.int64]]:
    """The rows of all payments of each range, labelled or not."""
    return {name: store.split_rows(name) for name in RANGES}


def log_odds_of_ranges(network: TSANetwork, scoring: DistributedScorer) -> dict[str, Scores]:
    """(m,) log odds of the network, of all payments of each range."""
    rows = range_rows(scoring.store)
    return {name: scoring.log_odds(network, of_range, f"scoring the {name} range") for name, of_range in rows.items()}


def write_split_scores(store: EventStore, name: str, scores: Scores, out: Path, weights: str) -> None:
    """`NAME_scores.parquet`: id, time (UTC), raw score and label (null where it is not known), in time order.

    Args:
        weights: The sha256 of the weights that gave the scores. It is stored in the file, so that evaluation uses the
            scores only for these weights.
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
    with atomic_file(out / f"{name}_scores.parquet") as temporary:
        typed = frame.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")), label=known)
        typed.write_parquet(temporary, metadata={WEIGHTS_SHA256: weights})


def fit_calibration(
    store: EventStore, scores: Mapping[str, Scores], sampling_rate_genuine: float, config: TrainingConfig
) -> Calibration:
    """Fit the calibration on the calibration range, or on the validation range if the former was trained on or is empty.

    Without either the bundle has no calibration, with the reason: a network is overconfident on its training rows.
    """
    usable = [name for name in ("calibration", "validation") if name not in config.train_on and len(scores[name])]
    if not usable:
        reason = "the calibration and validation ranges were trained on or hold no payments; leave one of them out of train_on"
        return Calibration(reasons=dict.fromkeys(("percentile", "probability"), reason))
    name = usable[0]
    calibration = Calibration.fit(
        scores=scores[name],
        labels=store.labels(name),
        method=config.calibration,
        sampling_rate_genuine=sampling_rate_genuine,
    )
    if calibration.note:
        logger.warning("%s", calibration.note)
    return calibration
