"""`tsa train --executor ray`: the processes that torchrun would start, by the workers of a Ray cluster."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsa import errors as tsa_errors
from tsa.cli.app import Executor, cluster_of
from tsa.cli.console import command_session, errors, print_line
from tsa.cli.terminal.epoch_table import epoch_table
from tsa.config.overrides import Overrides
from tsa.errors import ConfigError, TrainingError, TSAError
from tsa.files.object_folder import object_url

logger = logging.getLogger(__name__)

MARKER = ".cluster"
"""A file in the run folder while a cluster trains, by which a worker sees that it has the same folder."""
ERROR = re.compile(r"^error: (\w+): (.*?)(?:^next: .*)?\Z", re.DOTALL | re.MULTILINE)
STOPPED = 143


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """A call of `tsa train` for a cluster."""

    store: str | None
    """Path or URL."""
    out: Path
    settings: Overrides
    preset: str
    refit: Path | None = None
    until: str | None = None
    minutes: float | None = None
    began: float
    """When the command began, as `time.monotonic` says."""
    resume: bool
    overwrite: bool

    def words(self, *, again: bool, has_begun: bool) -> list[str]:
        """The arguments of `tsa` in each process.

        Args:
            again: Whether processes were lost before, and all start again.
            has_begun: Whether the run has replaced an earlier one in its folder.
        """
        words = ["train", *([] if self.store is None else [self.store]), "--out", str(self.out.resolve()), "--quiet"]
        if self.refit is None:
            words += ["--preset", self.preset]
            sections = {"training": self.settings.training, "model": self.settings.model}
            for section, values in sections.items():
                # JSON writes numbers, texts, truth values and lists of them as TOML reads them
                words += [word for k, v in values.items() for word in ("--set", f"{section}.{k}={json.dumps(v)}")]
        else:
            words += ["--refit", str(self.refit.resolve()), *([] if self.until is None else ["--until", self.until])]
        if self.minutes is not None:
            left = self.minutes - (time.monotonic() - self.began) / 60.0
            words += ["--minutes", f"{max(left, 0.01):.4f}"]
        resume = has_begun if again else self.resume
        return [*words, *(["--resume"] if resume else []), *(["--overwrite"] if self.overwrite and not resume else [])]


def train_by_ray(training: TrainCommand, workers: int, address: str | None, *, quiet: bool) -> None:
    """Train in as many processes of a cluster; if one is lost, all continue from the last checkpoint.

    Raises:
        TSAError: What the training raises.
        ClusterError: If processes are lost again and again, or the cluster is too small or does not see the run folder.
        SystemExit: With 143 or 129 after a signal, once a checkpoint is saved.
    """
    from tsa.scale.processes import SharedFolder, run_until_done
    from tsa.training import TrainingConfig
    from tsa.training.ending.stop_signals import capture_sigterm
    from tsa.training.run_folder import ensure_no_run, ensure_run_folder, read_run_metadata

    out = training.out
    config = TrainingConfig.make(training.settings.training)
    ensure_run_folder(out)
    if not training.resume:
        ensure_no_run(out, overwrite=training.overwrite)
    before = read_run_metadata(out)

    def words(attempt: int) -> list[str]:
        has_begun = training.resume or read_run_metadata(out) != before
        return training.words(again=attempt > 0, has_begun=has_begun)

    out.mkdir(parents=True, exist_ok=True)
    folder = SharedFolder(marker=out.resolve() / MARKER, text=secrets.token_hex())
    show = _epochs_shown(out, quiet)
    with (
        capture_sigterm() as asked,
        command_session(quiet, out / "ray.log"),
        cluster_of(Executor.RAY, address) as ray,
    ):

        def watch() -> bool:
            show()
            return asked.to_stop

        folder.marker.write_text(folder.text, encoding="utf-8")
        try:
            gpus = _on_gpus(config.device, ray, workers)
            ended = run_until_done(ray, words, workers, folder=folder, gpus=gpus, watch=watch)
        finally:
            folder.marker.unlink(missing_ok=True)
        show()
        if any(one.code == STOPPED for one in ended):
            print_line(f"note: {out}: stopped by a signal; continue with --resume", errors)
            raise SystemExit(128 + asked.number)
        if any(one.code != 0 for one in ended):
            raise failure_of([one.errors for one in ended if one.code != 0])
    if not (out / "bundle").is_dir():
        raise ConfigError(f"{out} must be a folder that all nodes of the cluster share: use another folder")


def _on_gpus(device: str, ray: Any, workers: int) -> bool:
    """Whether each process gets a GPU."""
    return device == "cuda" or (device == "auto" and ray.cluster_resources().get("GPU", 0) >= workers)


def failure_of(texts: Sequence[str]) -> TSAError:
    """The error of the process that failed first, from what the processes that failed wrote; others only lost that one."""
    matches = [match for text in texts if (match := ERROR.search(text)) is not None]
    own = [match for match in matches if match[1] != "OtherProcessError"]
    bugs = [text for text in texts if "Traceback" in text and ERROR.search(text) is None]
    if own or (matches and not bugs):
        kind, text = (own or matches)[0].groups()
        made = getattr(tsa_errors, kind, TrainingError)
        return made(" ".join(text.split())) if issubclass(made, TSAError) else TrainingError(f"{kind}: {text.strip()}")
    for text in bugs:
        logger.error("a process failed: %s", text)
    last = next((text.strip().splitlines()[-1] for text in [*bugs, *texts] if text.strip()), "it wrote nothing")
    return TrainingError(f"a process failed ({last}): see ray.log in the run folder")


def _epochs_shown(out: Path, quiet: bool) -> Callable[[], None]:
    """A function that shows the epochs that the run has added since."""
    if quiet or not errors.is_terminal:
        return lambda: None
    table, seen = epoch_table(errors), set(_lines(out))

    def show() -> None:
        for line in _lines(out):
            if line not in seen:
                seen.add(line)
                table(json.loads(line))

    return show


def _lines(out: Path) -> list[str]:
    """The complete lines of the run's metrics."""
    try:
        text = (out / "metrics.jsonl").read_text(encoding="utf-8")
    except OSError:
        return []
    return text[: text.rfind("\n") + 1].splitlines()


def place_of(store: Path | None) -> str | None:
    """The store as every node may open it: its URL or absolute path."""
    if store is None:
        return None
    return str(object_url(store) or os.path.abspath(store))
