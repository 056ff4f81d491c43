"""Explaining single payments: milliseconds each, steps taken, and how well what is said adds up.

    python benchmarks/explain.py BUNDLE LOG [--payments 200] [--threads 2]

BUNDLE is of a trained network: how many steps an explanation takes depends on what was learned, and random weights take ten
times as many. Payments are drawn from the last tenth of the log, where histories are full. Each is timed from its
batch and raw values to the explanation, as the endpoint has it; reading the log is left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tsa.bundle.bundle import Bundle
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.explain import Explainer
from tsa.explain.raw_values import store_facts
from tsa.model.collate import gather_batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("log")
    parser.add_argument("--payments", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Bundle.open(arguments.bundle)
        store = prepare(bundle.market, arguments.log, Path(folder) / "store", encoder=bundle.encoder)
        measure(bundle, store, arguments.payments)


def measure(bundle: Bundle, store: EventStore, n: int) -> None:
    rows = np.random.default_rng(0).choice(np.arange(len(store) * 9 // 10, len(store)), n, replace=False).tolist()
    explainer, seconds, cpu, found = Explainer(bundle), [], [], []
    columns = bundle.trees.columns if bundle.trees is not None and "trees" in bundle.joining.parts else None
    ready = []
    for row, facts in zip(rows, store_facts(store, rows), strict=True):
        one = np.array([row])
        of_trees = None if columns is None else columns.of_store(store, one)
        ready.append((gather_batch(store, one, trim=True), facts.payment, facts.earlier, of_trees))
    for arguments in ready[:5]:  # to warm up: captum is imported, threads start
        explainer.explain(*arguments)
    for arguments in ready:
        began, worked = time.perf_counter(), time.process_time()
        found.append(explainer.explain(*arguments))
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - worked)
    steps = np.array([one.steps for one in found])
    off = np.array([abs(one.residual) / abs(one.total) for one in found])
    p50, p95, p99 = 1e3 * np.quantile(seconds, [0.5, 0.95, 0.99])
    print(f"{n} payments, {torch.get_num_threads()} threads: p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms")
    print(f"processor time: p50 {1e3 * np.median(cpu):.0f} ms")
    print(f"steps: p50 {np.median(steps):.0f}, p95 {np.quantile(steps, 0.95):.0f}, most {steps.max()}")
    print(f"residual in percent of the total: p50 {100 * np.median(off):.3f}, most {100 * off.max():.3f}")


if __name__ == "__main__":
    main()
