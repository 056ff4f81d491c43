"""Explain payments of a log by their ids (`explain_log`). Histories are taken from all of the log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tsa.bundle.bundle import Bundle
from tsa.data.log.pseudonyms import Pseudonymizer
from tsa.data.log.quarantine import QuarantineLike
from tsa.data.store.prepare import encoded_log
from tsa.data.store.store import EventStore
from tsa.errors import DataError
from tsa.explain.explainer import Explainer
from tsa.explain.explanation import Explanation
from tsa.explain.integrated_gradients import need_captum
from tsa.files.writing import write_json
from tsa.progress import Progress, silent
from tsa.text import brief

SHOWN = 5


def explain_log(
    bundle: Bundle,
    payments: pl.DataFrame | str | Path | Sequence[str | Path],
    ids: Sequence[Any],
    *,
    quarantine: QuarantineLike = None,
    progress: Progress = silent,
) -> list[Explanation]:
    """Explain the scores of the payments `ids` of a log, in that order.

    Args:
        payments: A table, or files as `tsa prepare` reads them.
        ids: Ids of payments in the log.
        quarantine: A file for rows that break a rule; without it they are an error.

    Raises:
        DataError: For ids that are not in the log.
        ConfigError: If captum is not installed.
    """
    need_captum()
    with encoded_log(bundle.market, payments, bundle.encoder, quarantine=quarantine, progress=progress) as store:
        rows = find_rows(store, ids)
        explanations = []
        with progress("explaining", len(rows)) as advance:
            for explanation in Explainer(bundle).explain_rows(store, rows):
                explanations.append(explanation)
                advance(1)
        return explanations


def find_rows(store: EventStore, ids: Sequence[Any]) -> list[int]:
    """The rows of the payments `ids`, as spelled in the log, or in the store for pseudonyms. Raises DataError."""
    market = store.market
    spelled = pl.Series([str(id_) for id_ in ids], dtype=pl.String)
    rows = _of_any_event(store, spelled)
    lost = spelled.filter(rows.is_null()).to_list()
    if lost:
        more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        shown = " or ".join(repr(brief(id_, 40)) for id_ in lost[:SHOWN])
        raise DataError(f"the log has no payment with id {shown}{more} in the column {market.event.id}: correct the id")
    positions: list[int] = rows.to_list()
    scored = store.scored_rows()
    if ambiguous := [
        str(ids[at]) for at, row in enumerate(positions) if scored[np.searchsorted(scored, row) % len(scored)] != row
    ]:
        raise DataError(f"ids must be of events that are scored (got {brief(', '.join(ambiguous[:SHOWN]))})")
    return positions


def rows_of_ids(store: EventStore, ids: pl.Series) -> pl.Series:
    """(m,) the rows of the payments `ids` (m,), texts as spelled in the log; null for one that is not in the store, or that
    is not scored."""
    rows = _of_any_event(store, ids.str.strip_chars())
    return pl.select(pl.when(rows.is_in(pl.Series(store.scored_rows()).implode())).then(rows)).to_series()


def _of_any_event(store: EventStore, ids: pl.Series) -> pl.Series:
    """(m,) the rows of events by their ids as spelled in the log, or in the store for pseudonyms; null for others."""
    known, pseudonyms = store.ids().cast(pl.String), Pseudonymizer.of(store.market)
    rows = _places(known, ids)
    if pseudonyms is not None and store.market.event.id in pseudonyms.columns:
        rows = rows.fill_null(_places(known, pseudonyms.series(ids)))
    return rows


def _places(known: pl.Series, ids: pl.Series) -> pl.Series:
    """The position of each of `ids` among the distinct `known`; null if it is not there."""
    table = pl.DataFrame({"id": known}).with_row_index("row").filter(pl.col("id").is_in(ids.implode()))
    return pl.DataFrame({"id": ids}).join(table, on="id", how="left", maintain_order="left")["row"].cast(pl.Int64)


def write_explanations(explanations: Sequence[Explanation], out: Path) -> None:
    """Write `explanations` as JSON, atomically."""
    write_json(out, {"explanations": [explanation.to_dict() for explanation in explanations]})
