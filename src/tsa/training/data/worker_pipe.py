"""Send batches from worker processes as plain arrays through a pipe.

PyTorch would use /dev/shm and file descriptors. In containers with a small /dev/shm, or with many open files, batches
would be lost and the run would hang.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tsa.errors import TrainingError

SEMAPHORES, OF_EACH = 12, 8
"""Semaphores that a loader needs in total, and per worker. Each needs a page of /dev/shm."""
PAGE_KB = 4


@dataclass(frozen=True)
class Plain:
    """A tensor's values."""

    values: NDArray[Any]


def refuse_without_semaphores(workers: int) -> None:
    """Raise TrainingError if the semaphores of the workers cannot be created."""
    count = SEMAPHORES + OF_EACH * workers
    try:
        made = [multiprocessing.Lock() for _ in range(count)]
    except OSError as error:
        raise TrainingError(
            f"training.num_workers={workers} needs {count * PAGE_KB} kB in /dev/shm (got {error}); free some space there, or "
            "set training.num_workers=0"
        ) from error
    del made


def packed(value: Any) -> Any:
    """The value with each tensor in its dataclasses and dictionaries replaced by plain values."""
    return _mapped(value, Tensor, lambda tensor: Plain(tensor.numpy()))


def unpacked(value: Any) -> Any:
    """The inverse of `packed`."""
    return _mapped(value, Plain, lambda plain: torch.from_numpy(plain.values))


def _mapped(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, dict):
        return {name: _mapped(inner, kind, change) for name, inner in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{field.name: _mapped(getattr(value, field.name), kind, change) for field in fields(value)}
        )
    return value
