"""How long `tsa.prepare` takes and how much memory it needs, each run in a fresh process, its start included.

    python benchmarks/prepare.py --market markets/handbook.toml payments.parquet
    python benchmarks/prepare.py --market markets/demo.toml --simulate 1000000 --simulate 10000000

Prints a table; with several sizes, how the cost per row grows from the smallest to the largest is printed below it. CPU
time is printed too: on a machine that others use, it is the steadier of the two.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measured run."""

    what: str
    rows: int
    seconds: float
    cpu_seconds: float
    peak_gb: float
    store_gb: float


def main() -> None:
    options = _options()
    if options.child:
        _work(*options.child)
        return
    with tempfile.TemporaryDirectory(prefix="tsa-prepare-", dir=options.folder) as folder:
        runs = [_measure("log", options.market, options.logs, Path(folder))] if options.logs else []
        for payments in sorted(options.simulate):
            log = Path(folder) / "simulated.parquet"
            _python("--child", "simulate", str(payments), str(log))
            runs.append(_measure("simulated", options.market, [str(log)], Path(folder)))
    _show(runs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="*", help="files of one payment log")
    parser.add_argument("--market", default="markets/demo.toml")
    parser.add_argument(
        "--simulate", type=int, action="append", default=[], metavar="N", help="a simulated log of N rows"
    )
    parser.add_argument("--folder", help="where to write; a temporary folder is made in it")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.logs or options.simulate or options.child):
        parser.error("give a log or --simulate N")
    return options


def _python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def _measure(what: str, market: str, logs: list[str], folder: Path) -> Run:
    started = time.perf_counter()
    told = _python("--child", "prepare", market, str(folder / "store"), *logs)
    seconds = time.perf_counter() - started
    return Run(what=what, seconds=seconds, **json.loads(told))


def _work(task: str, *arguments: str) -> None:
    """What the fresh process does. Imports stand here so that the measuring process stays small."""
    if task == "simulate":
        from tsa.simulation import SimulationConfig, write_simulation

        write_simulation(SimulationConfig(payments=int(arguments[0])), Path(arguments[1]))
        return
    from tsa.config.market import Market
    from tsa.data.store.prepare import prepare

    market, out, *logs = arguments
    rows = len(prepare(Market.load(market), logs, Path(out)))
    size = sum(file.stat().st_size for file in Path(out).iterdir())
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    print(json.dumps({"rows": rows, "cpu_seconds": cpu, "peak_gb": _peak_gb(), "store_gb": size / 1e9}))


def _peak_gb() -> float:
    """Largest resident memory of this process. Not ru_maxrss, which counts the parent's until exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError("/proc/self/status has no VmHWM")


def _show(runs: list[Run]) -> None:
    print(f"{'log':<10} {'rows':>12} {'seconds':>8} {'cpu s':>7} {'rows/s':>10} {'peak GB':>8} {'store GB':>9}")
    for run in runs:
        print(
            f"{run.what:<10} {run.rows:>12,} {run.seconds:>8.2f} {run.cpu_seconds:>7.2f} "
            f"{run.rows / run.seconds:>10,.0f} {run.peak_gb:>8.2f} {run.store_gb:>9.2f}"
        )
    simulated = [run for run in runs if run.what == "simulated"]
    if len(simulated) > 1:
        few, many = simulated[0], simulated[-1]
        grown = many.seconds / many.rows / (few.seconds / few.rows)
        cpu_grown = many.cpu_seconds / many.rows / (few.cpu_seconds / few.rows)
        print(f"cost per row, {many.rows:,} rows against {few.rows:,}: x {grown:.2f} (CPU time: x {cpu_grown:.2f})")


if __name__ == "__main__":
    main()
