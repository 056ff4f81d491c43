"""Scores of a store by day, by the workers of a Ray cluster.

A worker opens the store at the path or URL that is given, so each node must see it there: a folder that all share, or an object
storage, which each node reads through its own cache. The bundle is sent to the workers. Scores come back as the bytes of
Parquet files, which the process that started the work writes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tsa.bundle.archive import to_tar_gz
from tsa.bundle.signing import read_bundle
from tsa.data.store.store import EventStore
from tsa.inference.score_days import Day, DayScores, DayTask, ScoreDays, score_day
from tsa.inference.scorer import Scorer
from tsa.scale.cluster import in_cluster
from tsa.scale.shared_store import SharedStore


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all days have in common."""

    bundle: bytes
    """As .tar.gz."""
    overrides: tuple[str, ...]
    engine: str
    precision: str
    store: SharedStore
    task: DayTask


def ray_days(
    ray: Any, bundle: Path, store: EventStore, *, overrides: Sequence[str] = (), engine: str, precision: str
) -> ScoreDays:
    """Score days by the workers of a cluster.

    Args:
        ray: As `tsa.scale.cluster.ray_cluster` yields it.
        bundle: The bundle, a folder or .tar.gz.
        store: The payments, encoded by the bundle's encoder.
        overrides: Settings of the bundle's market.
        engine: As for `Scorer`.
        precision: As for `Scorer`.
    """

    def score(task: DayTask, days: Sequence[Day], folder: Path) -> Iterator[tuple[Day, DayScores]]:
        contents, _ = read_bundle(bundle)
        shared = Shared(
            bundle=to_tar_gz(contents),
            overrides=tuple(overrides),
            engine=engine,
            precision=precision,
            store=SharedStore.of(store),
            task=task,
        )
        for at, scored in in_cluster(ray, score_in_worker, shared, days):
            yield days[at], scored

    return score


def score_in_worker(shared: Shared, day: Day) -> DayScores:
    """Score a day in a worker, with one thread.

    Raises:
        DataError: For payments without a finite score.
        ClusterError: If this node does not see the store.
    """
    torch.set_num_threads(1)
    scorer, store = _opened(shared)
    with tempfile.TemporaryDirectory(prefix="tsa-day-") as folder:
        path = Path(folder) / "scores.parquet"
        unscored = score_day(scorer, store, shared.task, day, path)
        return DayScores(file=path.read_bytes(), unscored=unscored)


@lru_cache(maxsize=1)
def _opened(shared: Shared) -> tuple[Scorer, EventStore]:
    """The scorer and the store, opened once in a worker."""
    with tempfile.TemporaryDirectory(prefix="tsa-bundle-") as name:
        path = Path(name) / "bundle.tar.gz"
        path.write_bytes(shared.bundle)
        scorer = Scorer.load(path, shared.overrides, engine=shared.engine, precision=shared.precision)
    return scorer, shared.store.open()
