"""The training loop: sample an epoch, train, validate, save checkpoints. Runs and their files are in `train_model`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsa.data.store.store import EventStore
from tsa.errors import TrainingError, TrainingStopped
from tsa.model import TSANetwork
from tsa.progress import Progress, silent
from tsa.training.checkpoint import Checkpoints, random_state, restore_random_state
from tsa.training.config import TrainingConfig
from tsa.training.data.loader import EpochLoader, Microbatch, first_rows
from tsa.training.data.sampler import EpochSample, Sampler
from tsa.training.diagnostics import find_max_batch_size, not_finite, out_of_memory, out_of_memory_error
from tsa.training.distributed import DistributedContext
from tsa.training.early_stopping import EarlyStopping
from tsa.training.ending.stop_signals import PreemptionMonitor, StopRequest
from tsa.training.ending.time_limit import Pace, TimeLimit, outlook
from tsa.training.epoch_stats import EpochStats
from tsa.training.train_step import NotFiniteError, StepResult, TrainStep
from tsa.training.validation import DistributedScorer, ScoringInterruptedError, has_both_classes, validation_metrics

logger = logging.getLogger(__name__)

Rows = NDArray[np.int64]
OnEpoch = Callable[[dict[str, Any]], None]


@dataclass
class TrainerState:
    """The position of a run: after `step` steps of `epoch`. drawn: its payments, if they were drawn."""

    epoch: int = 1
    step: int = 0
    drawn: EpochSample | None = None


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Callbacks of the loop, and the request to stop."""

    progress: Progress = silent
    on_step: Callable[[StepResult], None] = lambda step: None
    asked: StopRequest = field(default_factory=StopRequest)
    limit: TimeLimit | None = None


class Trainer:
    """Trains a network on the labelled rows `train`, validating on the rows `validation`."""

    def __init__(
        self,
        network: TSANetwork,
        store: EventStore,
        rows: Mapping[str, Rows],
        config: TrainingConfig,
        processes: DistributedContext,
        hooks: Callbacks,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.store, self.config, self.processes, self.hooks = store, config, processes, hooks
        self.sampler = Sampler(store, rows["train"], config)
        self.loader = EpochLoader(store, config, processes)
        self.learner = TrainStep(network, config, processes, steps_per_epoch=self.sampler.steps)
        self.scoring = DistributedScorer(store, processes, hooks.progress, hooks.asked)
        self.preemption = PreemptionMonitor(config.checkpoint_every_minutes, hooks.asked, keeps_time=processes.is_main)
        self.validation, self.checkpoints = rows["validation"], checkpoints
        self.history, self.position, self.stats = EarlyStopping(), TrainerState(), EpochStats()
        scored = sum(len(store.split_rows(name)) for name in ("validation", "calibration"))
        shares = processes.count
        self.pace = Pace(
            self.sampler.steps, len(self.validation) // shares, scored // shares, config.batch_size // shares or 1
        )
        self.planned: int | None = None
        """Steps that fit into the time, once that is measured."""
        self.ended_by_time = False

    def fit(self, *on_epoch: OnEpoch) -> EarlyStopping:
        """Train from the current position; afterwards the network has the best weights.

        Args:
            on_epoch: Called with the record of each epoch.
        """
        try:
            while self.history.should_continue(self.config) and self._has_time():
                drawn = self.sample_epoch()
                self.train_epoch(drawn)
                record = self.validate()
                for callback in on_epoch:
                    callback(record)
                self.save()
        except ScoringInterruptedError:
            self.save()
            self._stop()
        self.learner.network.load_state_dict(self.history.best)
        self.learner.network.eval()
        return self.history

    def sample_epoch(self) -> EpochSample:
        """The payments of the epoch, in order."""
        if self.position.drawn is None:
            started = time.perf_counter()
            score = partial(self.scoring, self.learner.ema_network, what="scoring genuine payments")
            drawn = self.sampler.epoch(self.position.epoch, score)
            self.position.drawn = self.loader.bucket_by_length(drawn, self.position.epoch)
            self.stats = EpochStats(seconds=time.perf_counter() - started, saving=self.stats.saving)
        return self.position.drawn

    def train_epoch(self, drawn: EpochSample) -> None:
        """Train the remaining steps of the epoch."""
        epoch = self.position.epoch
        what = f"epoch {epoch} of {self.config.epochs}"
        with self.hooks.progress(what, self.sampler.steps) as advance:
            advance(self.position.step)
            for parts in self._timed(self.loader.steps(drawn, after=self.position.step)):
                step = self._step(parts, epoch)
                self.position.step += 1
                self.stats.add(step, parts)
                advance(1)
                self._handle_stop_and_save(step)
                if self.ended_by_time:
                    break

    def outlook(self) -> str | None:
        """What more time would probably bring; None without a limit."""
        if self.hooks.limit is None:
            return None
        return outlook(self.history.epochs, self.config, self.pace, ended_by_time=self.ended_by_time)

    def validate(self) -> dict[str, Any]:
        """Validate, add the epoch's record, and keep its weights if they are the best so far."""
        started = time.perf_counter()
        record = {"epoch": self.position.epoch, **self.stats.record(self.config.batch_size, self.processes.device)}
        if self.stats.steps < self.sampler.steps and self.ended_by_time:
            record["share_of_epoch"] = self.stats.steps / self.sampler.steps
        with self.learner.evaluation_mode():
            begun = time.perf_counter()
            record |= self._measured()
            self.pace.saw_scoring(self.pace.validated, time.perf_counter() - begun)
            record["seconds"] = self.stats.seconds + self.stats.learning + time.perf_counter() - started
            if self.history.add(self.processes.broadcast(record), self.config):
                self.history.best = _copied(self.learner.ema_network.state_dict())
            self._save_best()
        self.position, self.stats = TrainerState(self.position.epoch + 1), EpochStats()
        if not self.history.should_continue(self.config) and len(self.history.epochs) < self.config.epochs:
            logger.info("no better %s for %d epochs: stopping", self.config.monitor, self.config.patience)
        return self.history.epochs[-1]

    def save(self) -> None:
        """Write a checkpoint. All processes must call this; the first one writes."""
        if self.checkpoints is None:
            return
        started = time.perf_counter()
        state = self.state_dict()
        if self.processes.is_main:
            best = self.history.best_epochs(self.config)
            self.checkpoints.save(self.position.epoch, self.position.step, state, best)
        self.processes.wait()
        self.preemption.saved()
        self.stats.saving += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume the run exactly, except the best weights, which are saved separately."""
        drawn = self.position.drawn
        return {
            "epoch": self.position.epoch,
            "step": self.position.step,
            "drawn": None if drawn is None else drawn.state_dict(),
            "learner": self.learner.state_dict(),
            "sampler": self.sampler.state_dict(),
            "history": self.history.state_dict(),
            "planned": self.planned,
            "tally": self.stats.state_dict(),
            "random": self.processes.all_gather(random_state(self.processes.device)),
        }

    def load_state_dict(self, state: Mapping[str, Any], best: Mapping[str, Tensor]) -> None:
        """Restore a checkpoint. best: the weights of its best epoch."""
        drawn = state["drawn"]
        self.position = TrainerState(
            state["epoch"], state["step"], None if drawn is None else EpochSample.from_state_dict(drawn)
        )
        self.planned = state.get("planned")
        if self.planned is not None:
            self.learner.plan(self.planned)
        self.learner.load_state_dict(state["learner"])
        self.sampler.load_state_dict(state["sampler"])
        self.history.load_state_dict(state["history"])
        self.history.best = {name: value.to(self.processes.device) for name, value in best.items()}
        self.stats = EpochStats(**state["tally"])
        self._restore_rng(state["random"])

    def _restore_rng(self, states: Sequence[Any]) -> None:
        """Restore the generators of this rank; a new rank is seeded."""
        rank, count = self.processes.rank, self.processes.count
        if len(states) != count:
            logger.warning("resuming with %d processes instead of %d: dropout draws other numbers", count, len(states))
        if rank < len(states):
            restore_random_state(states[rank], self.processes.device)
        else:
            torch.manual_seed(self.config.seed + rank)

    def _measured(self) -> dict[str, float]:
        """The validation metrics; empty if the range lacks one of the two outcomes, for which early stopping is refused."""
        label = self.store.label[self.validation]
        if not has_both_classes(label):
            return {}
        return validation_metrics(label, self.scoring(self.learner.ema_network, self.validation, "validation"))

    def _save_best(self) -> None:
        """Save the weights of this epoch if it is among the best."""
        number = len(self.history.epochs)
        if self.checkpoints and self.processes.is_main and number in self.history.best_epochs(self.config):
            self.checkpoints.save_best(number, self.learner.ema_network.state_dict())

    def _timed(self, steps: Iterator[list[Microbatch]]) -> Iterator[list[Microbatch]]:
        """The steps; adds waiting and training time to the stats."""
        started = time.perf_counter()
        for parts in steps:
            self.stats.waiting += time.perf_counter() - started
            try:
                yield parts
            finally:  # also of the last step, if time ends the epoch
                self.stats.learning += time.perf_counter() - started
            started = time.perf_counter()

    def _step(self, parts: Sequence[Microbatch], epoch: int) -> StepResult:
        try:
            return self.learner.step(parts, epoch, (*self.preemption.local_flags, float(self._is_late())))
        except NotFiniteError as error:
            raise self._not_finite(parts, str(error)) from None
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        # outside the handler: the error references the tensors that fill the memory
        raise self._too_large(max(parts, key=lambda part: len(part.task.rows)), epoch)

    def _handle_stop_and_save(self, step: StepResult) -> None:
        """Save, or save and stop, if any process requests it."""
        self.hooks.on_step(step)
        stop, save = self.preemption.decide(step.flags[:2])
        if save:
            self.save()
        if stop:
            self._stop()
        self._watch_time(is_late=step.flags[2] > 0)

    def _is_late(self) -> bool:
        """Whether this process finds that training must end now."""
        limit = self.hooks.limit
        return limit is not None and limit.seconds_to_train() <= self.pace.closing_seconds

    def _watch_time(self, *, is_late: bool) -> None:
        """Plan once the speed is known, and end the epoch when time is up: in all processes at the same step."""
        if self.hooks.limit is None:
            return
        if self.pace.saw_step(self.stats.steps, time.perf_counter()) and self.planned is None:
            self._plan(self.hooks.limit)
        steps_used = self.planned is not None and self.learner.schedule.steps >= self.planned
        self.ended_by_time = is_late or (steps_used and self.config.lr_schedule != "constant")

    def _plan(self, limit: TimeLimit) -> None:
        """Fit the learning-rate schedule to the steps for which there is time."""
        done, most = self.learner.schedule.steps, self.config.epochs * self.sampler.steps
        fits = self.processes.broadcast(done + self.pace.steps_within(limit.seconds_to_train()))
        if fits < most:
            self.planned = fits
            self.learner.plan(fits)
        epochs = min(fits, most) / self.sampler.steps
        logger.info("about %.1f of %d epochs fit into %g minutes", epochs, self.config.epochs, limit.minutes)

    def _has_time(self) -> bool:
        """Whether another epoch may begin; the first always may."""
        limit = self.hooks.limit
        if limit is None or self.ended_by_time or not self.history.epochs:
            return not self.ended_by_time
        fits = self.pace.seconds_per_step is None or self.pace.another_epoch_fits(limit.seconds_to_train())
        steps_used = self.planned is not None and self.learner.schedule.steps >= self.planned
        fits = fits and not (steps_used and self.config.lr_schedule != "constant")
        self.ended_by_time = not self.processes.broadcast(fits)
        return not self.ended_by_time

    def _stop(self) -> NoReturn:
        at = f"epoch {self.position.epoch}, step {self.position.step}"
        stopped = TrainingStopped(f"stopped by a signal: a checkpoint was saved in {at}; continue with --resume")
        stopped.signal_number = self.hooks.asked.number
        raise stopped

    def _not_finite(self, parts: Sequence[Microbatch], got: str) -> TrainingError:
        """The error with the values, the step, and the payments of all processes."""
        rows = np.concatenate(self.processes.all_gather(np.concatenate([part.task.rows for part in parts])))
        at = f"epoch {self.position.epoch}, step {self.position.step + 1}"
        return not_finite(got, at, self.store.ids()[rows].to_list())

    def _too_large(self, part: Microbatch, epoch: int) -> TrainingError:
        """The error with the number of payments that would fit into memory, determined by trial."""
        n = len(part.task.rows)
        fits = find_max_batch_size(
            n, lambda size: self.learner.try_batch(first_rows(self.store, part.task, size), epoch)
        )
        return out_of_memory_error(n, fits, self.processes.count, self.config.gradient_accumulation_steps)


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
