"""Write the record of each epoch to metrics.jsonl, the log, and optionally TensorBoard and MLflow; draw the curves.

TensorBoard, MLflow and matplotlib are optional; a missing one is refused before training starts.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tsa.files.writing import atomic_file
from tsa.optional_libraries import is_installed, need
from tsa.training.config import TrainingConfig
from tsa.training.trackers.mlflow import MLflowRun, mlflow_uri, refuse_unreachable
from tsa.training.trackers.queue import RecordQueue

logger = logging.getLogger(__name__)

METRICS, CURVES, TENSORBOARD = "metrics.jsonl", "curves.png", "tensorboard"
Record = dict[str, Any]
Track = Callable[[Record], None]


def refuse_missing(config: TrainingConfig) -> None:
    """Raise ConfigError before training if a requested tracker is not installed or does not answer."""
    if config.tensorboard:
        need("training.tensorboard", "tensorboard", extra="track")
    if uri := mlflow_uri():
        need("MLFLOW_TRACKING_URI", "mlflow", extra="mlflow")
        refuse_unreachable(uri)


@contextmanager
def tracked(out: Path, config: TrainingConfig, run: Record, before: Sequence[Record]) -> Iterator[Track]:
    """A function to call with the record of each epoch.

    Args:
        out: The run folder.
        config: Which trackers to use.
        run: The metadata of the run, for its settings.
        before: The earlier records of a resumed run.
    """
    with ExitStack() as stack:
        tracks = [stack.enter_context(_lines(out / METRICS, before)), _log]
        if config.tensorboard:
            tracks.append(stack.enter_context(_tensorboard(out / TENSORBOARD, len(before))))
        if uri := mlflow_uri():
            tracker = MLflowRun(uri, out, run, metric_values)
            tracks.append(stack.enter_context(_queued("MLflow", tracker.write, tracker.end)))

        def track(record: Record) -> None:
            for each in tracks:
                each(record)

        yield track


@contextmanager
def _lines(path: Path, before: Sequence[Record]) -> Iterator[Track]:
    """Write one JSON line per epoch, at once, so that a run can be followed."""
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in before), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:

        def write(record: Record) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        yield write


def _log(record: Record) -> None:
    logger.info("epoch %s", {name: round(value, 5) for name, value in record.items()})


@contextmanager
def _tensorboard(folder: Path, epochs: int) -> Iterator[Track]:
    """Write to TensorBoard after the first `epochs`; later values of a killed process are removed."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=epochs + 1)

    def write(record: Record) -> None:
        for name, value in metric_values(record).items():
            writer.add_scalar(name, value, record["epoch"])
        writer.flush()

    with _queued("TensorBoard", write, lambda well: writer.close()) as track:
        yield track


@contextmanager
def _queued(name: str, write: Track, end: Callable[[bool], None]) -> Iterator[Track]:
    """A tracker whose errors and delays do not affect the run."""
    feed, well = RecordQueue(name, write, end), False
    try:
        yield feed
        well = True
    finally:
        feed.close(well)


def epochs_of(out: Path) -> list[Record]:
    """The records that the run in `out` has written so far."""
    path = out / METRICS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def metric_values(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a record, without the epoch."""
    return {name: float(value) for name, value in record.items() if name != "epoch" and math.isfinite(value)}


def draw_curves(records: Sequence[Record], out: Path) -> None:
    """Plot loss, validation, rate and gradient over the epochs to `out`. Failures are logged and do not fail the run."""
    if not is_installed("matplotlib"):
        logger.info("no %s: pip install 'tsa-fraud[track]' to have it drawn", out.name)
        return
    try:
        _draw(records, out)
    except Exception as error:
        logger.warning("%s was not drawn: %s: %s", out.name, type(error).__name__, error)


def _draw(records: Sequence[Record], out: Path) -> None:
    from matplotlib.figure import Figure

    panels = {
        "loss": ("loss", "validation_loss"),
        "validation": ("validation_average_precision", "validation_roc_auc"),
        "learning rate": ("learning_rate",),
        "gradient norm": ("gradient_norm",),
    }
    epochs = [record["epoch"] for record in records]
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for name in names:
            axes.plot(
                epochs, [record.get(name, math.nan) for record in records], marker=".", label=name.replace("_", " ")
            )
        axes.set(title=title, xlabel="epoch")
        axes.legend(frameon=False)
    with atomic_file(out) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
