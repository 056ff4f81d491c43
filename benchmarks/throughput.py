"""Throughput on a log: gathering histories, a training step, offline scoring, in payments a second.

    python benchmarks/throughput.py LOG [--market markets/handbook.toml] [--threads 2]

Gathering is measured on one core, whatever --threads says. The network is the default preset with random weights: speed
does not depend on what it has learned. Training rows are drawn as an epoch draws them. Each figure is the best of three
rounds, so that other work on the machine counts as little as it can.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

import tsa
from tsa.data.history import gather
from tsa.inference.score_parts import score_events
from tsa.model import TSANetwork
from tsa.model.collate import gather_batch
from tsa.training.data.sampler import Sampler
from tsa.training.optim import make_optimizer
from tsa.training.train_model import network_settings

MARKET = Path(__file__).parents[1] / "markets" / "handbook.toml"


def best_rate(n: int, work: Callable[[], object]) -> float:
    """Units a second: n over the shortest of three rounds, after one to warm up."""
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return n / min(seconds[1:])


def gather_rate(store: tsa.EventStore, rows: np.ndarray, length: int = 51) -> float:
    chunks = np.array_split(rows, len(rows) // 512)

    def work() -> None:
        for chunk in chunks:
            for index in store.histories.values():
                gather(store, index, chunk, length)

    return best_rate(len(rows) * len(store.histories), work)


def training_rate(store: tsa.EventStore, network: TSANetwork, config: tsa.TrainingConfig) -> float:
    optimizer = make_optimizer(network, config)
    sampler = Sampler(store, store.labelled("train"), config)
    epoch = sampler.epoch(1, lambda rows: score_events(network, store, rows)).rows
    drawn = np.split(epoch, len(epoch) // config.batch_size)[:20]  # an epoch has complete batches only
    network.train()

    def work() -> None:
        for rows in drawn:
            target = torch.from_numpy(store.label[rows].astype(np.int64))
            loss = functional.cross_entropy(network(gather_batch(store, rows, trim=True)), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return best_rate(sum(len(rows) for rows in drawn), work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log")
    parser.add_argument("--market", default=MARKET)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        store = tsa.prepare(tsa.Market.load(arguments.market), [arguments.log], Path(folder) / "store")
        network = TSANetwork(network_settings(store, "default", {}))
        rows = np.random.default_rng(0).choice(store.labelled("test"), 20_480)
        print(f"histories gathered, one core   {gather_rate(store, rows):>10,.0f} a second")
        print(
            f"training, forward and backward {training_rate(store, network, tsa.TrainingConfig()):>10,.0f} payments/s"
        )
        scoring = best_rate(len(rows), lambda: score_events(network, store, rows))
        print(f"offline scoring                {scoring:>10,.0f} payments/s")
        parameters = sum(p.numel() for p in network.parameters())
        print(f"default preset, {parameters:,} parameters, {arguments.threads} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
