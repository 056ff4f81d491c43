"""A run that was stopped can be evaluated as it is, and resumed as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from support.easy_log import TINY, settings
from tsa.bundle.bundle import Bundle
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.evaluation.trained_run import TrainedRun
from tsa.training import train
from tsa.training.evaluate_and_bundle import measure_trained, trained_so_far
from tsa.training.run_folder import finished

FOUR = {"epochs": 4, "early_stopping": False}


class StoppedError(Exception):
    """Ends a run in the middle."""


def stop_after(epochs: int) -> Any:
    def on_epoch(record: dict[str, Any]) -> None:
        if record["epoch"] > epochs:
            raise StoppedError

    return on_epoch


def test_evaluated_as_it_is_then_resumed(easy_store: EventStore, tmp_path: Path) -> None:
    out, unstopped = tmp_path / "run", tmp_path / "unstopped"
    with pytest.raises(StoppedError):
        train(easy_store, out, model=TINY, training=settings(**FOUR), on_epoch=stop_after(2))
    with pytest.raises(ConfigError, match=r"tsa evaluate .*--unfinished"):
        TrainedRun.open(out)
    trained = trained_so_far(out)
    assert trained.metadata["best_epoch"] == 2
    assert trained.metadata["outlook"].startswith("This run is not finished: its model is that of epoch 2")
    report = measure_trained(trained, comparison=False)
    assert report["training"]["outlook"] == trained.metadata["outlook"]
    saved = load_file(out / "checkpoints" / "best-000002.safetensors")
    bundle = Bundle.open(out / "bundle")
    for name, value in bundle.network.state_dict().items():
        assert np.array_equal(value.numpy(), saved[name].numpy()), name
    assert not finished(out)
    assert "outlook" not in json.loads((out / "run.json").read_text())
    train(easy_store, out, model=TINY, training=settings(**FOUR), resume=True)
    train(easy_store, unstopped, model=TINY, training=settings(**FOUR))
    assert finished(out)
    weights = [(folder / "bundle" / "weights.safetensors").read_bytes() for folder in (out, unstopped)]
    assert weights[0] == weights[1]
    with pytest.raises(ConfigError, match="finished run; leave --unfinished out"):
        trained_so_far(out)


def test_stopped_in_the_first_epoch(easy_store: EventStore, tmp_path: Path) -> None:
    """There is no best epoch yet: the averaged weights of the last checkpoint are the model."""
    out = tmp_path / "run"
    often = settings(**FOUR, checkpoint_every_minutes=1e-6, batch_size=16)
    with pytest.raises(StoppedError):
        train(easy_store, out, model=TINY, training=often, on_epoch=stop_after(0))
    trained = trained_so_far(out)
    assert "is that of step " in trained.metadata["outlook"]
    report = measure_trained(trained, comparison=False)
    assert report["evaluation"]["metrics"]["average_precision"]["value"] is not None


def test_without_a_run_or_a_checkpoint(easy_store: EventStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run\.json"):
        trained_so_far(tmp_path)
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(easy_store, out, model=TINY, training=settings(**FOUR), on_epoch=stop_after(0))
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        trained_so_far(out)
