"""Compare two bundles on the same payments with known outcomes, such as a candidate and the champion it may replace."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.bundle.bundle import Bundle
from tsa.data.store.prepare import Logs
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError
from tsa.evaluation.metrics.paired import DIGITS, paired_difference
from tsa.evaluation.metrics.psi import psi
from tsa.evaluation.metrics.scored_payments import ScoredPayments
from tsa.inference.labelled_log import When, learned_note, open_log
from tsa.inference.scorer import Scorer
from tsa.progress import Progress, silent
from tsa.times import iso

LEARNED = ("train", "validation", "calibration")
NAMES = {"average_precision": "average precision", "roc_auc": "ROC AUC"}
VERDICTS = {"a better": "A is better", "b better": "B is better", "no clear difference": "no clear difference"}


def compare_bundles(
    a: str | Path,
    b: str | Path,
    logs: Logs,
    *,
    start: When = None,
    end: When = None,
    replicates: int = 200,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Score the payments of a log with both bundles, and compare the scores on those whose outcome is known to both.

    Each bundle reads the log by its own market, so features and histories may differ. Histories are taken from all of
    the log, as they were at each payment's time.

    Args:
        a: A bundle, a folder or a .tar.gz.
        b: Another bundle of the same market.
        logs: Files as `tsa prepare` reads them, or wire rows where the market has them.
        start: Compare payments from this time on, UTC.
        end: Compare payments before this time.
        replicates: Bootstrap samples for the intervals.
        seed: Of the bootstrap.
        progress: Receives the progress of long steps.

    Returns:
        `payments`, `frauds`, `start`, `end`, `only_in` (payments that only one could use), `bundles` (sha256 and notes),
        `metrics` (as `paired_difference`, differences are a - b), `psi` of the raw scores, `decisions` (counts by the
        decisions of both, or None) and `summary`.

    Raises:
        ConfigError: If the bundles are of two markets.
        DataError: If the log cannot be read, has no payment with a known outcome, or the outcomes differ.
    """
    bundles = {"a": Bundle.open(a), "b": Bundle.open(b)}
    if bundles["a"].market.name != bundles["b"].market.name:
        names = " and ".join(bundle.market.name for bundle in bundles.values())
        raise ConfigError(f"both bundles must be of one market (got {names})")
    frames = {name: _scored(bundle, logs, start=start, end=end, progress=progress) for name, bundle in bundles.items()}
    return compare_scored(bundles, frames, replicates=replicates, seed=seed)


def compare_scored(
    bundles: Mapping[str, Bundle], frames: Mapping[str, pl.DataFrame], *, replicates: int = 200, seed: int = 0
) -> dict[str, Any]:
    """What `compare_bundles` returns, for payments that both bundles `a` and `b` have scored.

    Args:
        bundles: By name.
        frames: Of each, its payments with a known outcome, as `labelled` returns them.
        replicates: Bootstrap samples for the intervals.
        seed: Of the bootstrap.

    Raises:
        DataError: If they have no payment in common, or the outcomes differ.
    """
    both = frames["a"].join(frames["b"], on="id", suffix="_b", maintain_order="left")
    if not len(both):
        raise DataError("the log must contain payments whose outcome is known to both bundles (got none)")
    if len(differing := both.filter(pl.col("label") != pl.col("label_b"))):
        rule = "both bundles must read the same outcome of a payment"
        raise DataError(f"{rule} (got {differing['id'][0]!r}: {differing['label'][0]} and {differing['label_b'][0]})")
    scores = {name: both[column].to_numpy() for name, column in (("a", "raw_score"), ("b", "raw_score_b"))}
    times = both["time"].to_numpy()
    payments = ScoredPayments(label=both["label"].to_numpy(), score=scores["a"], time_seconds=times)
    metrics = paired_difference(scores["a"], scores["b"], payments, replicates=replicates, seed=seed)
    return {
        "payments": len(both),
        "frauds": int(both["label"].sum()),
        "start": iso(times.min()),
        "end": iso(times.max()),
        "only_in": {name: len(frame) - len(both) for name, frame in frames.items()},
        "bundles": {
            name: {"sha256": bundle.sha256, "note": learned_note(bundle, times, LEARNED)}
            for name, bundle in bundles.items()
        },
        "metrics": metrics,
        "psi": psi(scores["a"], scores["b"]),
        "decisions": _decisions(both),
        "summary": "; ".join(map(_sentence, metrics, metrics.values())),
    }


def _scored(bundle: Bundle, logs: Logs, *, start: When, end: When, progress: Progress) -> pl.DataFrame:
    scorer = Scorer(bundle)
    with open_log(scorer, logs, start=start, end=end, progress=progress) as log:
        return labelled(scorer, log.store, log.payments, log.scores)


def labelled(scorer: Scorer, store: EventStore, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> pl.DataFrame:
    """The scored rows with a known outcome: id, time, label, raw_score, and decision (null without thresholds)."""
    known = store.label[rows] >= 0
    rows, scores = rows[known], scores[known]
    policy = scorer.bundle.thresholds
    decisions = [None] * len(rows) if policy is None else policy.decide(scorer.with_calibration(scores))
    return pl.DataFrame(
        {
            "id": store.ids_of(rows).cast(pl.String),
            "time": store.time_seconds[rows],
            "label": store.label[rows],
            "raw_score": scores.astype(np.float64),
            "decision": pl.Series(decisions, dtype=pl.String),
        }
    )


def _decisions(both: pl.DataFrame) -> list[dict[str, Any]] | None:
    """How many payments and frauds got each pair of decisions; None if a bundle has no thresholds."""
    if both["decision"].null_count() or both["decision_b"].null_count():
        return None
    grouped = both.group_by(a="decision", b="decision_b").agg(payments=pl.len(), frauds=pl.col("label").sum())
    return grouped.sort("a", "b").to_dicts()


def _sentence(name: str, values: Mapping[str, Any]) -> str:
    if values["difference"] is None:
        return f"{NAMES[name]} is undefined: {values['reason']}"
    shown = f"{NAMES[name]} {values['a']:.{DIGITS}f} and {values['b']:.{DIGITS}f}"
    if values["low"] is None:
        return f"{shown} (no interval: {values['reason']})"
    interval = f"{values['difference']:+.{DIGITS}f} [{values['low']:+.{DIGITS}f}, {values['high']:+.{DIGITS}f}]"
    return f"{shown}, difference {interval}: {VERDICTS[values['verdict']]}"
