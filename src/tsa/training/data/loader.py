"""Turn the payments of an epoch into the batches of each process: order, parts, histories, prefetching."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tsa.data.augmentation import HistoryAugmentation
from tsa.data.history import history_lengths
from tsa.data.store.store import EventStore
from tsa.errors import TrainingError
from tsa.model.batch import Batch
from tsa.model.collate import gather_batch
from tsa.training.config import TrainingConfig
from tsa.training.data.sampler import EpochSample
from tsa.training.data.worker_pipe import packed, refuse_without_semaphores, unpacked
from tsa.training.distributed import DistributedContext

Rows = NDArray[np.int64]

PREFETCHED = 4
"""Batches that each worker process prepares in advance."""
MAX_WAIT_SECONDS = 600
"""How long to wait for a batch of a worker process."""
CHECK_SECONDS = 5.0
"""How often to check in this time that worker processes are alive."""
LAST_SECONDS = 20
"""How long a worker process outlives a SIGTERM or SIGHUP."""


@dataclass(frozen=True)
class MicrobatchSpec:
    """The payments of one process in one part of a step."""

    rows: Rows
    """(B,) the payments."""
    weight: NDArray[np.float32]
    """(B,) the weight of each in the loss."""
    variation: HistoryAugmentation
    """The augmentation of their histories."""
    loss_weight: float
    """Their share in the step: the sum over parts and processes is the number of processes, so that a mean over these
    is the mean over the batch."""
    widths: dict[str, int]
    """The width of each history: the longest in all processes, so that all of them have equal work."""
    positions: int
    """Positions of all histories in all processes."""
    filled: int
    """Positions with an event, in all processes."""


@dataclass(frozen=True)
class Microbatch:
    """A task with its tensors: the batch of B payments, their labels (B,) int64 and weights (B,) float32."""

    task: MicrobatchSpec
    batch: Batch
    target: Tensor
    weight: Tensor


class EpochLoader:
    """Iterates over the steps of an epoch, each as the tensors of its parts."""

    def __init__(self, store: EventStore, config: TrainingConfig, processes: DistributedContext) -> None:
        self.store, self.config, self.processes = store, config, processes
        self._refuse_idle()
        self._epoch: tuple[EpochSample, int] | None = None
        self._prefetching = self._workers()

    def steps(self, drawn: EpochSample, after: int = 0) -> Iterator[list[Microbatch]]:
        """The parts of this process for each step of an epoch, without the first `after` steps."""
        self._epoch = drawn, after
        tensors = self._loaded()
        for _ in range(after, len(drawn.rows) // self.config.batch_size):
            yield [next(tensors) for _ in range(self.config.gradient_accumulation_steps)]

    def tasks(self) -> Iterator[MicrobatchSpec]:
        """The parts of this process in the current epoch."""
        if self._epoch is not None:
            drawn, after = self._epoch
            for first in range(after * self.config.batch_size, len(drawn.rows), self.config.batch_size):
                yield from self._split(drawn, first)

    def bucket_by_length(self, drawn: EpochSample, epoch: int) -> EpochSample:
        """The payments reordered so that batches have similar history lengths, if `length_bucket_batches` is set."""
        if self.config.length_bucket_batches == 0:
            return drawn
        rng = np.random.default_rng([self.config.seed, epoch, 1])
        order = bucketed(
            self._history_lengths(drawn.rows), self.config.batch_size, self.config.length_bucket_batches, rng
        )
        return drawn.part(order)

    def close(self) -> None:
        """End the worker processes, which would otherwise outlive a SIGTERM."""
        iterator = getattr(self._prefetching, "_iterator", None)
        if (shut_down := getattr(iterator, "_shutdown_workers", None)) is not None:
            shut_down()

    def _refuse_idle(self) -> None:
        """Raise TrainingError if a process would get no payment."""
        min_payments, count = self.config.batch_size // self.config.gradient_accumulation_steps, self.processes.count
        if min_payments < count:
            raise TrainingError(
                "each process must get a payment of each part of a batch "
                f"(got {count} processes, training.batch_size={self.config.batch_size}, "
                f"training.gradient_accumulation_steps={self.config.gradient_accumulation_steps})"
            )

    def _split(self, drawn: EpochSample, first: int) -> Iterator[MicrobatchSpec]:
        """The parts of the batch starting at `first`."""
        size, parts = self.config.batch_size, self.config.gradient_accumulation_steps
        for number in range(parts):
            begin, end = size * number // parts, size * (number + 1) // parts
            yield self._task(drawn, slice(first + begin, first + end))

    def _task(self, drawn: EpochSample, chosen: slice) -> MicrobatchSpec:
        """This process's share of one part, with widths that are the same in all."""
        n = chosen.stop - chosen.start
        own = self.processes.shard(n)
        lengths = self._history_lengths(drawn.rows[chosen])
        names = [key.name for key in self.store.market.views]
        widths = dict(zip(names, lengths.max(axis=1).tolist(), strict=True))
        own_rows = slice(chosen.start + own.start, chosen.start + own.stop)
        return MicrobatchSpec(
            rows=drawn.rows[own_rows],
            weight=drawn.weight[own_rows],
            variation=drawn.variation.select(own_rows),
            loss_weight=(own.stop - own.start) * self.processes.count / self.config.batch_size,
            widths=widths,
            positions=n * sum(widths.values()),
            filled=int(lengths.sum()),
        )

    def _history_lengths(self, rows: Rows) -> NDArray[np.int64]:
        """(histories, B) the number of events in the histories of `rows` (B,)."""
        keys = self.store.market.views
        return np.stack([history_lengths(self.store.histories[key.name], rows, key.length) for key in keys])

    def _workers(self) -> DataLoader[Any] | None:
        """The loader with worker processes, if any."""
        workers = self.config.num_workers
        if workers is None:
            workers = min(2, (os.cpu_count() or 1) - 1) if self.processes.device.type == "cuda" else 0
        if workers == 0:
            return None
        refuse_without_semaphores(workers)
        return DataLoader(
            _Gathered(self.store),
            batch_size=None,
            sampler=_Tasks(self),
            num_workers=workers,
            prefetch_factor=PREFETCHED,
            persistent_workers=True,
            generator=torch.Generator(),  # not the global one, which the network uses
            worker_init_fn=_outlive_signals,
            timeout=MAX_WAIT_SECONDS,
        )

    def _loaded(self) -> Iterator[Microbatch]:
        if self._prefetching is None:
            return (loaded(self.store, task) for task in self.tasks())
        iterator = iter(self._prefetching)
        _check_while_waiting(iterator)
        return map(unpacked, iterator)


def _check_while_waiting(iterator: Any) -> None:
    """Check every few seconds that the workers are alive.

    A signal reports only workers that this process forked itself; torch would notice others after `MAX_WAIT_SECONDS`.
    """
    attempt = type(iterator)._try_get_data

    def attempts(timeout: float) -> tuple[bool, Any]:
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            success, data = attempt(iterator, max(0.0, min(CHECK_SECONDS, left)))
            if success or left <= CHECK_SECONDS:
                return success, data

    iterator._try_get_data = attempts


def _outlive_signals(worker: int) -> None:
    """Continue for a while after a signal to all processes of a job: saving a checkpoint may need more batches."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: signal.alarm(LAST_SECONDS))


def loaded(store: EventStore, task: MicrobatchSpec) -> Microbatch:
    """The tensors of a task."""
    batch = gather_batch(store, task.rows, widths=task.widths, variation=task.variation)
    target = torch.from_numpy(store.label[task.rows].astype(np.int64))
    return Microbatch(task, batch, target, torch.from_numpy(task.weight))


def first_rows(store: EventStore, task: MicrobatchSpec, size: int) -> Microbatch:
    """The tensors of the first `size` payments of a task."""
    first = slice(size)
    part = replace(task, rows=task.rows[first], weight=task.weight[first], variation=task.variation.select(first))
    return loaded(store, part)


def bucketed(lengths: NDArray[np.int64], size: int, window: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(n,) an order of n payments in which batches of `size` hold payments of similar history lengths.

    lengths: (histories, n). Within windows of `window` batches payments are sorted by length and cut into batches, in random
    order; the order inside a batch does not change. n is a multiple of `size`.
    """
    order = []
    for first in range(0, lengths.shape[1], size * window):
        window_lengths = lengths[:, first : first + size * window]
        batches = _sorted_by_length(window_lengths, size).reshape(-1, size)
        order.append(first + np.sort(batches, axis=1)[rng.permutation(len(batches))].ravel())
    return np.concatenate(order)


def _sorted_by_length(lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Sorted by the first history; then, in strips of about √(number of batches) batches, by the second, and so on."""
    order = np.argsort(lengths[0], kind="stable")
    if len(lengths) == 1 or len(order) <= size:
        return order
    strip = size * max(1, round((len(order) / size) ** (1 - 1 / len(lengths))))
    strips = [order[first : first + strip] for first in range(0, len(order), strip)]
    return np.concatenate([part[_sorted_by_length(lengths[1:, part], size)] for part in strips])


class _Gathered(Dataset[Any]):
    """Tasks with their tensors, packed. Workers that are not forked open the store again, since memory maps cannot be sent."""

    def __init__(self, store: EventStore) -> None:
        self.store = store

    def __getitem__(self, task: Any) -> Any:
        return packed(loaded(self.store, task))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.store.path,)


def _reopened(path: Any) -> _Gathered:
    return _Gathered(EventStore.open(path))


class _Tasks:
    """The tasks of the current epoch."""

    def __init__(self, loader: EpochLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[MicrobatchSpec]:
        return self._loader.tasks()
