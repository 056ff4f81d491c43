"""What a run tells of itself: settings, rows, surroundings, and what makes it this run and no other."""

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
from tsa.data.store.store import EventStore, split_summary
from tsa.errors import ConfigError
from tsa.files.outputs import check_folder
from tsa.files.platform_files import is_marker
from tsa.files.writing import sha256_of
from tsa.model import ModelConfig
from tsa.training.config import WITHOUT_EFFECT, TrainingConfig
from tsa.training.data.sampling import genuine_sampling_rate
from tsa.training.tracking import CURVES, METRICS, TENSORBOARD

Rows = NDArray[np.int64]


def run_metadata(
    store: EventStore, rows: Mapping[str, Rows], config: TrainingConfig, preset: str, model: ModelConfig
) -> dict[str, Any]:
    """What the bundle tells of its making. `sampling_rate_genuine` is what scores are to be corrected with."""
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
    """What became of each row that was read, and what stands in the ranges; of files their names alone."""
    report = store.data_report
    return {**report, "files": [Path(file).name for file in report["files"]], "splits": split_summary(store)}


def environment_metadata(store: EventStore, out: Path, processes: int, precision: str) -> dict[str, Any]:
    """Where the store stands as seen from the run, so that both may move together, and what the run was made on."""
    return {
        "store": os.path.relpath(store.path.resolve(), out.resolve()),
        "store_manifest": sha256_of(store.path / MANIFEST),
        "market": store.market.canonical_dict,
        "store_content": content_of(store),
        "environment": {**environment(), "processes": processes, "precision": precision},
    }


def environment() -> dict[str, Any]:
    """What a result depends on beside data, settings and seed."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", "numpy", "polars")},
    }


def content_of(store: EventStore) -> dict[str, Any]:
    """What can be learned from a store: all that its manifest says but where the log lay, how its rows were counted, and how
    its market file words reasons."""
    manifest: dict[str, Any] = json.loads((store.path / MANIFEST).read_text(encoding="utf-8"))
    files = {name: entry for name, entry in manifest["files"].items() if name not in (REPORT, MARKET)}
    return {**manifest, "files": files}


def run_identity(store: EventStore, config: TrainingConfig, model: ModelConfig) -> dict[str, Any]:
    """What must be the same for a run to go on from a checkpoint, in values that JSON holds."""
    return {
        "market": store.market.canonical_dict,
        "store": content_of(store),
        "model": model.to_dict(),
        "training": settings_that_change_weights(config.model_dump(mode="json")),
    }


def identity_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a run, from its account."""
    return {
        "market": run["market"],
        "store": run["store_content"],
        "model": run["model"],
        "training": settings_that_change_weights(run["training"]),
    }


def settings_that_change_weights(training: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that make no difference to the weights."""
    return {name: value for name, value in training.items() if name not in WITHOUT_EFFECT}


def utc_now() -> str:
    """The time, in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


RUN, BUNDLE, CHECKPOINTS = "run.json", "bundle", "checkpoints"
CONTENT = {
    *(BUNDLE, "store", RUN, METRICS, CHECKPOINTS, CURVES, TENSORBOARD),
    *("validation_scores.parquet", "calibration_scores.parquet"),
    *("scores.parquet", "report.json", "report.html"),
}
"""What stands in a run folder, beside logs and hidden files, before or without its run.json."""


def ensure_run_folder(out: Path) -> None:
    """Raise ConfigError where `out` cannot become a run folder: a file, or a folder that holds other things."""
    check_folder(out, "a run", RUN, lambda name: name in CONTENT or is_side_file(name))


def is_side_file(name: str) -> bool:
    """Whether a file is a log or hidden: both may lie in the folder of any run or search."""
    return name.endswith(".log") or name.startswith(".")


def ensure_no_unfinished_run(out: Path) -> None:
    """Raise ConfigError where `out` holds checkpoints of a run that did not finish: days of work, perhaps."""
    if any(not is_marker(path.name) for path in (out / CHECKPOINTS).glob("last-*")) and not finished(out):
        raise ConfigError(
            f"{out} holds a run that has not finished: --resume goes on with it; to begin anew, remove {out / CHECKPOINTS}"
        )


def finished(out: Path) -> bool:
    """Whether a run in `out` was trained to its end."""
    return "finished" in read_run_metadata(out)


def read_run_metadata(out: Path) -> dict[str, Any]:
    """What the run in `out` tells of itself; nothing where there is none."""
    try:
        account: dict[str, Any] = json.loads((out / RUN).read_text(encoding="utf-8"))
        return account
    except (OSError, ValueError):
        return {}
