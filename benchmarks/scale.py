"""What payments cost by their number: time, memory and disk of each stage, and what follows for more of them.

    python benchmarks/scale.py --payments 1000000 --payments 10000000 --json scale.json
    python benchmarks/scale.py --payments 50000000 --stages prepare --json large.json
    python benchmarks/scale.py --fit scale.json --check large.json

Each stage is a command in a process of its own: prepare, train (an epoch of a small network), score (a day at a time). The
bundle is that of the smallest size, trained without trees, so the stages of all sizes do the same work per payment. CPU
seconds are the steadier measure on a machine that others use. benchmarks/ray_overhead.py measures what a cluster adds.

--fit fits a line through the sizes of files, cost = a + b * payments, and says what it means for more payments and nodes.
--check compares the lines with sizes in other files, which are not used to fit them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

MARKET = Path(__file__).parents[1] / "markets" / "demo.toml"
SETTINGS = ("training.epochs=1", "training.importance_sampling_every=0", "model.parts=network")
STAGES = ("prepare", "train", "score")
STARTED = 20_000
"""Payments of the log whose bundle scores all others."""
NODES, CORES, FETCH_BYTES = (16, 64), 16, 500e6
"""Of the estimates: nodes, processors of each, bytes per second that a node reads from an object storage."""
SIZES = (10**9, 10**10)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One measured command."""

    payments: int
    stage: str
    seconds: float
    cpu_seconds: float
    peak_gb: float
    disk_gb: float


def main() -> None:
    options = _options()
    if options.fit:
        stages = _read(options.fit)
        show_fit(stages)
        if options.check:
            show_check(stages, _read(options.check))
        return
    with tempfile.TemporaryDirectory(prefix="tsa-scale-", dir=options.folder) as name:
        folder, stages = Path(name), list[Stage]()
        bundle = _bundle(folder, options.width) if "score" in options.stages else folder
        for payments in sorted(options.payments):
            for stage in _measured(folder, bundle, payments, options):
                stages.append(stage)
                show(stage)
                if options.json:
                    _write(Path(options.json), stages, options)
    show_fit(stages)


def _read(paths: list[str]) -> list[Stage]:
    return [Stage(**stage) for path in paths for stage in json.loads(Path(path).read_text())["stages"]]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payments", type=int, action="append", default=[], help="simulated payments; repeatable")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="which are measured")
    parser.add_argument("--width", type=int, default=16, help="of the network")
    parser.add_argument("--folder", help="where to write; a temporary folder is made in it")
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument("--fit", nargs="+", help="files of figures: only fit and estimate")
    parser.add_argument("--check", nargs="+", help="with --fit: files of other sizes to compare with")
    options = parser.parse_args()
    if not (options.payments or options.fit):
        parser.error("give --payments N or --fit FILE")
    return options


def _tsa(*words: object) -> tuple[float, float, float]:
    """Run a command: its seconds, CPU seconds and the most GB it held."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "tsa", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"tsa {words[0]} failed")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def _sets(width: int) -> list[str]:
    return [word for setting in (*SETTINGS, f"model.width={width}") for word in ("--set", setting)]


def _bundle(folder: Path, width: int) -> Path:
    log = folder / "small.parquet"
    _tsa("simulate", "-q", "--payments", STARTED, "--seed", 1, "--out", log)
    _tsa("prepare", "-q", "--market", MARKET, log, "--out", folder / "small")
    _tsa("train", "-q", folder / "small", "--out", folder / "run", *_sets(width))
    return folder / "run" / "bundle"


def _measured(folder: Path, bundle: Path, payments: int, options: argparse.Namespace) -> Any:
    """Yield the stages of a size; its files are removed at the end."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        log, store, run, scores = (Path(name) / part for part in ("log.parquet", "store", "run", "scores"))
        _tsa("simulate", "-q", "--payments", payments, "--seed", 2, "--out", log)

        def stage(what: str, out: Path, *words: object) -> Stage:
            seconds, cpu, peak = _tsa(*words)
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e9
            return Stage(payments=payments, stage=what, seconds=seconds, cpu_seconds=cpu, peak_gb=peak, disk_gb=size)

        if "prepare" in options.stages or "train" in options.stages:
            yield stage("prepare", store, "prepare", "-q", "--market", MARKET, log, "--out", store)
        if "train" in options.stages:
            yield stage("train", run, "train", "-q", store, "--out", run, *_sets(options.width))
        if "score" in options.stages:
            yield stage("score", scores, "score", "-q", bundle, log, "--out", scores)


def _write(path: Path, stages: list[Stage], options: argparse.Namespace) -> None:
    machine = {"processors": os.cpu_count(), "load": os.getloadavg()[0], "machine": platform.machine()}
    figures = {"machine": machine, "width": options.width, "stages": [asdict(stage) for stage in stages]}
    path.write_text(json.dumps(figures, indent=1) + "\n")


def show(stage: Stage) -> None:
    print(
        f"{stage.payments:>12,} {stage.stage:<22} {stage.seconds:>8.1f} s {stage.cpu_seconds:>8.1f} CPU s "
        f"{stage.peak_gb:>6.2f} GB memory {stage.disk_gb:>7.3f} GB disk",
        flush=True,
    )


def line(stages: list[Stage], name: str) -> tuple[float, float]:
    """a and b of a + b * payments through the figures of one stage; with one size, a is 0."""
    n = np.array([stage.payments for stage in stages], float)
    y = np.array([getattr(stage, name) for stage in stages])
    if len(set(n)) < 2:
        return 0.0, float((y / n).mean())
    slope, start = np.polyfit(n, y, 1)
    return max(0.0, float(start)), max(0.0, float(slope))


def at(stages: list[Stage], name: str, payments: int) -> float:
    """What a figure of a stage is for more payments."""
    start, slope = line(stages, name)
    return start + slope * payments


def show_check(fitted: list[Stage], measured: list[Stage]) -> None:
    """Print what the lines say of sizes that they were not fitted to, and what was measured."""
    print("\nsizes that the lines were not fitted to:")
    for stage in measured:
        own = [other for other in fitted if other.stage == stage.stage]
        if not own or stage.payments in {other.payments for other in own}:
            continue
        parts = []
        for name, unit in (("cpu_seconds", "CPU s"), ("peak_gb", "GB memory"), ("disk_gb", "GB disk")):
            said, was = at(own, name, stage.payments), getattr(stage, name)
            parts.append(f"{said:.2f} {unit} expected, {was:.2f} measured ({was / said - 1:+.0%})")
        print(f"  {stage.payments:>14,} {stage.stage:<8} {'; '.join(parts)}")


def show_fit(stages: list[Stage]) -> None:
    """Print the lines, and estimates for more payments: scoring by days is divided among nodes, preparing is not."""
    by_stage = {name: [stage for stage in stages if stage.stage == name] for name in ("prepare", "train", "score")}
    print("\nper million payments, and at the start:")
    for name, own in by_stage.items():
        if own:
            cpu, peak, disk = (line(own, figure) for figure in ("cpu_seconds", "peak_gb", "disk_gb"))
            print(
                f"  {name:<8} {cpu[1] * 1e6:>8.2f} CPU s ({cpu[0]:.1f})  {peak[1] * 1e6:>6.3f} GB memory ({peak[0]:.2f})"
                f"  {disk[1] * 1e6:>6.3f} GB disk ({disk[0]:.2f})"
            )
    if not (by_stage["prepare"] and by_stage["score"]):
        return
    print(
        f"\nestimates ({CORES} processors a node, {FETCH_BYTES / 1e6:.0f} MB/s from the object storage to each node):"
    )
    for payments in SIZES:
        store, memory = (at(by_stage["prepare"], name, payments) for name in ("disk_gb", "peak_gb"))
        once = line(by_stage["prepare"], "cpu_seconds")[1] * payments / 3600
        scored = (line(by_stage["score"], "cpu_seconds")[1] - line(by_stage["prepare"], "cpu_seconds")[1]) * payments
        for nodes in NODES:
            fetch, score = store * 1e9 / FETCH_BYTES / 3600, scored / (nodes * CORES) / 3600
            print(
                f"  {payments:>14,} payments, {nodes} nodes: store {store / 1e3:.2f} TB; prepare {once:.1f} CPU h and "
                f"{memory:,.0f} GB memory on one node; fetch {fetch:.1f} h; score {score:.2f} h"
            )


if __name__ == "__main__":
    main()
