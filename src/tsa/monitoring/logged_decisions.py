"""Payments of a log of decisions, as a store with the scores that they were answered with."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.inference.scorer import Scorer
from tsa.progress import Progress
from tsa.serving.decisions.as_payment_log import recorded_log, write_log
from tsa.serving.decisions.read_decisions import answered

VERSION_DIGITS = 12

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RecordedPayments:
    """The payments of a log of decisions."""

    store: EventStore
    raw: NDArray[np.float64]
    """(len(store),) raw scores that the bundle gave; NaN for payments that another bundle answered, or none."""


def recorded_payments(scorer: Scorer, folder: Path, place: Path, progress: Progress) -> RecordedPayments:
    """Read a log of decisions.

    Args:
        scorer: Of the bundle whose answers count.
        folder: The folder of the log.
        place: A temporary folder for the store.
        progress: Receives the progress of long steps.

    Raises:
        ConfigError: The log has no answers of this bundle, or is of another market.
    """
    answers, version = answered(folder), (scorer.bundle.sha256 or "")[:VERSION_DIGITS]
    log = recorded_log(scorer.bundle, answers)
    own = answers.filter((pl.col("version") == version) & pl.col("raw_score").is_not_null())
    if not len(own):
        versions = ", ".join(sorted(answers["version"].drop_nulls().unique()))
        raise ConfigError(f"the log of decisions must have answers of the bundle {version} (got {versions})")
    if others := len(answers) - len(own):
        _log.info("%d payments that this bundle did not answer are left out", others)
    store = prepare(
        log.bundle.market, write_log(log, place), place / "decisions", encoder=log.bundle.encoder, progress=progress
    )
    ids = pl.DataFrame({"id": store.ids().cast(pl.String)})
    raw = ids.join(own.select("id", "raw_score"), on="id", how="left", maintain_order="left")["raw_score"]
    return RecordedPayments(store, raw.fill_null(float("nan")).to_numpy())
