"""`TrainingRun`: a run from its settings to its results."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsa.bundle.bundle import Bundle
from tsa.data.store.constant_in_history import fixed_values
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, TrainingError, TrainingStopped
from tsa.files.writing import write_json
from tsa.model import ModelConfig, TSANetwork
from tsa.model.network_and_trees import ALONE
from tsa.progress import Progress
from tsa.training.checkpoint import Checkpoints
from tsa.training.config import TrainingConfig
from tsa.training.data.sampler import Sampler
from tsa.training.distributed import DistributedContext
from tsa.training.ending.time_limit import TREE_SHARE
from tsa.training.epoch_stats import reproducible
from tsa.training.finalize import Trained, fit_calibration, log_odds_of_ranges, write_split_scores
from tsa.training.model_config import network_settings
from tsa.training.parts.train_parts import HeldOut, TrainedTrees, join_parts, train_trees
from tsa.training.parts.warm_start import WarmStart
from tsa.training.run_folder import (
    CHECKPOINTS,
    RUN,
    data_summary,
    environment_metadata,
    identity_of,
    read_run_metadata,
    run_identity,
    run_metadata,
    utc_now,
)
from tsa.training.small_logs import Adapted, adapt_to_log
from tsa.training.tracking import Track, tracked
from tsa.training.trainer import Callbacks, Rows, Trainer
from tsa.training.validation import DistributedScorer, ScoringInterruptedError, has_both_classes
from tsa.value_differences import differences

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Refitted:
    """What a run that learns from all ranges needs besides: where it comes from, and scores of models that did not."""

    held_out: HeldOut
    origin: Mapping[str, Any]
    """The entry `refit` of run.json, as plain JSON values."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A run with its settings, before anything is written."""

    store: EventStore
    out: Path
    config: TrainingConfig
    model: ModelConfig
    network: TSANetwork
    rows: Mapping[str, Rows]
    metadata: dict[str, Any]
    processes: DistributedContext
    held_out: HeldOut | None = None
    """Log odds for calibration and joining of a run that learns from all ranges (`tsa.training.refitting`)."""

    @classmethod
    def make(
        cls,
        store: EventStore,
        out: Path,
        preset: str,
        settings: Mapping[str, Any],
        config: TrainingConfig,
        processes: DistributedContext,
        refitted: Refitted | None = None,
        start: WarmStart | None = None,
    ) -> TrainingRun:
        """The run of these settings. Raises ConfigError or TrainingError if they are not possible."""
        rows = labelled_rows(store, config)
        adapted = adapt_to_log(config, settings, *(store.label[rows[name]] for name in ("train", "validation")))
        config = adapted.training
        _check_learnable(store, rows, config)
        torch.manual_seed(config.seed)
        model = _network_of(store, preset, settings, adapted)
        network = TSANetwork(model).to(processes.device)
        started = {} if start is None else {"warm_start": start.apply(network, store.encoder)}
        if processes.count > 1:
            torch.manual_seed(config.seed + processes.rank)  # dropout differs between processes
        return cls(
            store=store,
            out=out,
            config=config,
            model=model,
            network=network,
            rows=rows,
            metadata={
                **run_metadata(store, rows, config, preset, model),
                "adapted": list(adapted.notes),
                **({} if refitted is None else {"refit": dict(refitted.origin)}),
                **started,
            },
            processes=processes,
            held_out=None if refitted is None else refitted.held_out,
        )

    def train(self, hooks: Callbacks, resume: bool, on_epoch: Track, *, with_bundle: bool) -> Trained:
        """Train, from the start or the last checkpoint, and write the results; the bundle only `with_bundle`."""
        checkpoints = Checkpoints(self.out / CHECKPOINTS, self.identity())
        loop = Trainer(self.network, self.store, self.rows, self.config, self.processes, hooks, checkpoints)
        self._resume(loop, checkpoints) if resume else self._begin(checkpoints)
        with closing(loop.loader), self._open_run(loop) as (run, track):
            trees = self._trees_first(hooks)
            history = loop.fit(track, on_epoch)
            end: dict[str, Any] = {"best_epoch": history.best_epoch, "epochs": history.epochs}
            if (sentence := loop.outlook()) is not None:
                logger.info("%s", sentence)
                end["outlook"] = sentence
            trained = self.finish(loop.scoring, hooks.progress, end, {**run, **end}, trees=trees)
            if self.processes.is_main and with_bundle:
                trained.write()
            self.processes.wait()
        return trained

    def _trees_first(self, hooks: Callbacks) -> TrainedTrees | None:
        """Trees that are trained before the network, in the first process: with a limit on time, only what they left of it
        can be planned for the network. They get at most `TREE_SHARE` of the time.
        """
        limit = hooks.limit
        if limit is None or self.model.parts == "network":
            return None
        seconds = TREE_SHARE * limit.seconds_to_train()

        def work() -> TrainedTrees:
            return train_trees(self.model, self.store, self.rows, self.config, hooks.progress, seconds=seconds)

        trees: TrainedTrees | None = self.processes.run_then_barrier("trees", work if self.processes.is_main else None)
        return trees

    def identity(self) -> dict[str, Any]:
        """The identity of the run. Raises ConfigError if the processes have different stores or settings."""
        own = run_identity(self.store, self.config, self.model)
        for rank, other in enumerate(self.processes.all_gather(own)):
            if lines := list(differences(other, own)):
                here = f"process {rank}, then process {self.processes.rank}"
                raise ConfigError(f"all processes must train the same run ({here}): {'; '.join(lines)}")
        return own

    def is_finished(self) -> bool:
        """Whether this run is finished. Raises ConfigError if the folder holds another finished run."""
        earlier = self.processes.broadcast(read_run_metadata(self.out))
        if "finished" not in earlier:
            return False
        if lines := list(differences(identity_of(earlier), run_identity(self.store, self.config, self.model))):
            raise ConfigError(f"{self.out} holds another, finished run (that run, then this):\n  " + "\n  ".join(lines))
        return True

    def _begin(self, checkpoints: Checkpoints) -> None:
        if self.processes.is_main:
            checkpoints.clear()
        self.processes.wait()

    def _resume(self, loop: Trainer, checkpoints: Checkpoints) -> None:
        """Load the last checkpoint in the first process and send it to the others, which may be on other machines."""
        saved = None
        if self.processes.is_main and (state := checkpoints.load_latest()) is not None:
            saved = state, checkpoints.best_weights(state["history"]["best_epoch"])
        saved = self.processes.broadcast(saved)
        if saved is None:
            logger.warning("%s has no checkpoint to resume from: starting from the beginning", self.out)
            self._begin(checkpoints)
        else:
            loop.load_state_dict(*saved)

    @contextmanager
    def _open_run(self, loop: Trainer) -> Iterator[tuple[dict[str, Any], Track]]:
        """The metadata of the run, written to the folder, and the tracker of epochs; in the first process only."""
        if not self.processes.is_main:
            yield {}, ignore_record
            return
        earlier = read_run_metadata(self.out) if loop.history.epochs or loop.position.step else {}
        from_before: dict[str, Any] = {name: earlier[name] for name in ("started", "mlflow_run") if name in earlier}
        environment = environment_metadata(self.store, self.out, self.processes.count, loop.learner.precision.name)
        run = {**self.metadata, **environment, "started": utc_now(), **from_before}
        write_json(self.out / RUN, run)
        for note in self.metadata["adapted"]:
            logger.info("%s", note)
        with tracked(self.out, self.config, run, loop.history.epochs) as track:
            write_json(self.out / RUN, run)
            yield run, track

    def finish(
        self,
        scoring: DistributedScorer,
        progress: Progress,
        end: Mapping[str, Any],
        metadata: Mapping[str, Any],
        *,
        trees: TrainedTrees | None = None,
        is_unfinished: bool = False,
    ) -> Trained:
        """Score the validation and calibration ranges, write the scores, and calibrate. Does not write the bundle.

        Args:
            scoring: Scores payments of the store.
            progress: Reports progress.
            end: What the bundle says of the epochs.
            metadata: The content of run.json.
            trees: In the first process, if they are trained already.
            is_unfinished: The run is not marked as finished when its bundle is written.
        """
        try:
            log_odds = {} if self.held_out is not None else log_odds_of_ranges(self.network, scoring)
        except ScoringInterruptedError:
            raise TrainingStopped(
                f"{self.out}: stopped by a signal after the last epoch; continue with --resume"
            ) from None
        joined = join_parts(
            self.model,
            self.store,
            self.rows,
            log_odds,
            self.config,
            self.processes,
            progress,
            trees,
            held_out=self.held_out,
        )
        bundle = Bundle(
            market=self.store.market,
            encoder=self.store.encoder,
            config=self.model,
            network=self.network.cpu(),
            trees=joined.trees,
            joining=joined.joining,
            choice=joined.choice,
            training={
                **self.metadata,
                **end,
                "epochs": reproducible(end["epochs"]),
                "fixed_values": fixed_values(self.store, self.rows["train"]),
            },
            data=data_summary(self.store),
        )
        calibration = None
        if self.processes.is_main:
            for name, scores in joined.scores.items():
                write_split_scores(self.store, name, scores, self.out, bundle.model_sha256)
            # weights fitted on later payments already correct for the genuine payments that were not drawn
            is_sampled = joined.joining == ALONE["network"]
            rate = self.metadata["sampling_rate_genuine"] if is_sampled else 1.0
            is_held_out = self.held_out is not None
            calibration = fit_calibration(self.store, joined.scores, rate, self.config, is_held_out=is_held_out)
        bundle = replace(bundle, calibration=self.processes.broadcast(calibration))
        return Trained(
            out=self.out,
            store=self.store,
            bundle=bundle,
            metadata=metadata,
            scores=joined.scores,
            is_unfinished=is_unfinished,
        )


def labelled_rows(store: EventStore, config: TrainingConfig) -> dict[str, Rows]:
    """Labelled rows to train on and to validate on."""
    train = np.concatenate([store.labelled(name) for name in config.train_on])
    # rows that are trained on cannot validate
    validation = train[:0] if "validation" in config.train_on else store.labelled("validation")
    return {"train": train, "validation": validation}


def _network_of(store: EventStore, preset: str, settings: Mapping[str, Any], adapted: Adapted) -> ModelConfig:
    """The network's settings; an ensemble is adapted only where the preset has one."""
    model = network_settings(store, preset, settings)
    return model.replace(**adapted.model) if model.n_ensemble > 1 else model


def _check_learnable(store: EventStore, rows: Mapping[str, Rows], config: TrainingConfig) -> None:
    """Raise TrainingError where the rows cannot be learned from, before anything is written."""
    Sampler(store, rows["train"], config)
    label = store.label[rows["validation"]]
    if config.early_stopping and config.monitor != "loss" and not has_both_classes(label):
        n_fraud = int((label == 1).sum())
        raise TrainingError(
            "early stopping needs a validation range with both outcomes "
            f"(got frauds={n_fraud}, genuine={len(label) - n_fraud})"
        )


def ignore_record(record: dict[str, Any]) -> None:
    """Ignore the record."""
