"""The metadata of a run: settings, rows, environment, and its identity."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tsa.data.store.manifest import MANIFEST, MARKET, REPORT
from tsa.data.store.store import EventStore
from tsa.data.store.summary import split_summary
from tsa.errors import ConfigError
from tsa.files.outputs import check_folder
from tsa.files.platform_files import is_marker
from tsa.files.writing import sha256_of
from tsa.model import ModelConfig
from tsa.training.config import WITHOUT_EFFECT, TrainingConfig
from tsa.training.data.sampler import genuine_sampling_rate
from tsa.training.tracking import CURVES, METRICS, TENSORBOARD

Rows = NDArray[np.int64]


def run_metadata(
    store: EventStore, rows: Mapping[str, Rows], config: TrainingConfig, preset: str, model: ModelConfig
) -> dict[str, Any]:
    """The metadata of training in a bundle. `sampling_rate_genuine` is for the correction of scores."""
    label = store.label[rows["train"]]
    counts = {name: {"n": len(r), "frauds": int((store.label[r] == 1).sum())} for name, r in rows.items()}
    return {
        "training": config.model_dump(),
        "rows": counts,
        "sampling_rate_genuine": genuine_sampling_rate(label, config.genuine_per_fraud),
        "market_fingerprint": store.market.fingerprint,
        "preset": preset,
        "model": model.to_dict(),
    }


def data_summary(store: EventStore) -> dict[str, Any]:
    """Counts of the rows read, and the ranges. Files are given by name, without folders."""
    report = store.data_report
    return {**report, "files": [Path(file).name for file in report["files"]], "splits": split_summary(store)}


def environment_metadata(store: EventStore, out: Path, processes: int, precision: str) -> dict[str, Any]:
    """Where the store is, and the environment of the run."""
    return {
        "store": store_reference(store, out),
        "store_manifest": sha256_of(store.path / MANIFEST),
        "market": store.market.canonical_dict,
        "store_content": content_of(store),
        "environment": {**environment(), "processes": processes, "precision": precision},
    }


def store_reference(store: EventStore, out: Path) -> str:
    """Where the store of a run is: its URL, or its path relative to the run, so that both may be moved together."""
    return store.url or os.path.relpath(store.path.resolve(), out.resolve())


def environment() -> dict[str, Any]:
    """What a result depends on besides data, settings and seed."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", "numpy", "polars")},
    }


def content_of(store: EventStore) -> dict[str, Any]:
    """The part of a store's manifest that training depends on: not the paths of the log, counts of rows or wordings."""
    manifest: dict[str, Any] = json.loads((store.path / MANIFEST).read_text(encoding="utf-8"))
    files = {name: entry for name, entry in manifest["files"].items() if name not in (REPORT, MARKET)}
    return {**manifest, "files": files}


def run_identity(store: EventStore, config: TrainingConfig, model: ModelConfig) -> dict[str, Any]:
    """What must not change when a run is resumed from a checkpoint, as JSON values."""
    return {
        "market": store.market.canonical_dict,
        "store": content_of(store),
        "model": model.to_dict(),
        "training": settings_that_change_weights(config.model_dump(mode="json")),
    }


def identity_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a run from its metadata."""
    return {
        "market": run["market"],
        "store": run["store_content"],
        "model": run["model"],
        "training": settings_that_change_weights(run["training"]),
    }


def settings_that_change_weights(training: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that affect the weights."""
    return {name: value for name, value in training.items() if name not in WITHOUT_EFFECT}


def utc_now() -> str:
    """The time, in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


RUN, BUNDLE, CHECKPOINTS = "run.json", "bundle", "checkpoints"
CROSS_FIT = "cross_fit"
"""Folder of the models that calibrate a refitted run, each without one range."""
CONTENT = {
    *(BUNDLE, "store", RUN, METRICS, CHECKPOINTS, CURVES, TENSORBOARD),
    *("validation_scores.parquet", "calibration_scores.parquet"),
    *("scores.parquet", "report.json", "report.html", "seeds", CROSS_FIT),
}
"""Files and folders of a run, besides logs and hidden files."""


def ensure_run_folder(out: Path) -> None:
    """Raise ConfigError if `out` cannot become a run folder: a file, or a folder with other content."""
    check_folder(out, "a run", RUN, lambda name: name in CONTENT or is_side_file(name))


def is_side_file(name: str) -> bool:
    """Whether a file is a log or hidden; the folder of a run or search may contain both."""
    return name.endswith(".log") or name.startswith(".")


def ensure_no_run(out: Path, *, overwrite: bool) -> None:
    """Raise ConfigError if `out` has a run that a new one would replace.

    A finished run may be the one that is served; checkpoints of an unfinished one may be days of work.

    Args:
        out: The run folder, which need not exist.
        overwrite: Whether a finished run may be replaced.
    """
    if finished(out):
        if not overwrite:
            raise ConfigError(f"{out} holds a finished run; choose another folder, or replace it with --overwrite")
    elif any(not is_marker(path.name) for path in (out / CHECKPOINTS).glob("last-*")):
        raise ConfigError(
            f"{out} holds an unfinished run; continue it with --resume, or remove {out / CHECKPOINTS} to start over"
        )


def finished(out: Path) -> bool:
    """Whether `out` holds a finished run."""
    return "finished" in read_run_metadata(out)


def read_run_metadata(out: Path) -> dict[str, Any]:
    """The metadata of the run in `out`; empty if there is none."""
    try:
        metadata: dict[str, Any] = json.loads((out / RUN).read_text(encoding="utf-8"))
        return metadata
    except (OSError, ValueError):
        return {}
