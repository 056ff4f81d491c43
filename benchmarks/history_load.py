"""How long `tsa history load` takes: a simulated log into a new history store, and once more, which changes nothing.

    python benchmarks/history_load.py [--payments 1000000] [--history sqlite:///FILE] [--bundle BUNDLE]

Without --bundle the model is a network with random weights: loading does not look at them. A bundle with trees keeps more
events of each key; it must be one of the market `demo`. The time is of all that the command does once it has started, reading and
encoding the log included; the peak is of the whole process.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import tsa
from tsa.bundle.bundle import Bundle
from tsa.model import TSANetwork
from tsa.serving.history.backfill import backfill
from tsa.serving.history.factory import open_history
from tsa.simulation import SimulationConfig, write_simulation
from tsa.training.model_config import network_settings

MARKET = Path(__file__).parents[1] / "markets" / "demo.toml"


def untrained(log: Path, folder: Path) -> Bundle:
    """A bundle for the log, of the default preset's sizes."""
    store = tsa.prepare(tsa.Market.load(MARKET), [log], folder / "store")
    network = TSANetwork(network_settings(store, "default", {})).eval()
    return Bundle(market=store.market, encoder=store.encoder, config=network.config, network=network, training={})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payments", type=int, default=1_000_000)
    parser.add_argument("--history", help="a store's URL; by default a new SQLite file")
    parser.add_argument("--bundle", help="a bundle of the market demo")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tsa-history-load-") as name:
        folder = Path(name)
        log = folder / "log.parquet"
        write_simulation(SimulationConfig(payments=arguments.payments), log)
        bundle = untrained(log, folder) if arguments.bundle is None else Bundle.open(arguments.bundle)
        keys = 0
        with open_history(arguments.history or f"sqlite:///{folder / 'histories.db'}") as store:
            for what in ("load", "load again"):
                began, cpu = time.perf_counter(), time.process_time()
                filled = backfill(store, bundle, [log])
                wall, used = time.perf_counter() - began, time.process_time() - cpu
                counts = f"{filled.read:,} read, {filled.added:,} added, {filled.changed:,} keys changed"
                print(f"{what}: {wall:.1f} s ({used:.1f} s of processor time); {counts}")
                keys = keys or filled.changed
        size = sum(path.stat().st_size for path in folder.glob("histories.db*"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        per_key = f"{size / max(keys, 1) / 1e3:.1f} kB for each key"
        print(f"file: {size / 1e6:.0f} MB, {per_key}; peak memory with preparing the bundle: {peak:.2f} GB")


if __name__ == "__main__":
    main()
