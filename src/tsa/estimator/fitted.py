"""A fitted model on data frames: the bundle, with the payments it was fitted on, whose histories its scores use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.data.log.id_and_joined_columns import MadeColumns
from tsa.data.log.quarantine import QuarantineLike
from tsa.data.log.rules import read_columns
from tsa.data.log.sources import table_source
from tsa.data.store.store import EventStore
from tsa.errors import DataError
from tsa.estimator.report import Report
from tsa.estimator.roles import Role
from tsa.explain import Explanation
from tsa.explain.log import rows_of_ids
from tsa.files.writing import atomic_folder, read_json, write_json
from tsa.inference.scorer import Scorer, check_finite
from tsa.progress import Progress, silent
from tsa.text import brief

MODEL = "model.json"
BUNDLE, HISTORY = "bundle", "history.parquet"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FittedModel:
    """A bundle, and the frame whose payments are the histories of those that are scored."""

    bundle: Bundle
    history: pl.DataFrame | None
    """The payments it was fitted on, those of their columns that the market reads; None if they were not saved."""
    report: Report
    roles: tuple[Role, ...]
    classes: tuple[Any, Any]
    """The values of genuine and of fraud."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """The parameters of the estimator, as JSON values."""

    @property
    def market(self) -> Market:
        """What the columns mean."""
        return self.bundle.market

    @property
    def threshold(self) -> float:
        """The raw score from which a payment counts as flagged: the best F1 on the validation range."""
        return float(self.report.content["evaluation"]["threshold"])

    @cached_property
    def scorer(self) -> Scorer:
        """Scores with the bundle."""
        return Scorer(self.bundle)

    def scores(
        self,
        frame: pl.DataFrame,
        history: pl.DataFrame | None,
        *,
        quarantine: QuarantineLike = None,
        progress: Progress = silent,
    ) -> pl.DataFrame:
        """The scores of the payments of a frame, in its order: id, raw_score, and those the bundle is calibrated for.

        Args:
            frame: n payments.
            history: Earlier payments; None: those that the model was fitted on.
            quarantine: A file for rows that break a rule; these have no scores.
            progress: Reports long work.

        Returns:
            (n, ...) the scores; null for a row that has none: it is in the quarantine, or not one that is scored.

        Raises:
            DataError: For rows that cannot be used, or if neither the model nor the caller has earlier payments.
        """
        with self._encoded(frame, history, quarantine, progress) as (store, rows, shown):
            has_score = rows.is_not_null().to_numpy()
            at, places = np.unique(rows.drop_nulls().to_numpy(), return_inverse=True)
            with progress("scoring", len(at)) as advance:
                raw = self.scorer.score_rows(store, at.astype(np.int64), advance=advance)
            check_finite(store.ids_of(at.astype(np.int64)), raw)
            columns = self.scorer.with_calibration(raw)
        return pl.DataFrame(
            {"id": shown, **{name: _spread(values[places], has_score) for name, values in columns.items()}}
        )

    def explanations(
        self, frame: pl.DataFrame, history: pl.DataFrame | None, *, progress: Progress = silent
    ) -> list[Explanation]:
        """Why the payments of a frame got their scores, in its order. Raises DataError for one without a score."""
        from tsa.explain.explainer import Explainer
        from tsa.explain.integrated_gradients import need_captum

        need_captum()
        with self._encoded(frame, history, None, progress) as (store, rows, shown):
            if rows.null_count():
                lost = shown.filter(rows.is_null())
                raise DataError(f"only payments with a score can be explained (got {brief(lost[0])}): leave it out")
            made = []
            with progress("explaining", len(rows)) as advance:
                for explanation in Explainer(self.bundle).explain_rows(store, rows.to_list()):
                    made.append(explanation)
                    advance(1)
        return made

    @contextmanager
    def _encoded(
        self, frame: pl.DataFrame, history: pl.DataFrame | None, quarantine: QuarantineLike, progress: Progress
    ) -> Iterator[tuple[EventStore, pl.Series, pl.Series]]:
        """The store of history and frame together, the rows of the frame's payments (n,), and their ids as given (n,)."""
        earlier = self.history if history is None else history
        if earlier is None:
            rule = "scores need earlier payments, but this model was saved without those it was fitted on"
            raise DataError(f"{rule}: give history=, a frame of earlier payments")
        table = together(self.market, earlier, frame)
        made = MadeColumns.of(self.market)
        source = table_source(table, read_columns(self.market), made)
        ids = source.scan([self.market.event.id]).collect()
        if not ids.width:
            has = ", ".join(frame.columns)
            raise DataError(f"payments must have the column {self.market.event.id} (got {brief(has)})")
        shown = ids.to_series().tail(len(frame))
        with self.scorer.encoded(table, quarantine=quarantine, progress=progress) as store:
            yield store, rows_of_ids(store, shown.cast(pl.String)), shown

    def save(self, path: Path, *, history: bool) -> None:
        """Write the model as a folder: the bundle, the report, and, unless history is False, the payments it was fitted on."""
        with atomic_folder(path, MODEL, private=True) as folder:
            self.bundle.save(folder / BUNDLE)
            self.report.save(folder / "report.html")
            self.report.save(folder / "report.json")
            if history and self.history is not None:
                self.history.write_parquet(folder / HISTORY)
            roles = [{"use": r.use, "column": r.column, "evidence": r.evidence, "given": r.given} for r in self.roles]
            classes = list(self.classes)
            write_json(
                folder / MODEL, {"version": VERSION, "params": dict(self.params), "classes": classes, "roles": roles}
            )

    @classmethod
    def load(cls, path: Path) -> FittedModel:
        """Open what `save` wrote. Raises DataError, or BundleError if the bundle was changed."""
        table = read_json(path / MODEL, DataError)
        if table.get("version") != VERSION:
            raise DataError(f"{path / MODEL}: this program reads version {VERSION} (got {table.get('version')!r})")
        saved = path / HISTORY
        try:
            content = read_json(path / "report.json", DataError)
            page = (path / "report.html").read_text(encoding="utf-8")
            history = pl.read_parquet(saved) if saved.exists() else None
            roles = tuple(Role(**role) for role in table["roles"])
            genuine, fraud = table["classes"]
        except (OSError, KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{path} cannot be read as a saved model ({brief(error)}): save it again") from None
        return cls(
            bundle=Bundle.open(path / BUNDLE),
            history=history,
            report=Report(content, page),
            roles=roles,
            classes=(genuine, fraud),
            params=table["params"],
        )


def _spread(values: NDArray[Any], has_score: NDArray[np.bool_]) -> pl.Series:
    """(n,) values of the rows that have one, null for the others."""
    made = np.zeros(len(has_score), values.dtype)
    made[has_score] = values
    return pl.select(pl.when(pl.Series(has_score)).then(pl.Series(made))).to_series()


def columns_of(market: Market, frame: pl.DataFrame) -> list[str]:
    """The columns of a frame that a market reads."""
    needed = MadeColumns.of(market).parts(read_columns(market))
    return [name for name in needed if name in frame.columns]


def together(market: Market, history: pl.DataFrame, frame: pl.DataFrame) -> pl.DataFrame:
    """Earlier payments and those of a frame as one table, the frame last.

    A payment of both is that of the frame; its outcome, if the frame has no outcomes, is that of the history.

    Raises:
        DataError: If a column has types that do not fit.
    """
    frame = frame.select(columns_of(market, frame))
    history = history.select(columns_of(market, history))
    id_ = market.event.id
    if id_ in frame.columns and id_ in history.columns:
        outcome = [name for name in _outcome_columns(market) if name in history.columns and name not in frame.columns]
        key = pl.col(id_).cast(pl.String).str.strip_chars()
        if outcome:
            known = history.select(key.alias("__id"), *outcome).unique("__id", keep="last")
            frame = frame.with_columns(key.alias("__id")).join(known, on="__id", how="left", maintain_order="left")
            frame = frame.drop("__id")
        history = history.filter(~key.is_in(frame.select(key).to_series().drop_nulls().implode()))
    try:
        return pl.concat([history, frame], how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        types = _different(history, frame)
        rule = "earlier payments and those to score must have columns of the same types"
        raise DataError(f"{rule} (got {types or brief(error)}): convert one of them") from None


def _outcome_columns(market: Market) -> Sequence[str]:
    label = market.label
    return (label.column, *(() if label.known_at is None else (label.known_at,)))


def _different(one: pl.DataFrame, other: pl.DataFrame) -> str:
    both = [name for name in one.columns if name in other.columns and one.schema[name] != other.schema[name]]
    return ", ".join(f"{name}: {one.schema[name]} and {other.schema[name]}" for name in both[:3])
