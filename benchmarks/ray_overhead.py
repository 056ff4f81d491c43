"""What a Ray cluster on this machine costs over one process, stage by stage: processor time, memory and bytes that move.

    python benchmarks/ray_overhead.py --workers 2 --workers 4 --workers 8 --json ray.json

The stages are commands on a small simulated log: prepare, score by day, compare, tune (a round) and train. Each runs without a
cluster first, then by a cluster that is started for the number of workers. Results must be equal to the byte: those of train to
torchrun's with as many processes. On a machine with few processors this shows overhead, not a speed-up: workers that are more
than the processors wait for each other. CPU seconds are the steadier measure on a machine that others use.

CPU seconds and memory are read from /proc five times a second, for the command, for its workers, and for Ray's own processes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MARKET = Path(__file__).parents[1] / "markets" / "demo.toml"
NETWORK = ("training.epochs=1", "training.importance_sampling_every=0", "model.parts=network", "model.width=16")
TICK = os.sysconf("SC_CLK_TCK")
START_TRIES = 5
"""Ray gives its own processes half a minute to start, which a busy machine may not manage."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One command, by one process or by a cluster."""

    stage: str
    workers: int
    """0 without a cluster."""
    seconds: float
    command_cpu: float
    worker_cpu: float
    ray_cpu: float
    worker_peak_gb: float
    """Of the largest worker; without a cluster, of the command."""
    moved_mb: float
    """What is sent to a node, and all that comes back, as the log of the command says. Gradients are not in it."""


@dataclass
class Watched:
    """Processor seconds and most memory of processes, by what they are."""

    cpu: dict[int, tuple[str, float]] = field(default_factory=dict)
    peak: dict[int, tuple[str, float]] = field(default_factory=dict)

    def total(self, kind: str) -> float:
        """Seconds of a kind: command, worker or ray."""
        return sum(seconds for own, seconds in self.cpu.values() if own == kind)

    def largest(self, kind: str) -> float:
        """GB of the largest process of a kind."""
        return max((gb for own, gb in self.peak.values() if own == kind), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, action="append", default=[], help="of a cluster; repeatable")
    parser.add_argument("--payments", type=int, default=10_000, help="simulated payments")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--folder", help="where to write; a temporary folder is made in it")
    parser.add_argument("--json", help="a file for the figures")
    options = parser.parse_args()
    rows: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="tsa-ray-", dir=options.folder) as name:
        folder = Path(name)
        _prepared(folder, options.payments)
        for workers in (0, *options.workers):
            with _cluster(workers) as address:
                for stage in options.stages:
                    rows.append(_measured(stage, folder, workers, address))
                    _show(rows[-1])
                    if options.json:
                        machine = {"processors": os.cpu_count(), "load": os.getloadavg()[0]}
                        figures = {
                            "machine": machine,
                            "payments": options.payments,
                            "rows": [asdict(row) for row in rows],
                        }
                        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")


def _prepared(folder: Path, payments: int) -> None:
    _tsa("simulate", "--payments", payments, "--fraud-rate", 0.05, "--seed", 2, "--out", folder / "log.parquet")
    _tsa("prepare", "--market", MARKET, folder / "log.parquet", "--out", folder / "store")
    _tsa("train", folder / "store", "--out", folder / "run", *_sets())
    _tsa("evaluate", folder / "run", "--replicates", 2)


def _sets() -> list[str]:
    return [word for setting in NETWORK for word in ("--set", setting)]


def _prepare(folder: Path, out: Path) -> list[object]:
    return ["prepare", "--market", MARKET, folder / "log.parquet", "--out", out]


def _score(folder: Path, out: Path) -> list[object]:
    return ["score", folder / "run" / "bundle", folder / "store", "--out", out, "--from", "2025-04-20"]


def _compare(folder: Path, out: Path) -> list[object]:
    subprocess.run(["cp", "-r", folder / "run", out], check=True)
    return ["compare", out, "--replicates", 2]


def _tune(folder: Path, out: Path) -> list[object]:
    return ["tune", folder / "store", "--out", out, "--trials", 8, "--round", 8, *_sets(), "--space", _space(folder)]


def _space(folder: Path) -> Path:
    path = folder / "space.toml"
    path.write_text("[training]\nlearning_rate = { low = 1e-3, high = 0.05, log = true }\n")
    return path


def _train(folder: Path, out: Path) -> list[object]:
    return ["train", folder / "store", "--out", out, *_sets()]


STAGES: dict[str, Callable[[Path, Path], list[object]]] = {
    "prepare": _prepare,
    "score": _score,
    "compare": _compare,
    "tune": _tune,
    "train": _train,
}
RESULTS = {
    "prepare": "manifest.json",
    "score": "*.parquet",
    "compare": "comparison.json",
    "tune": "best.toml",
    "train": "bundle/model.safetensors",
}
"""Which files must be equal."""


def _measured(stage: str, folder: Path, workers: int, address: str | None) -> Measured:
    out = folder / f"{stage}-{workers}"
    words = STAGES[stage](folder, out)
    if address is not None:
        words += ["--executor", "ray", "--ray-address", address]
        words += ["--workers", workers] if stage == "train" else []
    watched = Watched()
    begun = time.perf_counter()
    _tsa(*words, watched=watched)
    seconds = time.perf_counter() - begun
    if workers:
        _check_equal(stage, folder, out, workers)
    kind = "worker" if workers else "command"
    return Measured(
        stage=stage,
        workers=workers,
        seconds=seconds,
        command_cpu=watched.total("command"),
        worker_cpu=watched.total("worker"),
        ray_cpu=watched.total("ray"),
        worker_peak_gb=watched.largest(kind),
        moved_mb=_moved(out) / 1e6,
    )


def _check_equal(stage: str, folder: Path, out: Path, workers: int) -> None:
    """Stop if the results are not those without a cluster; of `train` those of torchrun."""
    local = folder / f"{stage}-0"
    if stage == "train":
        local = folder / f"torchrun-{workers}"
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", workers, "-m", "tsa"]
        _python(*torchrun, *_train(folder, local))
    for path in local.glob(RESULTS[stage]):
        own, other = path.read_bytes(), (out / path.relative_to(local)).read_bytes()
        if stage == "compare":
            own, other = (json.dumps({**json.loads(text), "seconds": 0}).encode() for text in (own, other))
        if own != other:
            raise SystemExit(f"{stage}: {path.name} must be that of one process to the byte")


def _moved(out: Path) -> int:
    """Bytes, from the log of a command."""
    text = "".join(
        path.read_text() for path in (*out.glob("*.log"), out.with_name(f"{out.name}.log")) if path.is_file()
    )
    return sum(int(sent) + int(back) for sent, back in re.findall(r"(\d+) bytes to each node, (\d+) bytes back", text))


@contextmanager
def _cluster(workers: int) -> Iterator[str | None]:
    """The address of a cluster that is started here; None for 0 workers."""
    if not workers:
        yield None
        return
    import ray

    for left in reversed(range(START_TRIES)):
        try:
            context: Any = ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
            break
        except Exception:
            ray.shutdown()
            if not left:
                raise
    try:
        yield str(context.address_info["gcs_address"])
    finally:
        ray.shutdown()


def _tsa(*words: object, watched: Watched | None = None) -> None:
    _python("-m", "tsa", *words, "--quiet", watched=watched)


def _python(*words: object, watched: Watched | None = None) -> None:
    command = [sys.executable, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    with _watching(watched or Watched(), process.pid):
        if process.wait():
            raise SystemExit(f"{' '.join(command[2:5])} failed")


@contextmanager
def _watching(watched: Watched, command: int) -> Iterator[None]:
    """Note what all processes below this one use, until the block ends. command: the id of the process that is measured."""
    done = threading.Event()
    before = {pid: seconds for pid, (_, seconds) in _usage(command).cpu.items()}

    def note() -> None:
        while True:
            seen = _usage(command)
            for pid, (kind, seconds) in seen.cpu.items():
                # a worker has no name while it starts and when it has ended
                own = "worker" if watched.cpu.get(pid, (kind,))[0] == "worker" else kind
                watched.cpu[pid] = own, seconds - before.get(pid, 0.0)
            for pid, (kind, gb) in seen.peak.items():
                own = watched.cpu.get(pid, (kind,))[0]
                watched.peak[pid] = own, max(gb, watched.peak.get(pid, (own, 0.0))[1])
            if done.wait(0.2):
                return

    thread = threading.Thread(target=note, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _usage(command: int) -> Watched:
    """What the processes below this one have used so far."""
    used = Watched()
    tree = _tree()
    for pid, kind in _kinds(tree, os.getpid(), command, "ray"):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # it has ended since
            continue
        used.cpu[pid] = kind, (int(stat[11]) + int(stat[12])) / TICK
        if peak := re.search(r"VmHWM:\s+(\d+) kB", status):
            used.peak[pid] = kind, int(peak[1]) * 1024 / 1e9
    return used


def _tree() -> dict[int, list[int]]:
    """The children of each process."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    return children


def _kinds(tree: dict[int, list[int]], parent: int, command: int, kind: str) -> Sequence[tuple[int, str]]:
    """The processes below one, with what they are: the command and below, workers and below, or of Ray."""
    kinds: list[tuple[int, str]] = []
    for pid in tree.get(parent, []):
        own = "command" if pid == command else "worker" if kind == "ray" and _is_worker(pid) else kind
        kinds += [(pid, own), *_kinds(tree, pid, command, own)]
    return kinds


def _is_worker(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


def _show(row: Measured) -> None:
    who = f"{row.workers} workers" if row.workers else "one process"
    print(
        f"{row.stage:<8} {who:<12} {row.seconds:>7.1f} s  CPU s: command {row.command_cpu:>6.1f}, workers {row.worker_cpu:>6.1f}, "
        f"Ray {row.ray_cpu:>5.1f}  {row.worker_peak_gb:>5.2f} GB each at most  {row.moved_mb:>7.2f} MB moved",
        flush=True,
    )


if __name__ == "__main__":
    main()
