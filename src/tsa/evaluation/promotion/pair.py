"""A candidate and the champion on the same payments: the scores of both, from one store."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.evaluation.trained_run import TrainedRun
from tsa.inference.scorer import Scorer
from tsa.progress import Progress, silent
from tsa.value_differences import differences

TIMED, UNTIMED = 40, 3
"""Payments that are scored one by one to measure the time, after these."""

SAME_TABLES = ("event", "input", "label", "history", "privacy", "wire")
"""Tables of the market that decide what a payment and its histories are."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A bundle and its scores of the measured payments."""

    scorer: Scorer
    raw: Floats
    """(n,)"""
    latency_ms: float
    """Of one payment: 95 % take at most this long."""

    @property
    def probability(self) -> Floats | None:
        """(n,) calibrated probabilities; None for a bundle without them."""
        calibration = self.scorer.bundle.calibration
        made = None if calibration is None else calibration.probability
        return None if made is None else np.asarray(made(self.raw), np.float64)

    @property
    def decisions(self) -> NDArray[np.str_] | None:
        """(n,) decisions; None for a bundle without them."""
        policy = self.scorer.bundle.thresholds
        if policy is None:
            return None
        return np.array(policy.decide(self.scorer.with_calibration(self.raw.astype(np.float32))))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The candidate and the champion on the payments of `run.rows`. Without a champion the candidate alone."""

    run: TrainedRun
    candidate: Scored
    champion: Scored | None


@contextmanager
def encoded_for(store: EventStore, bundle: Bundle, progress: Progress = silent) -> Iterator[EventStore]:
    """Yield the payments of a store as another bundle encodes them.

    Raises:
        ConfigError: If that bundle reads payments otherwise, or needs columns that the store lacks.
    """
    refuse_other_payments(store, bundle.market)
    with tempfile.TemporaryDirectory(prefix=f".{store.path.name}.champion-", dir=store.path.parent) as folder:
        yield store.encoded_by(bundle.market, bundle.encoder, Path(folder), progress)


def refuse_other_payments(store: EventStore, market: Market) -> None:
    """Raise ConfigError if a payment, its histories or its outcome mean something else to this market."""
    one, other = (
        {name: value for name, value in json.loads(json.dumps(table)).items() if name in SAME_TABLES}
        for table in (store.market.to_dict(), market.to_dict())
    )
    for table, given in ((one, store.market), (other, market)):
        features = given.to_dict().get("features", {})
        table["features"] = {name: features.get(name) for name in ("derived", "exclude")}
    has = store.clean.collect_schema().names()
    lines = list(differences(one, other)) + [
        f"{name}: not in the store" for name in market.raw_columns if name not in has
    ]
    if lines:
        raise ConfigError(
            "candidate and champion must read the same payments, to be compared on them (store, then champion):\n  "
            + "\n  ".join(lines)
            + "\n  compare them with tsa compare-bundles on a log, and promote by hand"
        )


def measure_pair(run: TrainedRun, champion: Bundle | None, scores: Floats, progress: Progress = silent) -> Pair:
    """Score the measured payments of a run with the champion as well.

    Args:
        run: The candidate's run.
        champion: The bundle in use; None if there is none.
        scores: (n,) the candidate's raw scores of `run.rows`.
        progress: Reports long work.
    """
    own = Scored(scorer=run.scorer, raw=scores, latency_ms=_latency(run.scorer, run.store, run.rows))
    if champion is None:
        return Pair(run=run, candidate=own, champion=None)
    scorer = Scorer(champion)
    with encoded_for(run.store, champion, progress) as store:
        with progress("scoring with the champion", len(run.rows)) as advance:
            raw = scorer.score_rows(store, run.rows, advance=advance).astype(np.float64)
        other = Scored(scorer=scorer, raw=raw, latency_ms=_latency(scorer, store, run.rows))
    return Pair(run=run, candidate=own, champion=other)


def _latency(scorer: Scorer, store: EventStore, rows: NDArray[np.int64]) -> float:
    """Milliseconds in which 95 % of the last payments are scored, one by one."""
    took = []
    for row in rows[-(TIMED + UNTIMED) :]:
        began = time.perf_counter()
        scorer.score_rows(store, np.array([row]))
        took.append(time.perf_counter() - began)
    return float(np.quantile(took[UNTIMED:] or took, 0.95)) * 1000.0
