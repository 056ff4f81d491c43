"""Defaults for a log with few frauds: batch size, epochs, ensemble and early stopping that suit it.

Only settings that nobody chose are changed. The training log, run.json and the report say which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.text import plural
from tsa.training.config import TrainingConfig
from tsa.training.data.sampler import genuine_drawn

Labels = NDArray[Any]

STEPS_PER_EPOCH = 20
"""Fewer steps than this make an epoch too short to judge; batches shrink first."""
MIN_BATCH = 16
STEPS = 200
"""Steps that a run should have in all; more epochs reach it."""
MAX_EPOCHS = 100
MIN_VALIDATION_FRAUDS = 5
"""With fewer, average precision on the validation range is mostly chance, and early stopping would pick an epoch by it."""
SMALL_ENSEMBLE = 8
"""Networks of the ensemble: a mean of more of them errs less, and on a small log they cost seconds."""


@dataclass(frozen=True)
class Adapted:
    """Settings that suit a log, and a sentence about each that differs from the default."""

    training: TrainingConfig
    model: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def adapt_to_log(config: TrainingConfig, model: Mapping[str, Any], train: Labels, validation: Labels) -> Adapted:
    """Settings for a log of this size. A log with a few hundred training frauds or more keeps the defaults.

    Args:
        config: The settings, of which those that were given stay.
        model: The settings of the network that were given.
        train: (n,) labels 0 or 1 of the rows to train on.
        validation: (m,) labels of the rows to validate on.
    """
    given = config.model_fields_set
    changes: dict[str, Any] = {}
    if 0 < int((train == 1).sum()) < len(train):
        changes |= _sizes(config, given, train)
    if "early_stopping" not in given and config.early_stopping and (reason := _unusable(config, validation)):
        changes["early_stopping"] = False
        stops = [f"Early stopping is off (training.early_stopping): {reason}."]
    else:
        stops = []
    is_small = "batch_size" in changes
    ensemble = {"n_ensemble": SMALL_ENSEMBLE} if is_small and "n_ensemble" not in model else {}
    sizes = ", ".join(
        [f"training.{name} is {value:g}" for name, value in changes.items() if name != "early_stopping"]
        + [f"model.{name} is {value}" for name, value in ensemble.items()]
    )
    frauds = plural(int((train == 1).sum()), "fraud")
    notes = [f"The log has only {frauds} to train on, so {sizes}.", *stops] if sizes else stops
    return Adapted(config.model_copy(update=changes), ensemble, tuple(notes))


def _sizes(config: TrainingConfig, given: set[str], train: Labels) -> dict[str, Any]:
    """Batch size, epochs and patience that differ from the settings."""
    changes: dict[str, Any] = {}
    frauds = int((train == 1).sum())
    rows, batch = frauds + genuine_drawn(train, config.genuine_per_fraud), config.batch_size
    if "batch_size" not in given and rows < STEPS_PER_EPOCH * batch:
        batch = max(MIN_BATCH, 1 << max(0, (rows // STEPS_PER_EPOCH).bit_length() - 1))
        changes["batch_size"] = batch = max(config.gradient_accumulation_steps, min(batch, rows))
    epochs = -(-STEPS // max(1, rows // batch))
    if "epochs" not in given and epochs > config.epochs:
        changes["epochs"] = min(MAX_EPOCHS, epochs)
        if "patience" not in given and config.early_stopping:
            changes["patience"] = max(config.patience, changes["epochs"] // 3)
    return {name: value for name, value in changes.items() if value != getattr(config, name)}


def _unusable(config: TrainingConfig, validation: Labels) -> str | None:
    """Why the validation range cannot choose an epoch; None if it can."""
    if config.monitor == "loss":
        return None
    frauds, genuine = int(np.count_nonzero(validation == 1)), int(np.count_nonzero(validation == 0))
    if min(frauds, genuine) >= MIN_VALIDATION_FRAUDS:
        return None
    counts = f"{plural(frauds, 'fraud')} and {plural(genuine, 'genuine payment')}"
    return f"the validation range has {counts}, too few to choose an epoch by; the last epoch is used"
