"""What can go wrong with numbers and machines, put into one sentence that says what to do: NaN, no memory, no disk.

Knows errors by their looks, since each library raises its own.
"""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from tsa.errors import TrainingError
from tsa.system_errors import full

logger = logging.getLogger(__name__)

NO_MEMORY = ("can't allocate memory", "could not create a primitive", "could not create a memory", "bad_alloc")
"""How PyTorch's allocator for CPUs, oneDNN and C++ say it."""
SHOWN = 5
"""Payments that an error names; the log names all."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the machine or of a GPU, was asked for and not there."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY)


def find_max_batch_size(size: int, attempt: Callable[[int], object]) -> int:
    """How many payments fit: the first of half, a quarter, … of `size` that `attempt` gets through; 0 where none does."""
    gc.collect()  # what the failed step left in circles of references
    while (size := size // 2) > 0:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt(size)
            return size
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
    return 0


def out_of_memory_error(n: int, fits: int, processes: int, accumulate: int) -> TrainingError:
    """The error of a step on `n` payments per process and part, of which only `fits` would have fitted into memory."""
    found = f"a step must fit into memory (got {n} payments in one of {processes} processes)"
    if fits == 0:
        return TrainingError(f"{found}, and not even one fits")
    return TrainingError(
        f"{found}; {fits} fit: training.gradient_accumulation_steps={accumulate * -(-n // fits)} learns the same in smaller parts, "
        f"training.batch_size={fits * processes * accumulate} fits as it is"
    )


def not_finite(found: str, at: str, ids: Sequence[object]) -> TrainingError:
    """The error of a loss that is not finite, with the payments that it was the loss of; all of them go to the log."""
    logger.error("the payments of %s: %s", at, ", ".join(map(str, ids)))
    more = f" and {len(ids) - SHOWN} more (see the log)" if len(ids) > SHOWN else ""
    return TrainingError(
        f"the loss and its gradient must be finite (got {found}, in {at}, payments "
        f"{', '.join(map(str, ids[:SHOWN]))}{more}); nothing was saved since, earlier checkpoints are as they were"
    )


@contextmanager
def translate_resource_errors(out: Path) -> Iterator[None]:
    """TrainingError where a file of the run `out` cannot be written for lack of space, or memory runs out."""
    try:
        yield
    except (OSError, EOFError, MemoryError, RuntimeError, SafetensorError) as error:
        if (reason := _reason(error, out)) is None:
            raise
        raise TrainingError(reason) from error


def _reason(error: Exception, out: Path) -> str | None:
    """What the machine lacks; None where the error is another."""
    if isinstance(error, EOFError | ConnectionError) or "DataLoader worker" in str(error):
        # a signal says so, anywhere, or it is found out by reading from it
        return f"workers that gather batches (training.num_workers) must live (got {error or 'one was killed'})"
    if "DataLoader timed out" in str(error):
        return f"workers must gather a batch in time (got {error}): look into the disk of the store, or set training.num_workers=0"
    if full(error):
        free = shutil.disk_usage(next(path for path in (out, *out.absolute().parents) if path.exists())).free
        return (
            f"{out} needs more disk space, but {free:,} bytes are free ({error}); checkpoints that were written "
            "before are whole, and the run can be resumed"
        )
    return f"a run must fit into memory (got {error})" if out_of_memory(error) else None
