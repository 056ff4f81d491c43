"""Several processes that train one network: who they are, what they exchange, and how the failure of one ends all.

Torchrun starts them; one process alone needs no group, and every exchange is then nothing. Knows tensors and plain
values; no batches, no epochs.
"""

from __future__ import annotations

import logging
import threading
import time
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

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

import os

from tsa.model import TSANetwork
from tsa.model.batch import Batch, History
from tsa.model.config import ModelConfig

logger = logging.getLogger(__name__)

TIMEOUT = timedelta(minutes=60)
"""How long one process waits for another. A process that died is noticed at once; this is for one that hangs."""
FAILURE_KEY = "tsa: how the run failed"
LOST = "another process of the run ended without a word here: it was killed, or ran out of memory, or says itself what was wrong"
PATIENCE_SECONDS = 1.0
"""How long a process that lost another waits for its last words, which come before it leaves."""

POLL_SECONDS = 0.1
SIGNS = "/signs"
SIGN_SECONDS = 5.0
"""How often a process that works alone says that it lives, and"""
SILENCE_SECONDS = 900.0
"""how long the others wait without hearing so: a machine may be short of time, but not for so long."""

_groups: list[Any] = []
"""Groups live as long as the process. The last to let one go may else be a wrapped network in the trace of an error, which
waits, holding Python's lock, for a thread that waits for that lock."""


class OtherProcessError(TrainingError):
    """Another process of the run failed, and this one cannot go on without it."""


class PendingReduce:
    """Sums on their way."""

    def __init__(self, values: Tensor, work: dist.Work | None) -> None:
        self._values, self._work = values, work

    def barrier(self) -> list[float]:
        """The sums, once every process has said its part."""
        if self._work is not None:
            self._work.wait()
        sums: list[float] = self._values.tolist()
        return sums


@dataclass(frozen=True)
class DistributedContext:
    """This process's number and device, how many processes there are, and what they do together.

    What they do together all of them must do, in the same order.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and logs."""
        return self.rank == 0

    def shard(self, n: int) -> slice:
        """This process's part of n things in a row; the parts differ by one at most, and none is in two."""
        return slice(n * self.rank // self.count, n * (self.rank + 1) // self.count)

    def wrap_ddp(self, network: nn.Module) -> nn.Module:
        """`network` with gradients that are means over the processes."""
        return network if self.count == 1 else DistributedDataParallel(network)

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """Inside the block gradients of a wrapped network are only summed up, and exchanged with the next outside it."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def sum(self, values: Tensor) -> PendingReduce:
        """Sums of float values (k,) over all processes, begun; they arrive while other work is done."""
        return PendingReduce(values, None if self.count == 1 else dist.all_reduce(values, async_op=True))

    def all_reduce(self, values: Tensor) -> Tensor:
        """(m,) float: each value from the one process that has it, the others having 0 in its place. Exact."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        return self.sum(torch.tensor([float(flag)], device=self.device)).barrier()[0] > 0

    def all_gather(self, value: Any) -> list[Any]:
        """What each process has, in their order."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """What the first process has."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def run_then_barrier(self, name: str, work: Callable[[], Any] | None) -> Any:
        """Do `work`, if there is any, and go on when all processes have done theirs, for as long as those give signs of life.

        name: of this work, unlike all others'. Returns what the work of this process gave, None where it had none. Raises
        OtherProcessError where another one fails, or is not heard of.
        """
        if self.count == 1:
            return None if work is None else work()
        store = dist.distributed_c10d._get_default_store()
        made = None
        if work is not None:
            with _signs_of_life(store, name):
                made = work()
        store.add(name, 1)
        signs, heard = -1, time.monotonic()
        while store.add(name, 0) < self.count:
            if store.check([FAILURE_KEY]):
                raise OtherProcessError(store.get(FAILURE_KEY).decode())
            if (now := store.add(f"{name}{SIGNS}", 0)) != signs:
                signs, heard = now, time.monotonic()
            elif time.monotonic() - heard > SILENCE_SECONDS:
                raise OtherProcessError(
                    f"a process must give signs of life at its work ({name}; got none in {SILENCE_SECONDS:g} s)"
                )
            time.sleep(POLL_SECONDS)
        return made

    def wait(self) -> None:
        """Go on when all have come here."""
        self.any(False)


@contextmanager
def _signs_of_life(store: Store, name: str) -> Iterator[None]:
    """Inside the block a thread tells the other processes that this one works."""
    done = threading.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the store went with the process that held it
            while not done.wait(SIGN_SECONDS):
                store.add(f"{name}{SIGNS}", 1)

    thread = threading.Thread(target=tell, name="tsa-signs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def distributed_context(device: str) -> Iterator[DistributedContext]:
    """The processes that torchrun started, or this one alone. device: auto, cpu or cuda.

    The failure of one is told to the others, which then raise OtherProcessError. ConfigError where there is no such
    device. Such a block may stand in another.
    """
    launch = launched()
    if launch is None:
        yield DistributedContext(_device(device))
        return
    outermost = not dist.is_initialized()
    found = DistributedContext(_device(device, launch.local_rank), launch.rank, launch.count)
    store = _group(found) if outermost else dist.distributed_c10d._get_default_store()
    try:
        with _failing_together(store, found.rank):
            yield found
    finally:
        if outermost:
            dist.destroy_process_group()


def _group(processes: DistributedContext) -> Store:
    """Make the group of the processes; returns the store of texts that they share."""
    store, rank, count = next(rendezvous("env://", timeout=TIMEOUT))
    backend = "cpu:gloo,cuda:nccl" if processes.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=TIMEOUT)
    _groups.append(dist.group.WORLD)
    return dist.distributed_c10d._get_default_store()


@contextmanager
def _failing_together(store: Store, rank: int) -> Iterator[None]:
    """Tell the others of a failure in the block, or find out which of theirs was the cause of it."""
    try:
        yield
    except (TrainingStopped, OtherProcessError):
        raise
    except Exception as error:
        own = f"process {rank}: {type(error).__name__}: {error}"
        words = _last_words(store, own, lost=_lost_another(error))
        if words != own:
            raise OtherProcessError(words) from error
        get_error_handler().record_exception(error)  # torchrun repeats it at the end
        raise


def _last_words(store: Store, own: str, *, lost: bool) -> str:
    """How the run failed: by what this process says, unless another was first."""
    try:
        if not lost:
            return str(store.compare_set(FAILURE_KEY, "", own).decode())
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            if store.check([FAILURE_KEY]):
                return str(store.get(FAILURE_KEY).decode())
            time.sleep(0.05)
    except RuntimeError:  # the store went with the process that held it
        pass
    return LOST if lost else own


def _lost_another(error: Exception) -> bool:
    """Whether it is the network of processes that failed, and not this one."""
    if isinstance(error, TSAError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def _device(name: str, local_rank: int = 0) -> torch.device:
    """The device of this process; of several on one machine each takes its own GPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("training.device: no CUDA device is available (got device='cuda')")
    if local_rank >= torch.cuda.device_count():
        found = f"process {local_rank} of a machine with {torch.cuda.device_count()} of them"
        raise ConfigError(f"training.device: each process needs a GPU of its own (got {found})")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@dataclass(frozen=True)
class Launch:
    """What torchrun tells each process that it starts."""

    rank: int
    count: int
    local_rank: int


def launched() -> Launch | None:
    """How torchrun started this process; None where it did not, or started one alone."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    rank = int(os.environ["RANK"])
    return Launch(rank, int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", rank)))


def mlflow_uri() -> str | None:
    """Where MLflow keeps its runs; None where it is not wanted."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def mlflow_experiment() -> tuple[str | None, str | None]:
    """Number and name of the experiment that runs belong to, by MLflow's own variables."""
    return os.environ.get("MLFLOW_EXPERIMENT_ID") or None, os.environ.get("MLFLOW_EXPERIMENT_NAME") or None


def mlflow_run() -> str | None:
    """The number of the run that is to be gone on with, by MLflow's own variable."""
    return os.environ.get("MLFLOW_RUN_ID") or None


def bound_mlflow() -> None:
    """Bound MLflow's calls, unless its own variables say otherwise: by itself one may take half an hour."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # results alone are printed there


def freeze_parameters_without_grad(network: TSANetwork) -> list[str]:
    """Let gradients be asked of no weight that gets none; returns their names. No random number is used up."""
    device = network.table.weight.device
    parameters = dict(network.named_parameters())
    network.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type=device.type):
        logits = network(_some_batch(network.config).to(device))
        total = logits.sum() + network.auxiliary_loss()
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    unused = [name for name, gradient in zip(parameters, found, strict=True) if gradient is None]
    for name in unused:
        parameters[name].requires_grad_(False)
    return unused


def _some_batch(config: ModelConfig, payments: int = 2, events: int = 2) -> Batch:
    """Two payments with two events each, all alike."""
    shape = payments, events
    history = History(
        categorical=torch.ones(*shape, config.n_categorical, dtype=torch.int32),
        numerical=torch.ones(*shape, config.n_numerical),
        age_seconds=torch.tensor([1.0, 0.0]).expand(shape),
        padding=torch.zeros(shape, dtype=torch.bool),
        outcome=torch.ones(shape, dtype=torch.int8),
    )
    engineered = torch.ones(payments, config.n_engineered) if config.n_engineered else None
    return Batch(dict.fromkeys(config.histories, history), engineered)
