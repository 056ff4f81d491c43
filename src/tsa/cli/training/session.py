"""What the commands that train share: the session of their processes, the training call, and what they print of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsa.cli.console import command_session, errors, logger, print_line
from tsa.cli.terminal.epoch_table import epoch_table
from tsa.config.overrides import Overrides
from tsa.errors import TrainingStopped
from tsa.files.outputs import OptionalPath, check_outputs
from tsa.progress import silent

if TYPE_CHECKING:
    from tsa.progress import Progress
    from tsa.training import TimeLimit
    from tsa.training.distributed import DistributedContext


def check_run(
    out: Path, inputs: Sequence[OptionalPath], *, store: bool = False, quarantine: Path | None = None
) -> None:
    """Refuse a run folder whose outputs would overwrite the inputs."""
    replaced = {"the bundle in --out": out / "bundle", **({"the store in --out": out / "store"} if store else {})}
    check_outputs(inputs, files={"--quarantine": quarantine}, into={"--out": out}, replaced=replaced)


@contextmanager
def distributed_session(
    settings: Overrides, out: Path, log: str, *, resume: bool, overwrite: bool, quiet: bool
) -> Iterator[tuple[DistributedContext, Progress]]:
    """Session of the processes that torchrun started, or of this one; only the main process has the terminal and log file.

    Exits with 143 once a checkpoint was saved after SIGTERM. A process that failed reports its error itself.
    """
    from tsa.training import TrainingConfig
    from tsa.training.distributed import OtherProcessError, distributed_context
    from tsa.training.run_folder import ensure_no_run, ensure_run_folder

    config = TrainingConfig.make(settings.training)
    try:
        with distributed_context(config.device) as processes:
            if not processes.is_main:
                logger.addHandler(logging.NullHandler())
                yield processes, silent
                return
            ensure_run_folder(out)
            if not resume:
                ensure_no_run(out, overwrite=overwrite)
            with command_session(quiet, out / log) as bars:
                yield processes, bars
    except TrainingStopped as stopped:
        if processes.is_main:
            print_line(f"note: {stopped}", errors)
        raise SystemExit(128 + stopped.signal_number) from None
    except OtherProcessError:
        if processes.is_main:
            raise
        raise SystemExit(2) from None


def train_run(
    settings: Overrides,
    store: Any,
    out: Path,
    preset: str,
    bars: Progress,
    *,
    resume: bool,
    overwrite: bool,
    shown: bool,
    train: Callable[..., Any],
    limit: TimeLimit | None = None,
) -> Any:
    """Train on a store with the settings given on the command line.

    Args:
        shown: on a terminal, print a line after each epoch.
        train: `tsa.train`, or a function with the same parameters.
        limit: Time for the command.
    """
    from tsa.data.store.summary import refuse_unmeasured
    from tsa.training import TrainingConfig

    refuse_unmeasured(store)
    return train(
        store,
        out,
        preset=preset,
        model=settings.model,
        training=TrainingConfig.make(settings.training),
        progress=bars,
        resume=resume,
        overwrite=overwrite,
        limit=limit,
        on_epoch=epoch_table(errors) if shown and errors.is_terminal else None,
    )


def left_of_run(out: Path) -> str:
    """What an interrupted run leaves, as the end of a sentence."""
    names = [
        name for name in ("store", "checkpoints", "bundle") if (out / name).is_dir() and any((out / name).iterdir())
    ]
    if not names:
        return "nothing was written"
    return f"{' and '.join(names)} in {out} stay; the same command with --resume continues"


def print_outlook(out: Path) -> None:
    """Print what more time would probably bring, if it was limited, and the spread of the seeds, if there are several."""
    from tsa.training.run_folder import read_run_metadata

    metadata = read_run_metadata(out)
    for sentence in (metadata.get("outlook"), metadata.get("seeds", {}).get("summary")):
        if sentence:
            print_line(sentence)
