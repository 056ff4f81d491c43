"""Distributed training with torchrun: ranks, collective operations, and one failure that ends all processes.

A single process needs no group, and its collective operations do nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from tsa.errors import ConfigError, TrainingError, TrainingStopped, TSAError
from tsa.training.ending.stop_signals import ending_with_parent

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


logger = logging.getLogger(__name__)

TIMEOUT = timedelta(minutes=60)
"""How long a process waits for another that hangs. One that died is noticed at once."""
FAILURE_KEY = "tsa: how the run failed"
LOST_PROCESS = (
    "another process exited without reporting an error: it may have been killed (out of memory?); see its log"
)
FAILURE_WAIT_SECONDS = 1.0
"""How long a process that lost another waits for its error message."""

POLL_SECONDS = 0.1
HEARTBEATS = "/signs"
HEARTBEAT_SECONDS = 5.0
"""How often a process that works while the others wait reports that it is alive."""
MAX_SILENCE_SECONDS = 900.0
"""How long the others wait without such a report."""

_works: Counter[str] = Counter()
"""How often work of each name was waited for: keys of the store cannot be used twice."""
_groups: list[Any] = []
"""Keeps groups alive until the process ends. Else the last reference may be a wrapped network in a traceback, whose
destructor holds the GIL and waits for a thread that needs the GIL."""


class OtherProcessError(TrainingError):
    """Another process of the run failed, and this one cannot continue."""


class PendingReduce:
    """Sums that are still being computed."""

    def __init__(self, values: Tensor, work: dist.Work | None) -> None:
        self._values, self._work = values, work

    def barrier(self) -> list[float]:
        """Wait for the sums."""
        if self._work is not None:
            self._work.wait()
        sums: list[float] = self._values.tolist()
        return sums


@dataclass(frozen=True)
class DistributedContext:
    """The rank and device of this process, the number of processes, and collective operations.

    All processes must call the same operations in the same order.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and logs."""
        return self.rank == 0

    def shard(self, n: int) -> slice:
        """This process's part of n items; the sizes differ by at most one."""
        return slice(n * self.rank // self.count, n * (self.rank + 1) // self.count)

    def wrap_ddp(self, network: nn.Module) -> nn.Module:
        """`network` with gradients averaged over the processes."""
        return network if self.count == 1 else DistributedDataParallel(network)

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """Inside the block, gradients of a wrapped network are accumulated without exchange."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def sum(self, values: Tensor) -> PendingReduce:
        """Start to sum float values (k,) over all processes, in the background."""
        return PendingReduce(values, None if self.count == 1 else dist.all_reduce(values, async_op=True))

    def all_reduce(self, values: Tensor) -> Tensor:
        """(m,) float: each value from the one process that has it; the others must have 0 there. Exact."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process."""
        return self.sum(torch.tensor([float(flag)], device=self.device)).barrier()[0] > 0

    def all_gather(self, value: Any) -> list[Any]:
        """The value of each process, by rank."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """The value of the first process."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def run_then_barrier(self, name: str, work: Callable[[], Any] | None) -> Any:
        """Run `work`, if given, then wait for the work of all processes, as long as they send heartbeats.

        Args:
            name: What the work is called. The same name may be used again, by all processes.
            work: The work of this process; None: nothing.

        Returns:
            The result of `work`.

        Raises:
            OtherProcessError: If another process fails or sends no heartbeat.
        """
        if self.count == 1:
            return None if work is None else work()
        store = dist.distributed_c10d._get_default_store()
        _works[name] += 1
        key = f"{name} {_works[name]}"
        result = None
        if work is not None:
            with _heartbeats(store, key):
                result = work()
        store.add(key, 1)
        beats, last_change = -1, time.monotonic()
        while store.add(key, 0) < self.count:
            if store.check([FAILURE_KEY]):
                raise OtherProcessError(store.get(FAILURE_KEY).decode())
            if (now := store.add(f"{key}{HEARTBEATS}", 0)) != beats:
                beats, last_change = now, time.monotonic()
            elif time.monotonic() - last_change > MAX_SILENCE_SECONDS:
                raise OtherProcessError(
                    f"a process must send heartbeats during {name} (got none in {MAX_SILENCE_SECONDS:g} s)"
                )
            time.sleep(POLL_SECONDS)
        return result

    def wait(self) -> None:
        """Wait until all processes have called this."""
        self.any(False)


@contextmanager
def _heartbeats(store: Store, name: str) -> Iterator[None]:
    """Inside the block, a thread sends heartbeats to the other processes."""
    done = threading.Event()

    def beat() -> None:
        with suppress(RuntimeError):  # the process with the store has ended
            while not done.wait(HEARTBEAT_SECONDS):
                store.add(f"{name}{HEARTBEATS}", 1)

    thread = threading.Thread(target=beat, name="tsa-heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def distributed_context(device: str) -> Iterator[DistributedContext]:
    """The processes that torchrun started, or a single one. Blocks may be nested.

    A failure of one process is reported to the others, which then raise OtherProcessError.

    Args:
        device: auto, cpu or cuda.

    Raises:
        ConfigError: If there is no such device.
    """
    launch = launched()
    if launch is None:
        yield DistributedContext(_device(device))
        return
    outermost = not dist.is_initialized()
    processes = DistributedContext(_device(device, launch.local_rank), launch.rank, launch.count)
    store = _group(processes) if outermost else dist.distributed_c10d._get_default_store()
    try:
        with ending_with_parent() if outermost else nullcontext(), _failing_together(store, processes.rank):
            yield processes
    finally:
        if outermost:
            dist.destroy_process_group()


def _group(processes: DistributedContext) -> Store:
    """Create the process group; returns its key-value store."""
    store, rank, count = next(rendezvous("env://", timeout=TIMEOUT))
    backend = "cpu:gloo,cuda:nccl" if processes.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=TIMEOUT)
    _groups.append(dist.group.WORLD)
    return dist.distributed_c10d._get_default_store()


@contextmanager
def _failing_together(store: Store, rank: int) -> Iterator[None]:
    """Report a failure in the block to the other processes, or find out which of theirs caused it."""
    try:
        yield
    except (TrainingStopped, OtherProcessError):
        raise
    except Exception as error:
        own = f"process {rank}: {type(error).__name__}: {error}"
        failure = _failure_of(store, own, lost=_lost_another(error))
        if failure != own:
            raise OtherProcessError(failure) from error
        get_error_handler().record_exception(error)  # torchrun repeats it at the end
        raise


def _failure_of(store: Store, own: str, *, lost: bool) -> str:
    """The failure of the run: this process's, unless another reported one first."""
    try:
        if not lost:
            return str(store.compare_set(FAILURE_KEY, "", own).decode())
        until = time.monotonic() + FAILURE_WAIT_SECONDS
        while time.monotonic() < until:
            if store.check([FAILURE_KEY]):
                return str(store.get(FAILURE_KEY).decode())
            time.sleep(0.05)
    except RuntimeError:  # the process with the store has ended
        pass
    return LOST_PROCESS if lost else own


def _lost_another(error: Exception) -> bool:
    """Whether the error is a lost connection to another process."""
    if isinstance(error, TSAError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def _device(name: str, local_rank: int = 0) -> torch.device:
    """The device of this process. Several on one machine use one GPU each."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("training.device: no CUDA device is available (got device='cuda')")
    if local_rank >= torch.cuda.device_count():
        got = f"process {local_rank} of a machine with {torch.cuda.device_count()} of them"
        raise ConfigError(f"training.device: each process needs a separate GPU (got {got})")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@dataclass(frozen=True)
class Launch:
    """The environment that torchrun sets for each process."""

    rank: int
    count: int
    local_rank: int


def launched() -> Launch | None:
    """The environment set by torchrun; None without torchrun, or for a single process."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    rank = int(os.environ["RANK"])
    return Launch(rank, int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", rank)))
