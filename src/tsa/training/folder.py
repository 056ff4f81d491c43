"""The folder of a run: what may stand in it, and whether a run in it has finished. Knows names of files, not their content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tsa.data.markers import is_marker
from tsa.errors import ConfigError
from tsa.training.tracking import CURVES, METRICS, TENSORBOARD

RUN, BUNDLE, CHECKPOINTS = "run.json", "bundle", "checkpoints"
CONTENT = {
    *(BUNDLE, "store", RUN, METRICS, CHECKPOINTS, CURVES, TENSORBOARD),
    *("validation_scores.parquet", "calibration_scores.parquet"),
    *("scores.parquet", "report.json", "report.html"),
}
"""What stands in a run folder, beside logs and hidden files, before or without its run.json."""


def refuse_foreign(out: Path) -> None:
    """Raise ConfigError where `out` cannot become a run folder: a file, or a folder that holds other things."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} must be a folder or not exist, however: it is a file")
    if not out.exists() or (out / RUN).is_file():
        return
    names = (path.name for path in out.iterdir() if path.suffix != ".log" and not path.name.startswith("."))
    names = (name for name in names if not is_marker(name))
    if foreign := sorted(set(names) - CONTENT):
        raise ConfigError(f"{out} must be empty or the folder of a run, however: it holds {', '.join(foreign[:5])}")


def refuse_unfinished(out: Path) -> None:
    """Raise ConfigError where `out` holds checkpoints of a run that did not finish: days of work, perhaps."""
    if any(not is_marker(path.name) for path in (out / CHECKPOINTS).glob("last-*")) and not finished(out):
        raise ConfigError(
            f"{out} holds a run that has not finished: --resume goes on with it; to begin anew, remove {out / CHECKPOINTS}"
        )


def finished(out: Path) -> bool:
    """Whether a run in `out` was trained to its end."""
    return "finished" in account_of(out)


def account_of(out: Path) -> dict[str, Any]:
    """What the run in `out` tells of itself; nothing where there is none."""
    try:
        account: dict[str, Any] = json.loads((out / RUN).read_text(encoding="utf-8"))
        return account
    except (OSError, ValueError):
        return {}
