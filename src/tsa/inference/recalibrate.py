"""Recalibrate a bundle on a log with known outcomes: the same network, new percentiles and probabilities."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tsa.bundle.archive import is_archive
from tsa.bundle.bundle import Bundle
from tsa.calibration.calibration import Calibration
from tsa.calibration.probability_fit import METHODS
from tsa.data.log.quarantine import QuarantineLike
from tsa.data.store.prepare import Logs, log_names
from tsa.errors import CalibrationError, ConfigError
from tsa.files.outputs import check_outputs
from tsa.inference.labelled_log import When, learned_note, open_log
from tsa.inference.scorer import Scorer
from tsa.progress import Progress, silent

_log = logging.getLogger(__name__)


def calibrate_bundle(
    path: str | Path,
    logs: Logs,
    out: str | Path,
    *,
    method: str = "bspline",
    start: When = None,
    end: When = None,
    quarantine: QuarantineLike = None,
    overrides: Sequence[str] = (),
    progress: Progress = silent,
) -> Bundle:
    """Fit percentiles and probabilities to a log, and write them with the network to the bundle `out`.

    Percentiles use all payments in [start, end), probabilities those with a known outcome. The new bundle is not signed,
    and does not contain metrics of the old probabilities. The bundle at `path` is not changed.

    Args:
        path: The bundle, a folder or a .tar.gz.
        logs: Files as `tsa prepare` reads them, or wire rows where the bundle's market has them. Histories
            are taken from all of the log.
        out: The bundle to write; must not be an input.
        method: "bspline", "isotonic", "platt" or "beta".
        start, end: Times in UTC; open where None.
        quarantine: A file for rows that break a rule or get no score; without it they are an error.
        overrides: `key=value` settings of the market for reading this log; the new bundle has the old market.
        progress: Receives the progress of long steps.

    Returns:
        The new bundle.

    Raises:
        CalibrationError: For too few payments or frauds, or a fit that fails its check.
        ConfigError: For an unknown method, or if `out` is an input.
        DataError: For a log that cannot be read.
    """
    path, out, logs = Path(path), Path(out), log_names(logs)
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)} (got {method!r})")
    kind = "files" if is_archive(out) else "replaced"
    check_outputs([path, *logs], **{kind: {"out": out}})
    bundle = Bundle.open(path)
    scorer = Scorer.load(path, overrides)
    with open_log(scorer, logs, start=start, end=end, quarantine=quarantine, progress=progress) as log:
        times = log.store.time_seconds[log.payments]
        calibration = Calibration.fit(scores=log.scores, labels=log.labels, method=method)
    if calibration.reasons:
        missing = "; ".join(f"no {name}: {reason}" for name, reason in calibration.reasons.items())
        raise CalibrationError(f"{out} is not written, since there is {missing}")
    learned = (bundle.training.get("training") or {}).get("train_on", ["train"])
    if note := learned_note(bundle, times, tuple(dict.fromkeys([*learned, "validation"]))):
        _log.warning("%s", note)
    if bundle.thresholds is not None and bundle.thresholds.score != "raw_score":
        _log.warning("the bundle's decisions use %s: from now on the new one", bundle.thresholds.score)
    summary = {
        "bundle": bundle.sha256,
        "files": [Path(log).name for log in logs],
        "method": method,
        "from": None if start is None else str(start),
        "to": None if end is None else str(end),
        **calibration.counts,
    }
    made = replace(
        bundle,
        calibration=calibration,
        training={**bundle.training, "calibrated": summary},
        metrics=_without_calibration(bundle.metrics),
        sha256=None,
    )
    made.save(out)
    return made


def _without_calibration(metrics: Any) -> Any:
    """The metrics without those of the old probabilities."""
    return None if metrics is None else {key: value for key, value in metrics.items() if key != "calibration"}
