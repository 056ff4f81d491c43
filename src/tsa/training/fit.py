"""One training run, from a store to a folder: settings, metrics of each epoch, the bundle. Evaluation comes after."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsa.data.files import sha256_of, write_json
from tsa.data.manifest import MANIFEST
from tsa.data.sampling import genuine_rate
from tsa.data.store import EventStore
from tsa.errors import ConfigError, TrainingError
from tsa.model import ModelConfig, TSANetwork, preset
from tsa.progress import Progress, silent
from tsa.scoring.bundle import Bundle
from tsa.training.config import TrainingConfig
from tsa.training.loop import Rows, train_network
from tsa.training.sampler import Sampler

logger = logging.getLogger(__name__)

CONTENT = {"bundle", "store", "run.json", "metrics.jsonl", "scores.parquet", "report.json", "report.html"}
"""What stands in a run folder, beside logs and hidden files, before or without its run.json."""


def train(
    store: EventStore | str | Path,
    out: str | Path,
    *,
    preset: str = "default",
    model: Mapping[str, Any] | None = None,
    training: TrainingConfig | None = None,
    progress: Progress = silent,
) -> Bundle:
    """Train a network on a store and write the run to the folder `out`: `bundle/`, `run.json`, `metrics.jsonl`.

    preset, model: a preset of the network and settings that differ from it. Raises ConfigError for a setting out of
    bounds or an `out` that holds something else, TrainingError where the store cannot be learned from or the loss is not
    finite.
    """
    if not isinstance(store, EventStore):
        store = EventStore.open(Path(store))
    config = training or TrainingConfig()
    out = Path(out)
    refuse_foreign(out)
    torch.manual_seed(config.seed)
    network_config = network_settings(store, preset, model or {})
    network = TSANetwork(network_config).to(_device(config.device))
    rows = _rows(store, config)
    account = {**_account(store, rows, config), "preset": preset, "model": network_config.to_dict()}
    run = {**account, **_where(store, out), "started": _now(), "environment": environment()}
    write_json(out / "run.json", run)
    history = _train_logged(network, store, rows, config, out / "metrics.jsonl", progress)
    account |= {"best_epoch": history.best_epoch, "epochs": history.epochs}
    bundle = Bundle(
        market=store.market, encoder=store.encoder, config=network_config, network=network.cpu(), training=account
    )
    bundle.save(out / "bundle")
    write_json(out / "run.json", {**run, **account, "finished": _now()})
    return bundle


def refuse_foreign(out: Path) -> None:
    """Raise ConfigError where `out` cannot become a run folder: a file, or a folder that holds other things."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} must be a folder or not exist, however: it is a file")
    if not out.exists() or (out / "run.json").is_file():
        return
    names = (path.name for path in out.iterdir() if path.suffix != ".log" and not path.name.startswith("."))
    if foreign := sorted(set(names) - CONTENT):
        raise ConfigError(f"{out} must be empty or the folder of a run, however: it holds {', '.join(foreign[:5])}")


def network_settings(store: EventStore, name: str, settings: Mapping[str, Any]) -> ModelConfig:
    """The preset `name`, at the sizes of the store and with `settings` of one's own. ConfigError for what does not fit."""
    encoder, market = store.encoder, store.market
    n_numerical = len(encoder.numerical_names)
    sizes = {
        "histories": [history.name for history in market.history],
        "n_categorical": len(encoder.categorical_names),
        "n_numerical": n_numerical,
        "n_engineered": len(encoder.engineered_names),
        # the table holds the encoder's rows but padding's, which it adds itself, and a row per numerical feature
        "n_embedding": encoder.n_rows - 1 + n_numerical,
    }
    if given := sorted({*sizes, "name"} & set(settings)):
        raise ConfigError(f"model.{given[0]} comes with the store, it cannot be set")
    try:
        config = preset(name, **sizes, **settings)
    except TypeError as error:
        raise ConfigError(f"model settings must be of their types, however: {dict(settings)} ({error})") from None
    if config.event_embedding != "sum":
        return config
    # calendar features come last and are left out: that another payment was made at the same hour says little
    ours = {"known_outcomes": market.label.as_feature, "n_matched": len(market.features.categorical)}
    return config.replace(**{key: value for key, value in ours.items() if key not in settings})


def environment() -> dict[str, Any]:
    """What a result depends on beside data, settings and seed."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", "numpy", "polars")},
    }


def _rows(store: EventStore, config: TrainingConfig) -> dict[str, Rows]:
    """Labelled rows to train on and to validate on. TrainingError where that cannot be."""
    train = np.concatenate([store.labelled(name) for name in config.train_on])
    # what is learned from says nothing as a check
    validation = train[:0] if "validation" in config.train_on else store.labelled("validation")
    rows = {"train": train, "validation": validation}
    Sampler(store, train, config)  # refuses what cannot be learned from, before anything is written
    _refuse_one_sided(store, rows["validation"], config)
    return rows


def _where(store: EventStore, out: Path) -> dict[str, str]:
    """Where the store stands as seen from the run, so that both may move together, and what its manifest hashes to."""
    place = os.path.relpath(store.path.resolve(), out.resolve())
    return {"store": place, "store_manifest": sha256_of(store.path / MANIFEST)}


def _train_logged(
    network: TSANetwork, store: EventStore, rows: dict[str, Rows], config: TrainingConfig, log: Path, progress: Progress
) -> Any:
    """Train, appending one JSON line an epoch to `log`, so that a run can be followed and outlives its process."""
    with log.open("w") as file:

        def on_epoch(record: dict[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()
            shown = {name: round(value, 5) for name, value in record.items()}
            logger.info("epoch %s", shown)

        return train_network(
            network, store, rows["train"], rows["validation"], config, progress=progress, on_epoch=on_epoch
        )


def _account(store: EventStore, rows: dict[str, Rows], config: TrainingConfig) -> dict[str, Any]:
    """What the bundle tells of its making. `sampling_rate_genuine` is what scores are to be corrected with."""
    label = store.label[rows["train"]]
    counts = {name: {"n": len(r), "frauds": int((store.label[r] == 1).sum())} for name, r in rows.items()}
    return {
        "training": config.model_dump(),
        "rows": counts,
        "sampling_rate_genuine": genuine_rate(label, config.genuine_per_fraud),
        "market_fingerprint": store.market.fingerprint,
    }


def _refuse_one_sided(store: EventStore, rows: Rows, config: TrainingConfig) -> None:
    label = store.label[rows]
    if config.early_stopping and len(np.unique(label)) < 2:
        n_fraud = int((label == 1).sum())
        raise TrainingError(
            "early stopping needs a validation range with both outcomes, "
            f"however: frauds={n_fraud}, genuine={len(label) - n_fraud}"
        )


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device: no CUDA device is available, however: device='cuda'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
