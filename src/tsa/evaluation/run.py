"""A finished run, opened: its scorer, its store, its account, and the payments of its test range with scores.

It knows what stands in a run folder. It measures nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.history import history_lengths
from tsa.data.store.build import key_codes
from tsa.data.store.manifest import MANIFEST
from tsa.data.store.store import EventStore, split_summary
from tsa.errors import ConfigError, StoreError
from tsa.evaluation.metrics.scored_payments import ScoredPayments
from tsa.files.writing import sha256_of
from tsa.inference.scorer import Scorer
from tsa.progress import Progress, silent

Array = NDArray[Any]


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run and the store it was trained on."""

    path: Path
    scorer: Scorer
    store: EventStore
    metadata: Mapping[str, Any]
    market: Market
    """The store's, but for what `evaluation.KEY=value` overrides say."""

    @classmethod
    def open(cls, path: str | Path, overrides: Sequence[str] = ()) -> TrainedRun:
        """Open the run folder `path`. ConfigError when it is not one, or an override is of more than the market's
        `evaluation` table; StoreError when its store has moved or changed."""
        path = Path(path)
        try:
            account = json.loads((path / "run.json").read_text(encoding="utf-8"))
            folder, manifest = (path.resolve() / account["store"]).resolve(), account["store_manifest"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} must be the folder of a run, but run.json cannot be read ({error!r})") from None
        if "finished" not in account:
            raise ConfigError(f"{path} must be the folder of a finished run, but its training did not finish")
        scorer = Scorer.load(path / "bundle")
        store = EventStore.open(folder, market=scorer.bundle.market)
        if sha256_of(folder / MANIFEST) != manifest:
            raise StoreError(f"{folder} was prepared again since {path} was trained on it: train again")
        return cls(path, scorer, store, account, _for_evaluation(store.market, overrides))

    @cached_property
    def rows(self) -> Array:
        """Labelled rows of the test range."""
        return self.store.labelled("test")

    @property
    def ranges(self) -> dict[str, dict[str, Any]]:
        """What stands in each range: see `tsa.data.store.store.split_summary`."""
        return split_summary(self.store)

    @cached_property
    def weights_hash(self) -> str:
        """Which weights these are: the sha256 of their file."""
        manifest = json.loads((self.path / "bundle" / "manifest.json").read_text())
        return str(manifest["files"]["weights.safetensors"]["sha256"])

    def score(self, rows: Array, what: str, progress: Progress = silent) -> Array:
        """(m,) float32 raw scores of the events `rows` (m,)."""
        with progress(what, len(rows)) as advance:
            return self.scorer.score_rows(self.store, rows, advance=advance)

    def payments(self, scores: Array, segments: Sequence[str] = ()) -> ScoredPayments:
        """The test payments with `scores` (n), and with what their figures are broken down by. StoreError, DataError."""
        store, market, rows = self.store, self.market, self.rows
        wanted = list(dict.fromkeys([*market.evaluation.segments, *segments]))
        names = list(dict.fromkeys([*wanted, *([market.event.amount] if market.event.amount else [])]))
        columns = store.columns(names)[rows] if names else pl.DataFrame()  # one without columns has no rows to take
        lengths = {h.name: history_lengths(store.histories[h.name], rows, h.length) for h in market.history}
        return ScoredPayments(
            label=store.label[rows],
            score=np.asarray(scores, np.float64),
            time_seconds=store.time_seconds[rows],
            amount=columns[market.event.amount].cast(pl.Float64).to_numpy() if market.event.amount else None,
            entity=_entity(self),
            segments={name: columns[name].cast(pl.String).to_numpy() for name in wanted},
            history_length=lengths,
        )


def _for_evaluation(market: Market, overrides: Sequence[str]) -> Market:
    changed = market.override(overrides)
    if changed.model_copy(update={"evaluation": market.evaluation}) != market:
        raise ConfigError(f"a finished run takes evaluation.KEY settings only (got {', '.join(overrides)})")
    return changed


def _entity(run: TrainedRun) -> Array | None:
    """(n,) a code for each key of the ranked history, -1 where the key is null. None where rows carry their own history
    and do not say whose it is."""
    key = run.market.entity.key_column
    return None if key is None else key_codes(run.store.columns([key])[key])[run.rows]


def read_report(run: Path) -> dict[str, Any]:
    """The report of the run folder `run`. ConfigError where it was not evaluated yet."""
    try:
        report: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
        return report
    except (OSError, ValueError):
        raise ConfigError(f"{run} must be evaluated first: tsa evaluate {run}") from None
