"""`tsa doctor`: what this installation can do, and how fast: versions, extras, processor, threads, memory, what is slow."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tsa.cli.app import Quiet, app
from tsa.cli.console import command_session, console, print_line
from tsa.cli.terminal.results import result
from tsa.errors import ConfigError
from tsa.optional_libraries import is_installed

LIBRARIES = ("torch", "lightgbm", "polars", "pyarrow", "numpy", "scipy", "scikit-learn", "pydantic", "typer", "rich")
EXTRAS = {
    "tune": ("hyper-parameter search (tsa tune)", ("optuna",)),
    "track": ("curves of a training, TensorBoard", ("matplotlib", "tensorboard")),
    "mlflow": ("tracking with MLflow", ("mlflow",)),
    "onnx": ("scores with ONNX Runtime, faster on CPUs (tsa export)", ("onnx", "onnxruntime", "onnxscript")),
    "explain": ("reasons for scores (tsa explain)", ("captum",)),
    "sign": ("signed bundles (tsa bundle sign)", ("cryptography",)),
    "serve": ("the HTTP endpoint (tsa serve)", ("fastapi", "httptools", "prometheus_client", "uvicorn")),
    "redis": ("histories in Redis", ("redis",)),
    "ray": ("work on the machines of a Ray cluster (tsa score --executor ray)", ("ray",)),
    "kafka": ("the log of decisions in Kafka", ("confluent_kafka",)),
    "s3": ("registries in S3", ("boto3",)),
    "sagemaker": ("jobs and endpoints of SageMaker", ("boto3",)),
}
"""What each extra of the package is for, and the modules that it installs."""
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
SIZE, TIMED_SECONDS = 512, 0.2
GB = 2**30
MIN_MEMORY, MIN_DISK = 4 * GB, 5 * GB
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is slow or missing, why, and what to do about it."""

    what: str
    why: str
    advice: str


@dataclass(frozen=True, kw_only=True)
class Installation:
    """What was learned about an installation. Sizes are bytes, speeds are billions of operations a second."""

    python: str
    system: str
    versions: dict[str, str | None]
    extras: dict[str, list[str]]
    """The modules that each extra lacks."""
    processor: str
    flags: list[str]
    cores: float
    """Those that this process may use."""
    cores_of_machine: int
    threads: dict[str, int]
    gpus: list[str]
    memory: int | None
    """What this process may use."""
    free_disk: int
    """In the folder of temporary files."""
    speed: dict[str, float]
    findings: list[Finding] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


@app.command()
def doctor(quiet: Quiet = False) -> None:
    """Show what this installation can do: versions, extras, processor, threads, and what is slow and why."""
    with command_session(quiet, log=None) as bars, bars("looking at the installation", 1):
        this = examine()
    result(this.to_dict())
    versions = ", ".join(f"{name} {number or 'missing'}" for name, number in this.versions.items())
    print_line(f"Python {this.python} on {this.system}")
    print_line(versions)
    print_line(f"{this.processor}: {', '.join(this.flags) or 'no known extensions'}")
    threads = ", ".join(f"{name} {count}" for name, count in this.threads.items())
    print_line(
        f"{this.cores:g} of {this.cores_of_machine} cores; threads: {threads}; GPUs: {', '.join(this.gpus) or 'none'}"
    )
    memory = "unknown" if this.memory is None else f"{this.memory / GB:.1f} GB"
    print_line(f"memory: {memory}; free for temporary files: {this.free_disk / GB:.1f} GB")
    speeds = ", ".join(f"{speed:,.0f} with {name}" for name, speed in this.speed.items())
    print_line(f"matrix products, billions of operations a second: {speeds}")
    table = Table("extra", "what it is for", "installed", box=SIMPLE_HEAD, title="extras")
    for name, (purpose, _) in EXTRAS.items():
        missing = this.extras[name]
        table.add_row(name, purpose, "yes" if not missing else f"pip install 'tsa-fraud[{name}]'")
    console.print(table)
    table = Table("what is slow or missing", "why", "what to do", box=SIMPLE_HEAD)
    for finding in this.findings:
        table.add_row(*asdict(finding).values())
    console.print(table)


def examine() -> Installation:
    """Look at the installation. Takes a second or two, most of it for imports.

    Raises:
        ConfigError: If PyTorch or Polars is missing or cannot be loaded.
    """
    try:
        import polars
        import torch
    except (ImportError, OSError) as error:
        how = "pip install --force-reinstall torch polars (without a GPU: torch from its index for CPUs)"
        raise ConfigError(
            f"PyTorch and Polars must load on Python {platform.python_version()} ({error}): {how}"
        ) from error

    cores = usable_cores()
    threads = {"torch": torch.get_num_threads(), "polars": polars.thread_pool_size()}
    made: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: _version(name) for name in ("tsa-fraud", *LIBRARIES)},
        "extras": {name: [m for m in modules if not is_installed(m)] for name, (_, modules) in EXTRAS.items()},
        "processor": _processor(),
        "flags": _flags(),
        "cores": cores,
        "cores_of_machine": os.cpu_count() or 1,
        "threads": threads,
        "gpus": [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())],
        "memory": _memory(),
        "free_disk": shutil.disk_usage(tempfile.gettempdir()).free,
        "speed": _speed(threads["torch"]),
    }
    return Installation(**made, findings=list(findings_of(made)))


def findings_of(made: dict[str, Any]) -> Iterator[Finding]:
    """What is slow or missing, from the fields of an `Installation`."""
    cores, threads, speed = made["cores"], made["threads"], made["speed"]
    if missing := [name for name in LIBRARIES if made["versions"].get(name) is None]:
        yield Finding(what="does not work", why=f"{', '.join(missing)} missing", advice="pip install tsa-fraud")
    if (most := max(threads.values())) > max(1.0, cores):
        why = f"{most} threads share {cores:g} cores"
        advice = f"set OMP_NUM_THREADS={max(1, int(cores))} and POLARS_MAX_THREADS={max(1, int(cores))}"
        yield Finding(what="all computation", why=why, advice=advice)
    if threads["torch"] > 1 and speed["threads"] < 1.2 * speed["one thread"]:
        why = f"{threads['torch']} threads are no faster than one, so other programs use the cores"
        yield Finding(what="training and scoring", why=why, advice="stop other programs, or set OMP_NUM_THREADS=1")
    if "avx2" not in made["flags"] and platform.machine() in ("x86_64", "AMD64"):
        yield Finding(what="training and scoring", why="the processor has no AVX2", advice="use a newer processor")
    if "avx512_bf16" not in made["flags"] and "amx_bf16" not in made["flags"]:
        why = "this processor has no bfloat16, so --precision bf16 is slower here, not faster"
        yield Finding(
            what="tsa score --precision bf16", why=why, advice="use float32, or int8 with --engine onnxruntime"
        )
    if not made["gpus"]:
        why = "there is no GPU that PyTorch can use"
        yield Finding(what="training on millions of payments", why=why, advice="train on a part, or with --minutes")
    if made["extras"]["onnx"]:
        why = "ONNX Runtime, which is faster on CPUs, is not installed"
        yield Finding(
            what="single payments at the endpoint", why=why, advice="pip install 'tsa-fraud[onnx]', tsa export"
        )
    if made["memory"] is not None and made["memory"] < MIN_MEMORY:
        why = f"this process may use {made['memory'] / GB:.1f} GB of memory"
        yield Finding(what="logs of millions of payments", why=why, advice="raise the limit, or use a shorter log")
    if made["free_disk"] < MIN_DISK:
        why = f"{tempfile.gettempdir()} has {made['free_disk'] / GB:.1f} GB free"
        yield Finding(what="large logs", why=why, advice="free space, or set TMPDIR to another disk")


def usable_cores() -> float:
    """The cores that this process may use: of its affinity and of the limit of its container."""
    count = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return count
    return count if quota == "max" else min(count, round(int(quota) / int(period), 2))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    for line in _cpu_lines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _flags() -> list[str]:
    for line in _cpu_lines():
        if line.startswith("flags"):
            known = line.partition(":")[2].split()
            return [flag for flag in FLAGS if flag in known]
    return []


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _memory() -> int | None:
    limits = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):
        limits.append(int((CGROUP / "memory.max").read_text()))
    return min(limits, default=None)


def _speed(threads: int) -> dict[str, float]:
    """Billions of operations a second of matrix products in float32, with one thread and with all."""
    import torch

    measured = {}
    try:
        for name, count in (("one thread", 1), ("threads", threads)):
            torch.set_num_threads(count)
            measured[name] = round(_products_per_second() * 2 * SIZE**3 / 1e9, 1)
    finally:
        torch.set_num_threads(threads)
    return measured


def _products_per_second() -> float:
    import torch

    matrix, count = torch.ones(SIZE, SIZE), 0
    matrix @ matrix
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < TIMED_SECONDS:
        matrix @ matrix
        count += 1
    return count / spent
