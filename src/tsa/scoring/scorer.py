"""The Scorer: the only way from payments to scores. Evaluation, offline scoring and serving all come through here."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from tsa.data.files import replaced_file
from tsa.data.store import EventStore, prepare
from tsa.errors import ConfigError, DataError
from tsa.model import TSANetwork
from tsa.model.inputs import gather_batch
from tsa.progress import Advance, Progress, silent
from tsa.scoring.bundle import Bundle

BATCH_SIZE = 512
Payments = pl.DataFrame | str | Path | Sequence[str | Path]


def score_events(
    network: TSANetwork,
    store: EventStore,
    rows: NDArray[np.int64],
    *,
    batch_size: int = BATCH_SIZE,
    advance: Advance | None = None,
) -> NDArray[np.float32]:
    """(m,) raw scores, the softmax probability of fraud, of the events `rows` (m,) of a store.

    Every batch has the same shape: the last one is filled up with copies of its last row, and histories are not trimmed.
    Matrix products round differently for other shapes, and no earlier score may move, even by a bit, when later events come.
    """
    network.eval()
    device = next(network.parameters()).device
    scores = np.empty(len(rows), np.float32)
    for first in range(0, len(rows), batch_size):
        chunk = rows[first : first + batch_size]
        full = np.pad(chunk, (0, batch_size - len(chunk)), mode="edge")
        with torch.inference_mode():
            logits = network(gather_batch(store, full).to(device))
            scores[first : first + len(chunk)] = logits.softmax(-1)[: len(chunk), 1].float().cpu().numpy()
        if advance:
            advance(len(chunk))
    return scores


class Scorer:
    """Scores payments with a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Scorer:
        """Open and check the bundle at `path`. BundleError says what is wrong with it.

        overrides: `key=value` over its market, such as `event.time_unit="ms"` for a log that writes times another way.
        MarketError for one that breaks a rule, or names other features than the bundle's.
        """
        bundle = Bundle.open(path)
        if overrides:
            bundle = replace(bundle, market=bundle.market.override(overrides))
            bundle.encoder.check_market(bundle.market)
        return cls(bundle)

    def score(
        self,
        payments: Payments,
        *,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        quarantine: Path | None = None,
        progress: Progress = silent,
    ) -> pl.DataFrame:
        """Score the payments of a log, by default all of them; histories are taken from the whole log given.

        payments: a table, or files as `tsa prepare` reads them. start, end: score only payments in [start, end), in UTC.
        quarantine: a file for rows that break a rule; without it they are an error.
        Returns `id`, `raw_score` (float32), `percentile` and `probability` (float64), in time order; the last two only as far
        as the bundle is calibrated. DataError names what cannot be scored, ConfigError a time that is none.
        """
        rows_in = _window(start, end)
        with tempfile.TemporaryDirectory(prefix="tsa-score-") as folder:
            store = self._encode(payments, Path(folder), quarantine, progress)
            first, last = np.searchsorted(store.time_seconds, rows_in)
            rows = np.arange(first, last, dtype=np.int64)
            with progress("scoring", len(rows)) as advance:
                scores = self.score_rows(store, rows, advance=advance)
            ids = store.ids()[rows]
            _refuse_no_number(ids, scores)
            return pl.DataFrame({"id": ids, **self.columns(scores)})

    def _encode(self, payments: Payments, folder: Path, quarantine: Path | None, progress: Progress) -> EventStore:
        """A store of `payments` under `folder`, made with the bundle's encoder: nothing is fitted."""
        if isinstance(payments, pl.DataFrame):
            payments.write_parquet(folder / "payments.parquet")
            payments = folder / "payments.parquet"
        bundle = self.bundle
        return prepare(
            bundle.market, payments, folder / "store", quarantine=quarantine, encoder=bundle.encoder, progress=progress
        )

    def columns(self, scores: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The columns of raw scores (m,), `raw_score` first, then those that the bundle is calibrated for."""
        calibration = self.bundle.calibration
        return {"raw_score": scores, **({} if calibration is None else calibration.columns(scores))}

    def score_rows(self, store: EventStore, rows: NDArray[np.int64], **settings: Any) -> NDArray[np.float32]:
        """(m,) raw scores of the events `rows` (m,) of a store made with this bundle's encoder."""
        return score_events(self.bundle.network, store, rows, **settings)


def _refuse_no_number(ids: pl.Series, scores: NDArray[np.float32]) -> None:
    """A payment that the network has no number for has no score: not the lowest, not the highest, none."""
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        found = f"{len(bad)} of {len(scores)} do not, such as {ids.gather(bad[:5]).to_list()}"
        raise DataError(f"payments must get a number as score, however: {found}")


def write_scores(scores: pl.DataFrame, out: Path) -> None:
    """Write scores as Parquet, or as CSV where `out` ends in .csv, whole or not at all."""
    with replaced_file(out) as aside:
        if out.suffix == ".csv":
            scores.write_csv(aside)
        else:
            scores.write_parquet(aside)


def _window(start: str | datetime | None, end: str | datetime | None) -> tuple[float, float]:
    """[start, end) in epoch seconds, open where nothing is given."""
    first, last = _seconds("start", start, -math.inf), _seconds("end", end, math.inf)
    if first > last:
        raise ConfigError(f"start must not be after end, however: start={start}, end={end}")
    return first, last


def _seconds(name: str, when: str | datetime | None, otherwise: float) -> float:
    """Epoch seconds of a time in UTC, or in ISO spelling."""
    if when is None:
        return otherwise
    try:
        moment = datetime.fromisoformat(when) if isinstance(when, str) else when
    except ValueError:
        raise ConfigError(f"{name} must be a time like 2018-06-24 or 2018-06-24T12:00:00Z, however: {when!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
