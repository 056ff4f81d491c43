"""`TrainedRun`: a finished training run with its scorer, store, metadata, and scored payments of its test range."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.history import history_lengths
from tsa.data.key_codes import key_codes
from tsa.data.store.manifest import MANIFEST
from tsa.data.store.store import EventStore, open_referred
from tsa.data.store.summary import split_summary
from tsa.errors import ConfigError, StoreError
from tsa.evaluation.metrics.scored_payments import ScoredPayments
from tsa.evaluation.top_k import bundle_k, fitting_k
from tsa.files.writing import sha256_of
from tsa.inference.scorer import Scorer
from tsa.model.network_and_trees import PARTS, raw_scores
from tsa.progress import Progress, silent
from tsa.text import brief

Array = NDArray[Any]

WEIGHTS_SHA256 = "tsa.weights_sha256"
"""Metadata key of `NAME_scores.parquet`: the hash of the weights that gave the scores."""


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run and the store it was trained on."""

    path: Path
    scorer: Scorer
    store: EventStore
    metadata: Mapping[str, Any]
    market: Market
    """The store's market, with `evaluation.KEY=value` overrides applied."""
    weights_hash: str
    """`Bundle.model_sha256`."""
    scored: Mapping[str, Array] = field(default_factory=dict)
    """Raw scores (m,) of all payments per range, if training has computed them."""
    part_log_odds: dict[str, Array] = field(default_factory=dict)
    """Log odds (n,) of each part of the model, of `rows`, once `score_measured` has computed them; for a model with trees."""

    @classmethod
    def open(cls, path: str | Path, overrides: Sequence[str] = ()) -> TrainedRun:
        """Open the run folder `path`.

        Raises:
            ConfigError: If it is not a run folder, or an override is not in the market's `evaluation` table.
            StoreError: If its store has moved or changed.
        """
        path = Path(path)
        try:
            metadata = json.loads((path / "run.json").read_text(encoding="utf-8"))
            place, manifest = metadata["store"], metadata["store_manifest"]
            if not isinstance(place, str):
                raise TypeError(f"store must be a text (got {place!r})")
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else brief(error)
            advice = "give the folder that holds bundle/ and run.json"
            raise ConfigError(f"{path} must be the folder of a run (run.json: {reason}): {advice}") from None
        if "finished" not in metadata:
            advice = f"finish it with the command that trained it and --resume, or: tsa evaluate {path} --unfinished"
            raise ConfigError(f"{path} must be the folder of a finished run (its training did not finish): {advice}")
        scorer = Scorer.load(path / "bundle")
        store = open_referred(path, place, scorer.bundle.market)
        if sha256_of(store.path / MANIFEST) != manifest:
            raise StoreError(
                f"{store.url or store.path} was prepared again after {path} was trained on it; train again"
            )
        market = for_evaluation(store.market, overrides)
        return cls(path, scorer, store, metadata, market, scorer.bundle.model_sha256)

    @cached_property
    def rows(self) -> Array:
        """Labelled rows of the test range."""
        return self.store.labelled("test")

    @property
    def scored_rows(self) -> Array:
        """Rows of the test range, whether their outcome is known or not."""
        return self.store.split_rows("test")

    @property
    def ranges(self) -> dict[str, dict[str, Any]]:
        """Counts and times of each range: see `tsa.data.store.summary.split_summary`."""
        return split_summary(self.store)

    @cached_property
    def top_k(self) -> int:
        """The k of card precision@k: the market's, or one that fits the validation range, or the bundle's."""
        if self.market.evaluation.top_k is not None:
            return self.market.evaluation.top_k
        rows = self.store.labelled("validation")
        entity = _entity(self, rows)
        if entity is None or not (self.store.label[rows] == 1).any():
            return bundle_k(self.scorer.bundle)
        return fitting_k(entity, self.store.label[rows], self.store.time_seconds[rows])

    def range_scores(self, name: str, progress: Progress = silent) -> Array:
        """(m,) float32 raw scores of `split_rows`, all payments of a range: from training if available, else computed."""
        rows = self.store.split_rows(name)
        scores = self.scored.get(name)
        if scores is None:
            scores = _stored_scores(self.path / f"{name}_scores.parquet", self.weights_hash)
        fits = scores is not None and len(scores) == len(rows)
        return scores if fits and scores is not None else self.score(rows, f"scoring the {name} range", progress)

    def score(self, rows: Array, what: str, progress: Progress = silent) -> Array:
        """(m,) float32 raw scores of the events `rows` (m,)."""
        with progress(what, len(rows)) as advance:
            return self.scorer.score_rows(self.store, rows, advance=advance)

    def score_measured(self, what: str, progress: Progress = silent) -> Array:
        """(n,) float32 raw scores of `rows`; of a model with trees, the log odds of each part are stored."""
        model = self.scorer.model
        if model.trees is None:
            return self.score(self.rows, what, progress)
        with progress(what, len(self.rows)) as advance:
            self.part_log_odds.update(model.log_odds_of_store(self.store, self.rows, PARTS, advance=advance))
        return raw_scores(model.joining(self.part_log_odds))

    def payments(self, scores: Array, segments: Sequence[str] = ()) -> ScoredPayments:
        """The test payments with `scores` (n,), and the columns that metrics are broken down by.

        Raises:
            StoreError, DataError: If the store cannot be read, or a column is missing.
        """
        store, market, rows = self.store, self.market, self.rows
        segment_names = list(dict.fromkeys([*market.evaluation.segments, *segments]))
        names = list(dict.fromkeys([*segment_names, *([market.event.amount] if market.event.amount else [])]))
        columns = (
            store.columns(names)[rows] if names else pl.DataFrame()
        )  # a frame without columns has no rows to select
        lengths = {h.name: history_lengths(store.histories[h.name], rows, h.length) for h in market.views}
        return ScoredPayments(
            label=store.label[rows],
            score=np.asarray(scores, np.float64),
            time_seconds=store.time_seconds[rows],
            amount=columns[market.event.amount].cast(pl.Float64).to_numpy() if market.event.amount else None,
            entity=_entity(self, rows),
            segments={name: columns[name].cast(pl.String).to_numpy() for name in segment_names},
            history_length=lengths,
        )


def _stored_scores(path: Path, weights: str) -> Array | None:
    """(m,) float32 raw scores from a file that training wrote, if they were computed with these weights."""
    try:
        if pl.read_parquet_metadata(path).get(WEIGHTS_SHA256) != weights:
            return None
        return pl.read_parquet(path, columns=["raw_score"])["raw_score"].cast(pl.Float32).to_numpy()
    except (OSError, pl.exceptions.PolarsError):
        return None


def for_evaluation(market: Market, overrides: Sequence[str]) -> Market:
    """The market with `evaluation.KEY=value` overrides. Raises ConfigError for others."""
    changed = market.override(overrides)
    if changed.model_copy(update={"evaluation": market.evaluation}) != market:
        raise ConfigError(f"a finished run takes evaluation.KEY settings only (got {', '.join(overrides)})")
    return changed


def _entity(run: TrainedRun, rows: Array) -> Array | None:
    """(n,) a code for each key of the ranked history, -1 if the key is null. None if rows carry their own history without
    a key."""
    key = run.market.entity.key
    return None if key is None else key_codes(run.store.columns([key])[key])[rows]


def read_report(run: Path) -> dict[str, Any]:
    """Read the report of the run folder `run`.

    Raises:
        ConfigError: If the run has not been evaluated yet.
    """
    try:
        report: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
        return report
    except (OSError, ValueError):
        raise ConfigError(f"{run} must be evaluated first: tsa evaluate {run}") from None
