"""Whether deep trees rank better where frauds are few.

    python benchmarks/deep_trees.py STORE...
    python benchmarks/deep_trees.py --simulate 8 --payments 40000 [--seed 1]

For each store, validation and calibration range in turn: the trees are fitted with one range to end their training and to
judge, and measured by average precision on the other, which decides nothing. Shown are trees of one kind, trees of which two
of five are deep, and what `tsa train` takes. Then the same trees on the test range, with the validation range as judge. With
--simulate: stores of simulated logs with successive seeds, each one after the other.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

import tsa
from tsa.config.market import Market
from tsa.simulation import SimulationConfig, write_simulation
from tsa.training.parts.trees import fit_trees

MARKET = Path(__file__).parents[1] / "markets" / "demo.toml"
KINDS = {"one kind": 0, "two deep": 2, "taken": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", metavar="STORE")
    parser.add_argument("--simulate", type=int, default=0, help="number of simulated logs")
    parser.add_argument("--payments", type=int, default=40_000, help="of each simulated log")
    parser.add_argument("--seed", type=int, default=1, help="of the first simulated log")
    parser.add_argument("--members", type=int, default=5, help="models of trees")
    args = parser.parse_args()
    lines: list[dict[str, float]] = []
    tests: list[dict[str, float]] = []
    for name in args.stores:
        measure(name, tsa.EventStore.open(name), args.members, lines, tests)
    for seed in range(args.seed, args.seed + args.simulate):
        with simulated(args.payments, seed) as store:
            measure(f"seed {seed}", store, args.members, lines, tests)
    print(f"mean of {len(lines)} ranges that decided nothing: {text(mean(lines))}")
    gains = np.array([line["taken"] - line["one kind"] for line in lines])
    print(f"  of these {np.sum(gains > 0)} gain by what is taken, {np.sum(gains == 0)} stay, {np.sum(gains < 0)} lose")
    print(f"mean of {len(tests)} test ranges: {text(mean(tests))}")


def measure(
    name: str, store: tsa.EventStore, members: int, lines: list[dict[str, float]], tests: list[dict[str, float]]
) -> None:
    train = store.labelled("train")
    for judge, other in (("validation", "calibration"), ("calibration", "validation"), ("validation", "test")):
        rows = store.labelled(other)
        label = np.asarray(store.label[rows])
        made = {}
        for kind, n_deep in KINDS.items():
            trees = fit_trees(store, train, store.labelled(judge), seed=0, threads=1, n_ensemble=members, n_deep=n_deep)
            made[kind] = float(average_precision_score(label, trees.of_store(store, rows)))
        (tests if other == "test" else lines).append(made)
        print(f"{name}, {judge} judges, {other} ({int(label.sum())} frauds): {text(made)}", flush=True)


def mean(lines: list[dict[str, float]]) -> dict[str, float]:
    return {kind: float(np.mean([line[kind] for line in lines])) for kind in KINDS}


def text(made: dict[str, float]) -> str:
    return ", ".join(f"{kind} {value:.3f}" for kind, value in made.items())


@contextmanager
def simulated(payments: int, seed: int) -> Iterator[tsa.EventStore]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.parquet"
        write_simulation(SimulationConfig(payments=payments, seed=seed), log)
        yield tsa.prepare(Market.load(MARKET), log, Path(folder) / "store")


if __name__ == "__main__":
    main()
