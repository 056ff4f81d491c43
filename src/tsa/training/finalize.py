"""The end of a run: scores of the validation and calibration ranges, the calibration, and `Trained`, its result."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.bundle.bundle import Bundle
from tsa.calibration.calibration import Calibration
from tsa.data.store.store import EventStore
from tsa.evaluation.trained_run import WEIGHTS_SHA256
from tsa.files.writing import atomic_file, write_json
from tsa.model import TSANetwork
from tsa.training.checkpoint import Checkpoints
from tsa.training.config import TrainingConfig
from tsa.training.diagnostics import translate_resource_errors
from tsa.training.run_folder import BUNDLE, CHECKPOINTS, RUN, utc_now
from tsa.training.tracking import CURVES, draw_curves
from tsa.training.validation import DistributedScorer, Scores

logger = logging.getLogger(__name__)

RANGES = ("validation", "calibration")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The result of training, before the bundle is written."""

    out: Path
    store: EventStore
    bundle: Bundle
    metadata: Mapping[str, Any]
    """The content of run.json for a finished run, without the time."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """Raw scores of all payments of the validation and calibration ranges. Empty for a run that was finished before."""
    is_written: bool = False
    """Whether the run was finished before, so that its folder has a bundle."""
    is_unfinished: bool = False
    """Whether the run was stopped and may be resumed: then it is not marked as finished."""

    def write(self, metrics: Mapping[str, Any] | None = None) -> Bundle:
        """Write the bundle, with metrics if given, and mark the run as finished. An equal bundle is not written again.

        Returns:
            The bundle in the folder.

        Raises:
            TrainingError: If disk space runs out.
        """
        bundle = self.bundle if metrics is None else replace(self.bundle, metrics=metrics)
        with translate_resource_errors(self.out):
            if not self.is_written or bundle.metrics != self.bundle.metrics:
                bundle.save(self.out / BUNDLE)
            if not self.is_written and not self.is_unfinished:
                draw_curves(self.metadata["epochs"], self.out / CURVES)
                write_json(self.out / RUN, {**self.metadata, "finished": utc_now()})
                Checkpoints(self.out / CHECKPOINTS, {}).prune(max_checkpoints=1)
        return bundle


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
    store: EventStore,
    scores: Mapping[str, Scores],
    sampling_rate_genuine: float,
    config: TrainingConfig,
    *,
    is_held_out: bool = False,
) -> Calibration:
    """Fit the calibration on the calibration range, or on the validation range if the former was trained on or is empty.

    Without either the bundle has no calibration, with the reason: a network is overconfident on its training rows.

    Args:
        store: The store.
        scores: (m,) raw scores of all payments per range.
        sampling_rate_genuine: The share of the genuine payments that training used.
        config: The training settings.
        is_held_out: The scores of both ranges come from models that did not learn from them: both are used.
    """
    if is_held_out:
        ranges = [name for name in RANGES if len(scores[name])]
        return _fitted(
            np.concatenate([scores[name] for name in ranges]),
            np.concatenate([store.labels(name) for name in ranges]),
            sampling_rate_genuine,
            config,
        )
    usable = [name for name in ("calibration", "validation") if name not in config.train_on and len(scores[name])]
    if not usable:
        reason = "the calibration and validation ranges were trained on or hold no payments; leave one of them out of train_on"
        return Calibration(reasons=dict.fromkeys(("percentile", "probability"), reason))
    return _fitted(scores[usable[0]], store.labels(usable[0]), sampling_rate_genuine, config)


def _fitted(scores: Scores, labels: NDArray[np.int8], rate: float, config: TrainingConfig) -> Calibration:
    calibration = Calibration.fit(scores=scores, labels=labels, method=config.calibration, sampling_rate_genuine=rate)
    if calibration.note:
        logger.warning("%s", calibration.note)
    return calibration
