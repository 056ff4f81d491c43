"""Batches on their way from a worker process: plain arrays through a pipe.

PyTorch would put tensors into /dev/shm and send their file descriptors. Where that is small, as in containers, or many
files are open, a batch would be lost in the worker and waited for without end. A pipe needs neither.
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
"""By which processes wait for one another: of all together, and of each worker. A page of /dev/shm each."""
PAGE_KB = 4


@dataclass(frozen=True)
class Plain:
    """A tensor's values."""

    values: NDArray[Any]


def refuse_without_semaphores(workers: int) -> None:
    """Raise TrainingError where not even what processes wait for one another with can be made."""
    count = SEMAPHORES + OF_EACH * workers
    try:
        made = [multiprocessing.Lock() for _ in range(count)]
    except OSError as error:
        raise TrainingError(
            f"training.num_workers={workers} needs {count * PAGE_KB} kB in /dev/shm (got {error}): make room there, or set "
            "training.num_workers=0"
        ) from error
    del made


def packed(value: Any) -> Any:
    """The same with each tensor, in whatever dataclass or dictionary it stands, as plain values."""
    return _mapped(value, Tensor, lambda tensor: Plain(tensor.numpy()))


def unpacked(value: Any) -> Any:
    """What was packed, with its tensors."""
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
