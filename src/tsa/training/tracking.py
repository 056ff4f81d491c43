"""Where the records of epochs go: metrics.jsonl always, TensorBoard and MLflow where they are wanted, a picture at the end.

TensorBoard, MLflow and matplotlib are extras; what is asked for and not installed is refused before training. Knows
records as flat tables of figures.
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
from tsa.optional import is_installed, need
from tsa.training.config import TrainingConfig
from tsa.training.distributed import mlflow_uri
from tsa.training.trackers.mlflow import MLflowRun, refuse_unreachable
from tsa.training.trackers.queue import Feed

logger = logging.getLogger(__name__)

METRICS, CURVES, TENSORBOARD = "metrics.jsonl", "curves.png", "tensorboard"
Record = dict[str, Any]
Track = Callable[[Record], None]


def refuse_missing(config: TrainingConfig) -> None:
    """Raise ConfigError for what is asked for and not installed, or does not answer: better before hours of training than
    after."""
    if config.tensorboard:
        need("training.tensorboard", "tensorboard", extra="track")
    if uri := mlflow_uri():
        need("MLFLOW_TRACKING_URI", "mlflow", extra="mlflow")
        refuse_unreachable(uri)


@contextmanager
def tracked(out: Path, config: TrainingConfig, run: Record, before: Sequence[Record]) -> Iterator[Track]:
    """A call that takes the record of each epoch. before: those of a run that goes on; run: its account, for its settings."""
    with ExitStack() as stack:
        tracks = [stack.enter_context(_lines(out / METRICS, before)), _log]
        if config.tensorboard:
            tracks.append(stack.enter_context(_tensorboard(out / TENSORBOARD, len(before))))
        if uri := mlflow_uri():
            tracker = MLflowRun(uri, out, run, figures)
            tracks.append(stack.enter_context(_fed("MLflow", tracker.write, tracker.end)))

        def track(record: Record) -> None:
            for each in tracks:
                each(record)

        yield track


@contextmanager
def _lines(path: Path, before: Sequence[Record]) -> Iterator[Track]:
    """One JSON line an epoch, so that a run can be followed and its figures outlive its process."""
    with atomic_file(path) as aside:
        aside.write_text("".join(json.dumps(record) + "\n" for record in before), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:

        def write(record: Record) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        yield write


def _log(record: Record) -> None:
    logger.info("epoch %s", {name: round(value, 5) for name, value in record.items()})


@contextmanager
def _tensorboard(folder: Path, epochs: int) -> Iterator[Track]:
    """What comes after the first `epochs`: what a killed process wrote of later ones is not shown."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=epochs + 1)

    def write(record: Record) -> None:
        for name, value in figures(record).items():
            writer.add_scalar(name, value, record["epoch"])
        writer.flush()

    with _fed("TensorBoard", write, lambda well: writer.close()) as track:
        yield track


@contextmanager
def _fed(name: str, write: Track, end: Callable[[bool], None]) -> Iterator[Track]:
    """A tracker of which nothing, and no wait, reaches the run."""
    feed, well = Feed(name, write, end), False
    try:
        yield feed
        well = True
    finally:
        feed.close(well)


def epochs_of(out: Path) -> list[Record]:
    """The records that the run in `out` has written so far."""
    path = out / METRICS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite figures of a record, the number of the epoch left out."""
    return {name: float(value) for name, value in record.items() if name != "epoch" and math.isfinite(value)}


def draw_curves(records: Sequence[Record], out: Path) -> None:
    """The picture `out`: loss, validation, rate and gradient over the epochs. Nothing where matplotlib is not installed, or
    does not come to it: no reason to fail a run."""
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
    with atomic_file(out) as aside:
        figure.savefig(aside, format="png", dpi=110)
