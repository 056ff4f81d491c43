"""Training, side by side: processes against threads, trimmed against full histories, bf16 against float32; what else costs.

    tsa simulate --out demo.parquet
    python benchmarks/training.py demo.parquet [--market markets/demo.toml] [--steps 40] [--rounds 3]
    python benchmarks/training.py demo.parquet --gpu

Each figure is payments a second over so many steps of the real loop with the default settings, after some to warm up. What is
compared takes turns, each turn in processes of its own; the best of all rounds counts, so that other work on the machine
counts as little as it can. Then a whole run of two epochs: which share of it went into checkpoints, and which share of the
steps into waiting for the loader. --gpu, on a machine with CUDA: presets and precisions there, with how busy the GPU was.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed import TCPStore

import tsa
from tsa.model import TSANetwork
from tsa.model.embedding import EventParts, SummedEvents
from tsa.training.data.loader import EpochLoader, MicrobatchSpec
from tsa.training.data.sampler import EpochSample
from tsa.training.distributed import distributed_context
from tsa.training.train_model import network_settings
from tsa.training.train_step import StepResult
from tsa.training.trainer import Callbacks, Trainer

MARKET = Path(__file__).parents[1] / "markets" / "demo.toml"
WARM_UP = 5
SORTED, SORTED_WIDELY = {"length_bucket_batches": 64}, {"length_bucket_batches": 512}
REFERENCE = "reference-two-history"
START = multiprocessing.get_context("spawn")


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to train: so many processes with so many threads each, and settings that differ from the defaults."""

    processes: int = 1
    threads: int = 2
    full: bool = False
    """Histories are as wide as the market lets them be, however long they are, and padding is worked on as events are."""
    preset: str = "default"
    training: Mapping[str, Any] = field(default_factory=dict)


class EnoughError(Exception):
    """So many steps were made."""


class FullWidth(EpochLoader):
    """A loader that trims nothing."""

    def _task(self, drawn: EpochSample, whole: slice) -> MicrobatchSpec:
        widths = {key.name: key.length for key in self.store.market.history}
        task = super()._task(drawn, whole)
        return replace(task, widths=widths, positions=(whole.stop - whole.start) * sum(widths.values()))


class EveryPosition(SummedEvents):
    """An embedding of events that leaves out nothing."""

    def _without_padding(self, padding: Tensor, parts: EventParts, table: Tensor) -> Tensor:
        return self._embedded(parts, table)


def measured(path: str, way: Way, steps: int) -> dict[str, float]:
    """Payments a second over the steps of one epoch, and its share of padding, in this process among the others."""
    torch.set_num_threads(way.threads)
    store, config = tsa.EventStore.open(Path(path)), tsa.TrainingConfig.make(dict(way.training))
    ends: list[float] = []

    def on_step(step: StepResult) -> None:
        ends.append(time.perf_counter())
        if len(ends) == WARM_UP + steps:
            raise EnoughError

    with distributed_context(config.device) as processes:
        torch.manual_seed(0)
        network = TSANetwork(network_settings(store, way.preset, {})).to(processes.device)
        rows = {"train": store.labelled("train"), "validation": np.zeros(0, np.int64)}
        loop = Trainer(network, store, rows, config, processes, Callbacks(on_step=on_step))
        if way.full:
            loop.loader = FullWidth(store, config, processes)
            for module in network.modules():
                if isinstance(module, SummedEvents):
                    module.__class__ = EveryPosition
        try:
            loop.train_epoch(loop.sample_epoch())
        except EnoughError:
            pass
        finally:
            stats = loop.stats
    seconds = ends[-1] - ends[WARM_UP - 1]
    padding = 1.0 - stats.filled / stats.positions
    return {"rate": (len(ends) - WARM_UP) * config.batch_size / seconds, "padding": padding}


def best(path: Path, ways: Mapping[str, Way], steps: int, rounds: int) -> dict[str, dict[str, float]]:
    """The best of so many rounds of each way, in turns."""
    found: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            now = apart(path, way, steps)
            if name not in found or now["rate"] > found[name]["rate"]:
                found[name] = now
    return found


def apart(path: Path, way: Way, steps: int) -> dict[str, float]:
    """`measured` in processes of its own, as torchrun would start them; what the first of them found."""
    shared = {}
    if way.processes > 1:
        texts = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(texts.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    here, there = START.Pipe(duplex=False)
    started = []
    for rank in range(way.processes):
        environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(way.processes)}
        started.append(START.Process(target=_tell, args=(there, environment, str(path), way, steps)))
        started[-1].start()
    there.close()
    try:
        found: dict[str, float] = here.recv()
    except EOFError:
        raise SystemExit("a process failed: see above") from None
    for process in started:
        process.join()
    return found


def _tell(there: Any, environment: dict[str, str], path: str, way: Way, steps: int) -> None:
    os.environ |= environment
    found = measured(path, way, steps)
    if environment["RANK"] == "0":
        there.send(found)


def compared(path: Path, title: str, ways: Mapping[str, Way], steps: int, rounds: int) -> None:
    """A line per way: its rate, and its ratio to the first."""
    print(title)
    found = best(path, ways, steps, rounds)
    first = next(iter(found.values()))["rate"]
    for name, one in found.items():
        print(
            f"  {name:<44}{one['rate']:>9,.0f} payments/s  {one['rate'] / first:5.2f} times  padding {one['padding']:.0%}"
        )


def whole_run(store: tsa.EventStore, epochs: int, threads: int) -> None:
    """Which share of a run went into checkpoints, and of its steps into waiting for batches."""
    torch.set_num_threads(threads)
    saves: list[float] = []
    save = Trainer.save

    def timed(loop: Trainer) -> None:
        began = time.perf_counter()
        save(loop)
        saves.append(time.perf_counter() - began)

    Trainer.save = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        bundle = tsa.train(store, Path(folder) / "run", training=tsa.TrainingConfig(epochs=epochs))
        seconds = time.perf_counter() - began
    Trainer.save = save  # type: ignore[method-assign]
    print(f"a run of {epochs} epochs, {threads} threads, {seconds:.0f} seconds")
    print(f"  {len(saves)} checkpoints: {sum(saves) / seconds:.2%} of it, {np.mean(saves):.3f} seconds each")
    waiting = np.mean([epoch["waiting_share"] for epoch in bundle.training["epochs"]])
    print(f"  waiting for the loader: {waiting:.1%} of a step")


@contextmanager
def watched_gpu() -> Iterator[list[float]]:
    """How busy the GPU is, in percent, several times a second, as nvidia-smi sees it."""
    seen: list[float] = []
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200", "--id=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout
        reader = threading.Thread(target=lambda: seen.extend(float(line) for line in lines), daemon=True)
        reader.start()
        yield seen
        process.terminate()
        reader.join()


def on_gpu(path: Path, steps: int) -> None:
    """Payments a second and utilisation of each preset in float32 and in bf16, batches of 2,048."""
    if not torch.cuda.is_available():
        raise SystemExit("--gpu needs a machine with CUDA, but there is no device")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    several = len(tsa.EventStore.open(path).market.history) > 1
    for preset in (REFERENCE if several else "reference", "default"):
        for precision in ("float32", "bf16"):
            training = {
                "precision": precision,
                "batch_size": 2048,
                "genuine_per_fraud": 200.0,
                "length_bucket_batches": 64,
            }
            with watched_gpu() as seen:
                found = measured(str(path), Way(preset=preset, training=training), steps)
            busy = f"{np.median(seen[len(seen) // 3 :]):.0f} % busy" if seen else "utilisation not known"
            memory = torch.cuda.max_memory_allocated() / 2**30
            torch.cuda.reset_peak_memory_stats()
            print(f"  {preset:<24}{precision:<9}{found['rate']:>10,.0f} payments/s  {busy}, {memory:.1f} GiB")


COMPARISONS: dict[str, dict[str, Way]] = {
    "processes against threads": {
        "one process, two threads": Way(),
        "two processes (gloo), one thread each": Way(processes=2, threads=1),
    },
    "length of histories": {
        "full width": Way(full=True),
        "trimmed, as drawn": Way(),
        "trimmed, similar lengths together": Way(training=SORTED),
        "the same, of 512 batches instead of 64": Way(training=SORTED_WIDELY),
    },
    "length of histories, reference preset": {
        "full width": Way(full=True, preset=REFERENCE, training={"batch_size": 64}),
        "trimmed, similar lengths together": Way(
            preset=REFERENCE, training={"batch_size": 64, "length_bucket_batches": 256}
        ),
    },
    "precision": {"float32": Way(), "bf16": Way(training={"precision": "bf16"})},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log")
    parser.add_argument("--market", default=MARKET)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2, help="of the whole run; 0 leaves it out")
    parser.add_argument("--only", choices=list(COMPARISONS), help="one comparison alone")
    parser.add_argument("--gpu", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = tsa.prepare(tsa.Market.load(arguments.market), [arguments.log], Path(folder) / "store")
        if arguments.gpu:
            on_gpu(store.path, arguments.steps)
            return
        for title, ways in COMPARISONS.items():
            if arguments.only in (None, title):
                compared(store.path, title, ways, arguments.steps, arguments.rounds)
        if arguments.epochs and arguments.only is None:
            whole_run(store, arguments.epochs, threads=2)
    bf16 = Path("/proc/cpuinfo").read_text().count("bf16") > 0 if Path("/proc/cpuinfo").exists() else None
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, bf16 in the processor: {bf16}")


if __name__ == "__main__":
    main()
