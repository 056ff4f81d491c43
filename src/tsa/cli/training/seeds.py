"""`tsa run --seeds`: a training for each seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsa.cli.training.session import train_run
from tsa.config.overrides import Overrides

if TYPE_CHECKING:
    from tsa.progress import Progress
    from tsa.training import TimeLimit


def first_seed(settings: Overrides) -> int:
    """The seed of the settings, from which others are counted."""
    from tsa.training import TrainingConfig

    return TrainingConfig.make(settings.training).seed


def refuse_seeds(out: Path, settings: Overrides, seeds: int, *, overwrite: bool) -> None:
    """Raise ConfigError if a seed has a run already, before anything is replaced."""
    from tsa.training.run_folder import ensure_no_run
    from tsa.tuning.best_of_seeds import seed_folders

    for folder in seed_folders(out, first_seed(settings), seeds).values():
        ensure_no_run(folder, overwrite=overwrite)


def train_seeds(
    settings: Overrides,
    seeds: int,
    store: Any,
    out: Path,
    preset: str,
    bars: Progress,
    *,
    limit: TimeLimit | None,
    **given: Any,
) -> dict[int, Path]:
    """Train a run for each seed; each gets the same share of the time that is left. Returns the folder of each."""
    from tsa.training import TimeLimit, train
    from tsa.tuning.best_of_seeds import seed_folders

    folders = seed_folders(out, first_seed(settings), seeds)
    for at, (seed, folder) in enumerate(folders.items()):
        own = None
        if limit is not None:
            share = max(limit.seconds_to_train(), 1.0) / (seeds - at)
            own = TimeLimit(minutes=share / 60.0, after=0.0)
        changed = replace(settings, training={**settings.training, "seed": seed})
        train_run(changed, store, folder, preset, bars, train=train, limit=own, **given)
    return folders
