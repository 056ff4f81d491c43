"""One training run, from a store to a run folder with settings, metrics of each epoch and the bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tsa.bundle.bundle import Bundle
from tsa.data.store.store import EventStore
from tsa.progress import Progress, silent
from tsa.training.config import TrainingConfig
from tsa.training.diagnostics import translate_resource_errors
from tsa.training.distributed import DistributedContext, distributed_context
from tsa.training.ending.stop_signals import capture_sigterm
from tsa.training.ending.time_limit import TimeLimit
from tsa.training.finalize import Trained
from tsa.training.model_config import network_settings
from tsa.training.parts.warm_start import WarmStart
from tsa.training.run_folder import (
    BUNDLE,
    CONTENT,
    ensure_no_run,
    ensure_run_folder,
    read_run_metadata,
)
from tsa.training.tracking import refuse_missing
from tsa.training.trainer import Callbacks
from tsa.training.training_run import Refitted, TrainingRun, ignore_record

__all__ = ["CONTENT", "Trained", "ensure_run_folder", "network_settings", "train", "train_network"]

logger = logging.getLogger(__name__)


def train(
    store: EventStore | str | Path,
    out: str | Path,
    *,
    preset: str = "default",
    model: Mapping[str, Any] | None = None,
    training: TrainingConfig | None = None,
    progress: Progress = silent,
    resume: bool = False,
    overwrite: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    limit: TimeLimit | None = None,
) -> Bundle:
    """Train a network on a store and write a run folder. Under torchrun all processes train together.

    The folder holds `bundle/`, `run.json`, `metrics.jsonl`, the scores of the validation and calibration ranges, and
    `checkpoints/`.

    Args:
        store: The store or its folder.
        out: The run folder.
        preset: A preset of the network.
        model: Settings of the network that differ from the preset.
        training: The training settings; None: the defaults.
        progress: Reports progress.
        resume: Continue from the last good checkpoint in `out`, if there is one.
        overwrite: Replace a finished run in `out`.
        on_epoch: Called with the record of each epoch.
        limit: Time for training: as many epochs as fit, and the best of them.

    Returns:
        The bundle.

    Raises:
        ConfigError: If a setting breaks a rule, `out` has other content or a finished run, or the checkpoint is of
            another run.
        TrainingError: If the store cannot be trained on, the loss is not finite, or memory or disk space run out.
        TrainingStopped: After SIGTERM, once a checkpoint is saved.

    Example:
        >>> settings = tsa.TrainingConfig(epochs=1, batch_size=64)
        >>> bundle = tsa.train("run/store", "small", model={"width": 16}, training=settings)
        >>> bundle.config.width
        16
    """
    return train_network(
        store,
        out,
        preset=preset,
        model=model,
        training=training,
        progress=progress,
        resume=resume,
        overwrite=overwrite,
        on_epoch=on_epoch,
        limit=limit,
        with_bundle=True,
    ).bundle


def train_network(
    store: EventStore | str | Path,
    out: str | Path,
    *,
    preset: str = "default",
    model: Mapping[str, Any] | None = None,
    training: TrainingConfig | None = None,
    progress: Progress = silent,
    resume: bool = False,
    overwrite: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    limit: TimeLimit | None = None,
    with_bundle: bool = False,
    refitted: Refitted | None = None,
    start: WarmStart | None = None,
) -> Trained:
    """As `train`, but without writing the bundle, unless `with_bundle`.

    Call `Trained.write` to write it, for example with the metrics of an evaluation. `refitted` is for runs that learn from
    all ranges (`tsa.training.refitting`), `start` for networks that start from an earlier one's weights.

    The run is finished once the bundle is written. If the process is killed before, call it again with `resume`.
    """
    if not isinstance(store, EventStore):
        store = EventStore.open(Path(store))
    config, out = training or TrainingConfig(), Path(out)
    with (
        capture_sigterm() as stop_request,
        distributed_context(config.device) as processes,
        translate_resource_errors(out),
    ):
        _refuse(out, config, processes, resume=resume, overwrite=overwrite)
        run = TrainingRun.make(store, out, preset, model or {}, config, processes, refitted, start)
        if resume and run.is_finished():
            logger.info("%s is finished already", out)
            # with several machines, only the first may have the folder
            finished = processes.broadcast(_finished(out) if processes.is_main else None)
            return Trained(out=out, store=store, is_written=True, **finished)
        hooks = Callbacks(progress=progress, asked=stop_request, limit=limit)
        return run.train(hooks, resume, on_epoch or ignore_record, with_bundle=with_bundle)


def _finished(out: Path) -> dict[str, Any]:
    """The bundle and metadata of a finished run."""
    bundle = Bundle.open(out / BUNDLE)
    return {
        "bundle": bundle,
        "metadata": read_run_metadata(out),
    }


def _refuse(out: Path, config: TrainingConfig, processes: DistributedContext, *, resume: bool, overwrite: bool) -> None:
    """Check the folder and trackers in the first process, before anything is written."""
    if processes.is_main:
        ensure_run_folder(out)
        refuse_missing(config)
        if not resume:
            ensure_no_run(out, overwrite=overwrite)
    processes.wait()
