"""Turn NaN, lack of memory and lack of disk space into one error that says what to do.

Errors are recognised by their text, since each library raises other types.
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
"""Texts of PyTorch's CPU allocator, oneDNN and C++."""
SHOWN = 5
"""Payments that an error names; the log names all."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is due to lack of memory, of the machine or of a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY)


def find_max_batch_size(size: int, attempt: Callable[[int], object]) -> int:
    """How many payments fit: the first of half, a quarter, … of `size` for which `attempt` succeeds; 0 if none does."""
    gc.collect()  # reference cycles of the failed step
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
    """The error for a step with `n` payments per process and part, if only `fits` fit into memory."""
    problem = f"a step must fit into memory (got {n} payments in one of {processes} processes)"
    if fits == 0:
        return TrainingError(f"{problem}, and not even one fits")
    return TrainingError(
        f"{problem}; {fits} fit: training.gradient_accumulation_steps={accumulate * -(-n // fits)} does the same in smaller parts, "
        f"training.batch_size={fits * processes * accumulate} fits as it is"
    )


def not_finite(got: str, at: str, ids: Sequence[object]) -> TrainingError:
    """The error for a loss that is not finite, with the first payments of its batch. All are logged."""
    logger.error("the payments of %s: %s", at, ", ".join(map(str, ids)))
    more = f" and {len(ids) - SHOWN} more (see the log)" if len(ids) > SHOWN else ""
    return TrainingError(
        f"the loss and its gradient must be finite (got {got}, in {at}, payments "
        f"{', '.join(map(str, ids[:SHOWN]))}{more}); earlier checkpoints are not affected"
    )


@contextmanager
def translate_resource_errors(out: Path) -> Iterator[None]:
    """Inside the block, errors due to lack of memory or of space for the run `out` are raised as TrainingError."""
    try:
        yield
    except (OSError, EOFError, MemoryError, RuntimeError, SafetensorError) as error:
        if (reason := _reason(error, out)) is None:
            raise
        raise TrainingError(reason) from error


def _reason(error: Exception, out: Path) -> str | None:
    """What the machine lacks; None for other errors."""
    if isinstance(error, EOFError | ConnectionError) or "DataLoader worker" in str(error):
        # reported by a signal, or when reading from it
        return f"a worker process (training.num_workers) ended early (got {error or 'one was killed'})"
    if "DataLoader timed out" in str(error):
        return f"a worker process must gather a batch in time (got {error}); check the store's disk, or set training.num_workers=0"
    if full(error):
        free = shutil.disk_usage(next(path for path in (out, *out.absolute().parents) if path.exists())).free
        return (
            f"{out} needs more disk space (got {free:,} bytes free: {error}); earlier checkpoints are complete: free some "
            "space, then --resume"
        )
    return f"a run must fit into memory (got {error})" if out_of_memory(error) else None
