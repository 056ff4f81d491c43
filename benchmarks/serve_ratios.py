"""The other ratios of `benchmarks/serve.py --floor`: overload, Redis over SQLite, and offline batches over the raw engine."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch

from floor import prepared_model
from serve import CLIENTS, closed_loop, open_loop
from tsa.inference.scorer import Scorer

BATCH, BATCHES = 256, 16


def show(title: str, ratios: dict[str, list[float]]) -> None:
    """Print the median of each ratio, with the smallest and the largest."""
    rounds = len(next(iter(ratios.values())))
    print(f"{title}, median of {rounds} rounds (smallest to largest):")
    for name, values in ratios.items():
        print(f"  {name}: {np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})", flush=True)


@contextlib.contextmanager
def redis_store(folder: Path) -> Iterator[str]:
    """The address of a Redis server on loopback, with its files in a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes"]
    process = subprocess.Popen([*words, "--maxmemory-policy", "noeviction"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(20)


async def overload(port: int, payments: Iterator[bytes], seconds: float, rounds: int) -> None:
    """Twice the capacity offered: what is accepted over the capacity, its p99 over that at capacity, and the rest."""
    ratios: dict[str, list[float]] = {"accepted a second over capacity": [], "p99 over p99 at capacity": []}
    for _ in range(rounds):
        most = await closed_loop(port, payments, CLIENTS, seconds)
        offered = await open_loop(port, payments, 2 * most.rate, seconds)
        print(f"at capacity: {most}; {2 * most.rate:.0f}/s offered: {offered}")
        ratios["accepted a second over capacity"].append(offered.rate / most.rate)
        p99 = [float(np.percentile(tally.milliseconds, 99)) for tally in (offered, most)]
        ratios["p99 over p99 at capacity"].append(p99[0] / p99[1])
    show("twice the capacity offered", ratios)


async def redis_over_sqlite(
    sqlite_port: int, redis_port: int, payments: Iterator[bytes], seconds: float, rounds: int
) -> None:
    """The payments a second of 32 clients with Redis over those with SQLite, in turn."""
    ratios: list[float] = []
    for port in (redis_port, sqlite_port):
        await closed_loop(port, payments, CLIENTS, min(seconds, 3))
    for _ in range(rounds):
        tallies = [await closed_loop(port, payments, CLIENTS, seconds) for port in (redis_port, sqlite_port)]
        print(f"{CLIENTS} clients, Redis: {tallies[0]}; SQLite: {tallies[1]}")
        ratios.append(tallies[0].rate / tallies[1].rate)
    show("Redis over SQLite", {f"{CLIENTS} clients, payments a second": ratios})


def offline_over_engine(bundle: Path, log: Path, rounds: int) -> None:
    """Batches of 256 payments of a store over the same batches as ready tensors: payments a second, and of processor time."""
    torch.set_num_threads(1)
    scorer = Scorer.load(bundle, engine="auto")
    ratios: dict[str, list[float]] = {}
    with scorer.encoded(pl.read_parquet(log).tail(20_000)) as store, torch.inference_mode():
        rows = store.scored_rows()[-BATCH * BATCHES :]
        parts = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]
        model = prepared_model(scorer, store, parts)
        prepared: Callable[[], object] = lambda: [model(at) for at in range(len(parts))]  # noqa: E731
        offline: Callable[[], object] = lambda: [scorer.score_rows(store, part) for part in parts]  # noqa: E731
        for work in (offline, prepared):
            work()
        clocks = {"payments a second": time.perf_counter, "payments a second of processor time": time.process_time}
        for _ in range(rounds):
            seconds = {name: list[float]() for name in clocks}
            for work in (offline, prepared):
                begun = {name: clock() for name, clock in clocks.items()}
                work()
                for name, clock in clocks.items():
                    seconds[name].append(clock() - begun[name])
            for name, (own, engine) in seconds.items():
                print(f"{name}: offline {len(rows) / own:.0f}, engine on ready tensors {len(rows) / engine:.0f}")
                ratios.setdefault(f"batches of {BATCH}, {name}", []).append(engine / own)
    show("offline over the engine", ratios)
