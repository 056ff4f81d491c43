"""Score rows, given as dicts. A row that gets no score does not affect the others, if the caller asks for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.bundle.bundle import Bundle
from tsa.data.clean_columns import HISTORY_ONLY
from tsa.data.online.encoded import EncodedPayments
from tsa.data.online.histories import HistoryEvents, Key
from tsa.data.online.payments import PaymentReader
from tsa.data.wire import Requests, WireReader
from tsa.data.wire.row_errors import BrokenRowError
from tsa.errors import ConfigError, DataError
from tsa.inference.score_parts import ModelParts
from tsa.text import truncate_repr

Past = Mapping[Key, HistoryEvents] | Callable[[EncodedPayments], Mapping[Key, HistoryEvents]]
"""Earlier events of the keys of payments, or a function that returns them."""

OnError = Literal["raise", "null"]
"""What happens to a row that gets no score: an error for all rows, or nulls and a reason in its place."""

ERROR, PLACE = "error", "__place"
MAX_ID = 100
"""Largest number of digits of a number shown as the id of a row that cannot be read."""
NO_SCORE = "payment must get a number as score (rule no_score)"
NOT_SCORED = "payment is not scored, as event.scored says (it can be in the history of others)"

Rows = Sequence[Mapping[str, Any]]
Parts = list[tuple[list[int], Requests]]
"""Encoded rows, with their positions among all rows."""


class RowScorer(Protocol):
    """What `Scorer` offers for rows."""

    bundle: Bundle

    @property
    def model(self) -> ModelParts:
        """The parts of the bundle's model."""

    @property
    def reader(self) -> PaymentReader:
        """Reads single payments."""

    @property
    def wire_reader(self) -> WireReader:
        """Reads rows with inline history."""

    def requests(self, payments: EncodedPayments, histories: Past | None = None) -> Requests:
        """Encoded payments with their histories."""

    def score_requests(self, requests: Requests) -> dict[str, NDArray[Any]]:
        """The columns of scores."""

    def with_calibration(self, scores: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The columns of scores, from raw scores."""


def score_rows(scorer: RowScorer, rows: Rows, histories: Past | None, on_error: OnError) -> pl.DataFrame:
    """The result of `Scorer.score` for rows.

    Raises:
        DataError: Names a row that gets no score, if `on_error` is "raise"; or histories that must not be given.
        ConfigError: For another `on_error`.
    """
    if on_error not in get_args(OnError):
        raise ConfigError(f"on_error must be one of {', '.join(get_args(OnError))} (got {on_error!r})")
    if scorer.bundle.market.wire is not None and histories is not None:
        raise DataError("histories must not be given: rows of this market contain their histories")
    if on_error == "raise":
        return _all_or_none(scorer, rows, histories)
    parts, problems = _encoded(scorer, rows, histories)
    scored = [_scored(scorer, places, requests) for places, requests in parts if places]
    no_scores = pl.DataFrame({PLACE: pl.Series([], dtype=pl.Int64), **scorer.with_calibration(np.empty(0, np.float32))})
    scores = pl.concat([no_scores, *scored]).filter(~pl.col(PLACE).is_in(list(problems)))
    own, lost = set(scores[PLACE]), dict.fromkeys(range(len(rows)), NO_SCORE) | problems
    frame = pl.DataFrame(
        {
            PLACE: pl.Series(range(len(rows)), dtype=pl.Int64),
            "id": pl.Series(_ids(scorer, rows, parts), dtype=pl.String),
            ERROR: pl.Series([None if at in own else lost[at] for at in range(len(rows))], dtype=pl.String),
        }
    )
    joined = frame.join(scores, on=PLACE, how="left", maintain_order="left")
    return joined.select("id", *no_scores.drop(PLACE).columns, ERROR)


def _all_or_none(scorer: RowScorer, rows: Rows, histories: Past | None) -> pl.DataFrame:
    if not rows:
        return pl.DataFrame({"id": pl.Series([], dtype=pl.String), **scorer.with_calibration(np.empty(0, np.float32))})
    if scorer.bundle.market.wire is not None:
        payments, requests = None, scorer.wire_reader.read(rows)
    else:
        payments = scorer.reader.read_all(rows)
        requests = scorer.requests(payments, histories)
    ids = pl.Series([id_ or None for id_ in requests.ids], dtype=pl.String)
    scores = pl.DataFrame({"id": ids, **scorer.score_requests(requests)})
    if payments is None or not scorer.bundle.market.role_rules:
        return scores
    is_scored = pl.Series(payments.role != HISTORY_ONLY)
    return scores.select("id", pl.when(is_scored).then(pl.exclude("id")).name.keep())


def _encoded(scorer: RowScorer, rows: Rows, histories: Past | None) -> tuple[Parts, dict[int, str]]:
    """The rows that can be encoded, and by position what is wrong with the others."""
    if scorer.bundle.market.wire is not None:
        return _wire_parts(scorer, rows, list(range(len(rows))))
    parsed = scorer.reader.read(rows)
    parts = [(list(parsed.positions), scorer.requests(parsed.payments, histories))] if parsed.positions else []
    not_scored = {
        place: NOT_SCORED
        for place, role in zip(parsed.positions, parsed.payments.role.tolist(), strict=True)
        if role == HISTORY_ONLY
    }
    return parts, {place: str(problem) for place, problem in parsed.problems.items()} | not_scored


def _wire_parts(scorer: RowScorer, rows: Rows, places: list[int]) -> tuple[Parts, dict[int, str]]:
    """Read rows with inline history at `places`; halve them where a row cannot be read, until it is alone."""
    if not places:
        return [], {}
    try:
        return [(places, scorer.wire_reader.read([rows[at] for at in places]))], {}
    except DataError as error:
        if len(places) == 1:
            return [], {places[0]: str(error.problem if isinstance(error, BrokenRowError) else error)}
    half = len(places) // 2
    (one, wrong), (other, more) = (_wire_parts(scorer, rows, part) for part in (places[:half], places[half:]))
    return [*one, *other], wrong | more


def _scored(scorer: RowScorer, places: list[int], requests: Requests) -> pl.DataFrame:
    """The finite scores, with their positions."""
    raw = scorer.model.of_requests(requests)
    valid = np.isfinite(raw)
    return pl.DataFrame({PLACE: np.array(places, np.int64)[valid], **scorer.with_calibration(raw[valid])})


def _ids(scorer: RowScorer, rows: Rows, parts: Parts) -> list[str | None]:
    """The ids of all rows. Of a row that cannot be read, the id as given, unless the market uses pseudonyms for it."""
    market, ids = scorer.bundle.market, dict[int, str | None]()
    is_open = market.privacy is None or market.event.id not in market.privacy.pseudonymise
    for at, row in enumerate(rows):
        given = row.get(market.event.id) if is_open and isinstance(row, Mapping) else None
        text = truncate_repr(given, MAX_ID) if isinstance(given, int) else given if isinstance(given, str) else ""
        ids[at] = text.encode(errors="replace").decode() or None
    for places, requests in parts:
        ids |= dict(zip(places, (id_ or None for id_ in requests.ids), strict=True))
    return [ids[at] for at in range(len(rows))]
