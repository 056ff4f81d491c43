"""Scoring a log that is large beside the memory: `tsa score` in a process of its own, its time and the most it held.

    python benchmarks/score_large.py [--payments 10000000] [--width 16]

A small network is trained for an epoch on the first 200,000 of the simulated payments; how much memory scoring takes
depends on the log, not on the network, whose share is that of one batch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

MARKET = Path(__file__).parents[1] / "markets" / "demo.toml"
TSA = Path(sys.executable).with_name("tsa")
FIRST = 200_000


def tsa(*words: object) -> tuple[float, float]:
    """Run a command: its seconds and the most GB it held."""
    begun = time.perf_counter()
    process = subprocess.Popen([str(TSA), *map(str, words)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"tsa {words[0]} failed")
    return time.perf_counter() - begun, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payments", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=16, help="of the network")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tsa-large-") as name:
        folder = Path(name)
        log, small, out = (folder / f"{part}.parquet" for part in ("log", "small", "scores"))
        tsa("simulate", "-q", "--payments", options.payments, "--seed", 1, "--out", log)
        tsa("simulate", "-q", "--payments", FIRST, "--seed", 1, "--out", small)
        settings = ("training.epochs=1", "training.importance_sampling_every=0", f"model.width={options.width}")
        words = [word for setting in settings for word in ("--set", setting)]
        tsa("prepare", "-q", "--market", MARKET, small, "--out", folder / "store")
        tsa("train", "-q", folder / "store", "--out", folder / "run", *words)
        seconds, gigabytes = tsa("score", "-q", folder / "run" / "bundle", log, "--out", out)
        rows = pl.scan_parquet(out).select(pl.len()).collect().item()
    print(f"{rows:,} payments scored in {seconds:.0f} s ({rows / seconds:,.0f}/s), at most {gigabytes:.2f} GB")


if __name__ == "__main__":
    main()
