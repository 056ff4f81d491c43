"""Evaluate any bundle on a log whose outcomes are known; writes the same report as for a run's test range."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tsa.bundle.bundle import Bundle
from tsa.data.log.quarantine import QuarantineLike, quarantine_path
from tsa.data.store.prepare import Logs, log_names
from tsa.errors import DataError
from tsa.evaluation.evaluate import measure
from tsa.evaluation.top_k import bundle_k
from tsa.evaluation.trained_run import Array, TrainedRun
from tsa.files.outputs import check_outputs
from tsa.inference.labelled_log import KnownLog, When, learned_note, open_log
from tsa.inference.scorer import Scorer
from tsa.progress import Progress, silent
from tsa.times import iso

THRESHOLD = 0.5
"""The raw score from which a payment counts as flagged, if nothing else sets it."""
WRITTEN = ("scores.parquet", "report.json", "report.html", "evaluate.log")
"""Files that `tsa evaluate` writes."""
MADE_WITH = ("train", "validation", "calibration")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BundleOnLog(TrainedRun):
    """A bundle and a log with the interface of a run: `path` is the output folder, `metadata` comes from the bundle."""

    log: KnownLog = field(kw_only=True)

    @cached_property
    def rows(self) -> Array:
        """Payments in the window whose outcome is known."""
        return self.log.labelled

    @property
    def scored_rows(self) -> Array:
        """Payments in the window, whether their outcome is known or not."""
        return self.log.payments

    @cached_property
    def top_k(self) -> int:
        """As the bundle was evaluated with, unless the market says otherwise."""
        return bundle_k(self.scorer.bundle)

    def score_measured(self, what: str, progress: Progress = silent) -> Array:
        """(n,) float32 raw scores of `rows`, computed when the log was opened."""
        return self.score(self.rows, what, progress)

    def score(self, rows: Array, what: str, progress: Progress = silent) -> Array:
        """(m,) float32 raw scores of payments of the log, computed when it was opened."""
        scores: Array = self.log.scores[np.searchsorted(self.log.payments, rows)]
        return scores

    @property
    def ranges(self) -> dict[str, dict[str, Any]]:
        """The window as the only range."""
        labels, times = self.store.label[self.rows], self.store.time_seconds[self.rows]
        first, last = (iso(times[at]) for at in (0, -1))
        return {"measured": {"n": len(labels), "frauds": int(labels.sum()), "start": first, "end": last}}


def evaluate_bundle(
    bundle: str | Path,
    logs: Logs,
    out: str | Path,
    *,
    start: When = None,
    end: When = None,
    segments: Sequence[str] = (),
    threshold: float | None = None,
    replicates: int = 200,
    quarantine: QuarantineLike = None,
    overrides: Sequence[str] = (),
    progress: Progress = silent,
) -> dict[str, Any]:
    """Score and measure the payments of a log; write `scores.parquet`, `report.json` and `report.html` into `out`.

    Histories are taken from all of the log, as they were at each payment's time. The bundle is not changed.

    Args:
        bundle: A folder or a .tar.gz.
        logs: Files as `tsa prepare` reads them, or wire rows where the bundle's market has them.
        out: The folder to write into.
        start, end: Measure payments in [start, end), UTC; open where None.
        segments: Columns to break the metrics down by, in addition to the market's.
        threshold: The raw score from which a payment counts as flagged; by default the one that the bundle was evaluated at,
            else 0.5. It is not chosen on the measured payments, which would bias the metrics upwards.
        replicates: Bootstrap samples for the intervals.
        quarantine: A file for rows that break a rule or get no score; without it they are an error.
        overrides: `key=value` over the bundle's market.
        progress: Receives the progress of long steps.

    Returns:
        The content of report.json.

    Raises:
        DataError: If the log cannot be read, or none of its outcomes is known.
        ConfigError: If an output is an input.
    """
    path, out, logs = Path(bundle), Path(out), log_names(logs)
    files = {"quarantine": quarantine_path(quarantine), **{f"{name} in out": out / name for name in WRITTEN}}
    check_outputs([path, *logs], files=files, into={"out": out})
    scorer = Scorer.load(path, overrides)
    flagged_at, source = _threshold(scorer.bundle, threshold)
    with open_log(scorer, logs, start=start, end=end, quarantine=quarantine, progress=progress) as log:
        if not len(log.labelled):
            column, n = scorer.bundle.market.label.column, len(log.payments)
            rule = f"the log must contain payments whose outcome ({column}) is known"
            raise DataError(
                f"{rule} (got {n:,} payments from {start or 'the first'} to {end or 'the last'}, none of them known)"
            )
        run = BundleOnLog(
            path=out,
            scorer=scorer,
            store=log.store,
            metadata=_account(scorer.bundle),
            market=scorer.bundle.market,
            log=log,
            weights_hash=scorer.bundle.model_sha256,
        )
        note = learned_note(scorer.bundle, log.store.time_seconds[run.rows], MADE_WITH)
        if note:
            _log.warning("%s", note)
        threshold_note = f"The threshold of {flagged_at:.6g} is {source}, and was not chosen on these payments."
        more = {
            "called": "payments",
            "place": "this log",
            "notes": [threshold_note, *([f"Mind that {note}."] if note else [])],
            "bundle": {"sha256": scorer.bundle.sha256, "logs": [Path(name).name for name in logs]},
        }
        return measure(
            run,
            "scoring the log",
            flagged_at=lambda: flagged_at,
            more=more,
            segments=segments,
            replicates=replicates,
            progress=progress,
        )


def _threshold(bundle: Bundle, given: float | None) -> tuple[float, str]:
    """The threshold, and a note on where it comes from."""
    if given is not None:
        return given, "the one given"
    if bundle.metrics is not None:
        return float(bundle.metrics["evaluation"]["threshold"]), "the one that the bundle was evaluated at"
    return THRESHOLD, "the middle of the raw scores"


def _account(bundle: Bundle) -> dict[str, Any]:
    """The training metadata of a run, as far as the bundle contains it."""
    training = bundle.training
    return {
        "preset": training.get("preset"),
        "model": bundle.config.to_dict(),
        "training": training.get("training") or {},
        "sampling_rate_genuine": training.get("sampling_rate_genuine"),
        "epochs": training.get("epochs") or [],
        "best_epoch": training.get("best_epoch"),
    }
