"""Where the records of epochs go: lines always; TensorBoard, MLflow and a picture where they are wanted and installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from support.easy_log import TINY, settings
from tsa import optional_libraries
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.training import train
from tsa.training.tracking import draw_curves, metric_values

FIGURES = {
    *("loss", "gradient_norm", "learning_rate", "payments_per_second", "padding_share", "waiting_share"),
    *("checkpoint_seconds", "memory_bytes", "validation_average_precision", "validation_roc_auc", "validation_loss"),
}


def epochs_of(run: Path) -> list[dict[str, Any]]:
    """The records of all epochs, with the figures of the machine that a bundle does not hold."""
    epochs: list[dict[str, Any]] = json.loads((run / "run.json").read_text())["epochs"]
    return epochs


def test_the_figures_of_an_epoch(easy_store: EventStore, tmp_path: Path) -> None:
    train(easy_store, tmp_path / "run", model=TINY, training=settings(epochs=2))
    for record in epochs_of(tmp_path / "run"):
        assert record.keys() > FIGURES
        assert 0 <= record["waiting_share"] < 1
        assert 0 <= record["padding_share"] < 1
        assert record["memory_bytes"] > 2**26
        assert record["seconds"] > 0


def test_records_are_handed_out(easy_store: EventStore, tmp_path: Path) -> None:
    """As they come; an error there ends the run, which can go on."""
    seen: list[dict[str, Any]] = []

    def on_epoch(record: dict[str, Any]) -> None:
        seen.append(record)
        if len(seen) == 2:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        train(easy_store, tmp_path / "run", model=TINY, training=settings(), on_epoch=on_epoch)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == seen


def test_tensorboard(easy_store: EventStore, tmp_path: Path) -> None:
    """A run that goes on writes what comes after its checkpoint, and epochs that are made again stand there once."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = settings(tensorboard=True, epochs=3)

    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise KeyError("killed before the checkpoint of its second epoch")

    with pytest.raises(KeyError):
        train(easy_store, tmp_path / "run", model=TINY, training=config, on_epoch=stop)
    train(easy_store, tmp_path / "run", model=TINY, training=config, resume=True)
    records = epochs_of(tmp_path / "run")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == records[0].keys() - {"epoch"}
    for name in ("loss", "validation_average_precision"):
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == pytest.approx({record["epoch"]: record[name] for record in records})
        assert len(events.Scalars(name)) == 3


def test_mlflow(easy_store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings and figures under one run, also where it was interrupted."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise KeyError("killed")

    with pytest.raises(KeyError):
        train(easy_store, tmp_path / "run", model=TINY, training=settings(), on_epoch=stop)
    train(easy_store, tmp_path / "run", model=TINY, training=settings(checkpoint_every_minutes=7.0), resume=True)
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["training.batch_size"] == "64"
    assert run.data.params["model.width"] == "8"
    last = epochs_of(tmp_path / "run")[-1]
    assert run.data.metrics == pytest.approx(metric_values(last))
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert sorted({point.step for point in history}) == [1, 2, 3]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["mlflow_run"] == run.info.run_id


@pytest.mark.parametrize(
    ("changes", "variable", "text"),
    [
        (
            {"tensorboard": True},
            None,
            r"training.tensorboard needs tensorboard, .*: pip install 'tsa-fraud\[track\]'",
        ),
        ({}, "sqlite:///x.db", r"MLFLOW_TRACKING_URI needs mlflow, .*: pip install 'tsa-fraud\[mlflow\]'"),
    ],
)
def test_what_is_not_installed_is_refused_before_training(
    easy_store: EventStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    variable: str | None,
    text: str,
) -> None:
    monkeypatch.setattr(optional_libraries, "is_installed", lambda name: False)
    if variable:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    with pytest.raises(ConfigError, match=text):
        train(easy_store, tmp_path / "run", model=TINY, training=settings(**changes))
    assert not (tmp_path / "run").exists()


def test_without_matplotlib_there_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    draw_curves([{"epoch": 1, "loss": 0.5}], tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("record", [{}, {"validation_loss": 0.4, "validation_roc_auc": 0.8}], ids=["bare", "validated"])
def test_the_picture(tmp_path: Path, record: dict[str, float]) -> None:
    pytest.importorskip("matplotlib")
    draw_curves([{"epoch": at, "loss": 1 / at, **record} for at in (1, 2, 3)], tmp_path / "curves.png")
    picture = (tmp_path / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    assert int.from_bytes(picture[16:20]) > 600, "pixels wide"


def test_figures_are_finite() -> None:
    assert metric_values({"epoch": 3, "loss": 0.5, "gradient_norm": float("inf")}) == {"loss": 0.5}
