"""What a candidate takes over from the champion: its decisions and its exported graphs."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tsa.bundle.bundle import GRAPHS, Bundle
from tsa.bundle.decisions import Decision, DecisionPolicy
from tsa.evaluation.promotion.pair import encoded_for
from tsa.evaluation.trained_run import TrainedRun
from tsa.inference.export_bundle import export_bundle
from tsa.inference.scorer import Scorer
from tsa.progress import Progress, silent

logger = logging.getLogger(__name__)

RANGE = "calibration"
"""The range on which raw scores of both models are compared: the test range must not choose a limit."""


def carry_over(run: TrainedRun, champion: Bundle, progress: Progress = silent) -> None:
    """Give the run's bundle the champion's decisions and the graphs that the champion has. What it has stays.

    Limits of percentiles and probabilities mean the same for every model and are copied. A limit of raw scores becomes the
    raw score that as many payments of the calibration range reach.
    """
    path = run.path / "bundle"
    bundle = Bundle.open(path)
    if champion.thresholds is not None and bundle.thresholds is None:
        replace(bundle, thresholds=_policy(run, champion, champion.thresholds, progress)).save(path)
    for precision in (name for name in GRAPHS if name in champion.graphs and name not in bundle.graphs):
        if precision in ("float32", "int8"):
            export_bundle(path, precision, progress=progress)


def _policy(run: TrainedRun, champion: Bundle, policy: DecisionPolicy, progress: Progress) -> DecisionPolicy:
    if policy.score != "raw_score":
        return policy
    rows = run.store.split_rows(RANGE)
    own = run.range_scores(RANGE, progress).astype(np.float64)
    with (
        encoded_for(run.store, champion, progress) as store,
        progress("scoring with the champion", len(rows)) as advance,
    ):
        before = Scorer(champion).score_rows(store, rows, advance=advance).astype(np.float64)
    made = tuple(Decision(one.name, equal_share(before, one.at_least, own)) for one in policy.decisions)
    for old, new in zip(policy.decisions, made, strict=True):
        logger.info("%s: from a raw score of %.6g on, of the champion %.6g", new.name, new.at_least, old.at_least)
    return replace(policy, decisions=made)


def equal_share(before: NDArray[np.float64], limit: float, now: NDArray[np.float64]) -> float:
    """The limit that as many of the scores `now` (n,) reach as of `before` (n,) reach `limit`.

    Where none of them does, or all do, the limit stays.
    """
    reached = int((before >= limit).sum())
    if reached in (0, len(before)):
        return limit
    return float(np.sort(now)[len(now) - reached])
