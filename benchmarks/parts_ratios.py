"""What trees cost: a model of network and trees over its network alone, in turn: endpoint, offline scoring, training.

    python benchmarks/parts_ratios.py BUNDLE LOG [--load 50000] [--seconds 4] [--rounds 5] [--train MARKET]

BUNDLE has both parts; LOG holds payments of its market. The network alone is the same bundle without its trees. Both serve in
turn to one client, with their own history stores (SQLite), and then score the last payments of LOG in turn. Printed are
ratios, each the median of the rounds with the smallest and the largest. On a machine that others use, the ratio of the
processor times is the one to look at. With --train a model of MARKET is trained on LOG with the default settings: the whole
time over the time without training trees and joining them with the network.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import torch

import tsa
from serve import closed_loop, cpu_seconds, load, requests, serving
from serve_ratios import show
from tsa.bundle.bundle import Bundle
from tsa.inference.export_bundle import export_bundle
from tsa.inference.scorer import Scorer
from tsa.model.network_and_trees import ALONE
from tsa.training.parts.train_parts import join_parts

SCORED = 4_096


def bundles(bundle: Bundle, folder: Path) -> tuple[Path, Path]:
    """The bundle and its network alone, with graphs as `tsa export` writes them."""
    if bundle.trees is None or len(bundle.joining.parts) < 2:
        raise SystemExit(f"BUNDLE must have network and trees (got {' and '.join(bundle.joining.parts)})")
    both, alone = folder / "both", folder / "network"
    bundle.save(both)
    replace(bundle, trees=None, joining=ALONE["network"], choice={}).save(alone)
    for path in (both, alone):
        export_bundle(path)
    return both, alone


async def served(
    servers: tuple[tuple[int, int], ...], payments: Iterator[bytes], seconds: float, rounds: int
) -> dict[str, list[float]]:
    """Ratios of the first server (port, process id) to the second, which answer one client in turn."""
    ratios: dict[str, list[float]] = {"p50": [], "processor time each": []}
    for port, _ in servers:
        await closed_loop(port, payments, 1, min(seconds, 2))
    for _ in range(rounds):
        found = []
        for port, pid in servers:
            computed = cpu_seconds(pid)
            tally = await closed_loop(port, payments, 1, seconds)
            each = (cpu_seconds(pid) - computed) / max(1, tally.statuses.total())
            found.append((float(np.percentile(tally.milliseconds, 50)), each))
            print(f"  {tally}, {1000 * each:.2f} ms of the processor each", flush=True)
        for at, values in enumerate(ratios.values()):
            values.append(found[0][at] / found[1][at])
    return ratios


def endpoint(paths: tuple[Path, Path], log: Path, payments: int, seconds: float, rounds: int, folder: Path) -> None:
    bundle = Bundle.open(paths[0])
    event, frame = bundle.market.event, pl.read_parquet(log)
    stores = [f"sqlite:///{folder}/{path.name}.db" for path in paths]
    first = frame.sort(event.time).head(payments)
    last = [load(path, first, event.time, store, folder) for path, store in zip(paths, stores, strict=True)]
    sent = requests(bundle, frame.tail(50_000), max(last) + timedelta(days=1))
    with serving(paths[0], stores[0], []) as one, serving(paths[1], stores[1], []) as other:
        ratios = asyncio.run(served((one, other), sent, seconds, rounds))
    show("endpoint, one client, network and trees over the network alone", ratios)


def offline(paths: tuple[Path, Path], log: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    scorers = [Scorer.load(path) for path in paths]
    ratios: dict[str, list[float]] = {"payments a second": [], "payments a second of processor time": []}
    with scorers[0].encoded(pl.read_parquet(log).tail(50_000)) as store:
        rows = store.scored_rows()[-SCORED:]
        for scorer in scorers:
            scorer.score_rows(store, rows[:256])
        for _ in range(rounds):
            spent: list[tuple[float, float]] = []
            for scorer in scorers:
                began, computed = time.perf_counter(), time.process_time()
                scorer.score_rows(store, rows)
                spent.append((time.perf_counter() - began, time.process_time() - computed))
            print(f"  {', '.join(f'{len(rows) / seconds:.0f}' for _, seconds in spent)} a second", flush=True)
            for at, values in enumerate(ratios.values()):
                values.append(spent[1][at] / spent[0][at])
    show("offline, network and trees over the network alone", ratios)


def training(log: Path, market: str) -> None:
    torch.set_num_threads(1)
    spent: list[float] = []

    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.process_time()
        joined = join_parts(*arguments, **named)
        spent.append(time.process_time() - began)
        return joined

    with tempfile.TemporaryDirectory() as folder, patch("tsa.training.training_run.join_parts", timed):
        store = tsa.prepare(tsa.Market.load(market), [log], Path(folder) / "store")
        began = time.process_time()
        bundle = tsa.train(store, Path(folder) / "run")
        whole = time.process_time() - began
    rest = whole - sum(spent)
    print(
        f"training with one thread, {len(bundle.training['epochs'])} epochs: {whole:.0f} s of processor time, {rest:.0f} s "
        f"without trees: {whole / rest:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--load", type=int, default=50_000, help="payments that fill the history stores beforehand")
    parser.add_argument("--seconds", type=float, default=4, help="of each server in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train", metavar="MARKET", help="also train; with LOG's market file or its name")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tsa-parts-") as name:
        folder = Path(name)
        paths = bundles(Bundle.open(arguments.bundle), folder)
        offline(paths, arguments.log, arguments.rounds)
        endpoint(paths, arguments.log, arguments.load, arguments.seconds, arguments.rounds, folder)
    if arguments.train:
        training(arguments.log, arguments.train)


if __name__ == "__main__":
    main()
