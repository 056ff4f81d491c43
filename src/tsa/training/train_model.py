"""One training run, from a store to a folder: settings, metrics of each epoch, the bundle. Evaluation comes after."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsa.bundle.bundle import Bundle
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, TrainingError, TrainingStopped
from tsa.files.writing import write_json
from tsa.model import ModelConfig, TSANetwork
from tsa.progress import Progress, silent
from tsa.training.checkpoint import Checkpoints, differences
from tsa.training.config import TrainingConfig
from tsa.training.data.sampler import Sampler
from tsa.training.diagnostics import translate_resource_errors
from tsa.training.distributed import DistributedContext, distributed_context
from tsa.training.finalize import fit_calibration, score_splits, write_split_scores
from tsa.training.model_config import network_settings
from tsa.training.preemption import capture_sigterm
from tsa.training.run_folder import (
    BUNDLE,
    CHECKPOINTS,
    CONTENT,
    RUN,
    data_summary,
    ensure_no_unfinished_run,
    ensure_run_folder,
    environment_metadata,
    identity_of,
    read_run_metadata,
    run_identity,
    run_metadata,
    utc_now,
)
from tsa.training.tracking import CURVES, Track, draw_curves, refuse_missing, tracked
from tsa.training.trainer import Callbacks, Rows, Trainer
from tsa.training.validation import ScoringInterruptedError, has_both_classes

__all__ = ["CONTENT", "ensure_run_folder", "network_settings", "train"]

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
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> Bundle:
    """Train a network on a store and write the run to the folder `out`: `bundle/`, `fit.json`, `metrics.jsonl`, the
    scores of the validation and the calibration range, `checkpoints/`.

    preset, model: a preset of the network and settings that differ from it. resume: go on from the last good checkpoint in
    `out`, if there is one. on_epoch: called with the record of each epoch. Under torchrun all processes train together.
    Raises ConfigError for a setting out of bounds, an `out` that holds something else, or a checkpoint of another run;
    TrainingError where the store cannot be learned from, the loss is not finite, or the machine is too small;
    TrainingStopped once a checkpoint is saved after SIGTERM.
    """
    if not isinstance(store, EventStore):
        store = EventStore.open(Path(store))
    config, out = training or TrainingConfig(), Path(out)
    with capture_sigterm() as asked, distributed_context(config.device) as processes, translate_resource_errors(out):
        _refuse(out, config, processes, resume)
        run = _Run.make(store, out, preset, model or {}, config, processes)
        if resume and run.is_finished():
            logger.info("%s has finished: nothing is left to do", out)
            # of several machines only the first may have the folder
            bundle: Bundle = processes.broadcast(Bundle.open(out / BUNDLE) if processes.is_main else None)
            return bundle
        return run.train(Callbacks(progress=progress, asked=asked), resume, on_epoch or _nothing)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run as it is set: nothing is written yet."""

    store: EventStore
    out: Path
    config: TrainingConfig
    model: ModelConfig
    network: TSANetwork
    rows: Mapping[str, Rows]
    account: dict[str, Any]
    processes: DistributedContext

    @classmethod
    def make(
        cls,
        store: EventStore,
        out: Path,
        preset: str,
        settings: Mapping[str, Any],
        config: TrainingConfig,
        processes: DistributedContext,
    ) -> _Run:
        """The run of these settings. ConfigError, TrainingError for what cannot be."""
        torch.manual_seed(config.seed)
        model = network_settings(store, preset, settings)
        network = TSANetwork(model).to(processes.device)
        if processes.count > 1:
            torch.manual_seed(config.seed + processes.rank)  # each process drops out values of its own
        rows = _rows(store, config)
        return cls(
            store=store,
            out=out,
            config=config,
            model=model,
            network=network,
            rows=rows,
            account=run_metadata(store, rows, config, preset, model),
            processes=processes,
        )

    def train(self, hooks: Callbacks, resume: bool, on_epoch: Track) -> Bundle:
        """Train, from the start or from the last checkpoint, and write what comes of it."""
        checkpoints = Checkpoints(self.out / CHECKPOINTS, self.identity())
        loop = Trainer(self.network, self.store, self.rows, self.config, self.processes, hooks, checkpoints)
        self._go_on(loop, checkpoints) if resume else self._begin(checkpoints)
        with closing(loop.loader), self._written(loop) as (run, track):
            history = loop.fit(track, on_epoch)
            end: dict[str, Any] = {"best_epoch": history.best_epoch, "epochs": history.epochs}
            bundle = self._bundle(loop, {**self.account, **end})
            if self.processes.is_main:
                draw_curves(history.epochs, self.out / CURVES)
                write_json(self.out / RUN, {**run, **end, "finished": utc_now()})
                checkpoints.prune(kept=1)
            self.processes.wait()
        return bundle

    def identity(self) -> dict[str, Any]:
        """What makes it this run. ConfigError where the processes do not all have the same store and settings."""
        own = run_identity(self.store, self.config, self.model)
        for rank, other in enumerate(self.processes.all_gather(own)):
            if lines := list(differences(other, own)):
                here = f"process {rank}, then process {self.processes.rank}"
                raise ConfigError(f"all processes must train the same run, however ({here}): {'; '.join(lines)}")
        return own

    def is_finished(self) -> bool:
        """Whether this very run stands finished in its folder. ConfigError where another one does."""
        there = self.processes.broadcast(read_run_metadata(self.out))
        if "finished" not in there:
            return False
        if lines := list(differences(identity_of(there), run_identity(self.store, self.config, self.model))):
            raise ConfigError(f"{self.out} is another run, and finished (it, then this):\n  " + "\n  ".join(lines))
        return True

    def _begin(self, checkpoints: Checkpoints) -> None:
        if self.processes.is_main:
            checkpoints.clear()
        self.processes.wait()

    def _go_on(self, loop: Trainer, checkpoints: Checkpoints) -> None:
        """Read by the first process and sent to the others, which may be on other machines."""
        found = None
        if self.processes.is_main and (state := checkpoints.load_latest()) is not None:
            found = state, checkpoints.best_weights(state["history"]["best_epoch"])
        found = self.processes.broadcast(found)
        if found is None:
            logger.warning("%s holds no checkpoint to go on from: beginning anew", self.out)
            self._begin(checkpoints)
        else:
            loop.load_state_dict(*found)

    @contextmanager
    def _written(self, loop: Trainer) -> Iterator[tuple[dict[str, Any], Track]]:
        """The account of the run, written, and what takes the records of epochs: in the first process alone."""
        if not self.processes.is_main:
            yield {}, _nothing
            return
        earlier = read_run_metadata(self.out) if loop.history.epochs or loop.position.step else {}
        kept: dict[str, Any] = {name: earlier[name] for name in ("started", "mlflow_run") if name in earlier}
        around = environment_metadata(self.store, self.out, self.processes.count, loop.learner.precision.name)
        run = {**self.account, **around, "started": utc_now(), **kept}
        write_json(self.out / RUN, run)
        with tracked(self.out, self.config, run, loop.history.epochs) as track:
            write_json(self.out / RUN, run)
            yield run, track

    def _bundle(self, loop: Trainer, training: dict[str, Any]) -> Bundle:
        """Score the ranges that were not learned from, calibrate, write the bundle."""
        try:
            scores = score_splits(self.network, loop.scoring)
        except ScoringInterruptedError:
            raise TrainingStopped(
                f"{self.out}: asked to stop by SIGTERM after the last epoch: --resume ends it"
            ) from None
        calibration = None
        if self.processes.is_main:
            for name, found in scores.items():
                write_split_scores(self.store, name, found, self.out)
            calibration = fit_calibration(self.store, scores, self.rows["train"], self.config)
        bundle = Bundle(
            market=self.store.market,
            encoder=self.store.encoder,
            config=self.model,
            network=self.network.cpu(),
            training=training,
            calibration=self.processes.broadcast(calibration),
            data=data_summary(self.store),
        )
        if self.processes.is_main:
            bundle.save(self.out / BUNDLE)
        return bundle


def _refuse(out: Path, config: TrainingConfig, processes: DistributedContext, resume: bool) -> None:
    """Refuse, before anything is written, what cannot be; the first process looks, and the others wait."""
    if processes.is_main:
        ensure_run_folder(out)
        refuse_missing(config)
        if not resume:
            ensure_no_unfinished_run(out)
    processes.wait()


def _rows(store: EventStore, config: TrainingConfig) -> dict[str, Rows]:
    """Labelled rows to train on and to validate on. TrainingError where that cannot be."""
    train = np.concatenate([store.labelled(name) for name in config.train_on])
    # what is learned from says nothing as a check
    validation = train[:0] if "validation" in config.train_on else store.labelled("validation")
    Sampler(store, train, config)  # refuses what cannot be learned from, before anything is written
    label = store.label[validation]
    if config.early_stopping and config.monitor != "loss" and not has_both_classes(label):
        n_fraud = int((label == 1).sum())
        raise TrainingError(
            "early stopping needs a validation range with both outcomes "
            f"(got frauds={n_fraud}, genuine={len(label) - n_fraud})"
        )
    return {"train": train, "validation": validation}


def _nothing(record: dict[str, Any]) -> None:
    """Take no notice."""
