"""The entries of a log of decisions, and the columns of its tables.

Three tables: the answers (`decisions`), the outcomes reported later (`outcomes`) and the reasons given (`reasons`). An entry
is one line of JSON in a journal, and later one row of a Parquet file. Ids and keys are pseudonyms where the market says so.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
import polars as pl

from tsa.serving.results import PaymentDetails, ScoreResult

if TYPE_CHECKING:  # it imports PyTorch, which the commands that only read settings need not wait for
    from tsa.bundle.bundle import Bundle

DECISIONS, OUTCOMES, REASONS = "decisions", "outcomes", "reasons"
MOMENT = pl.Datetime("us", "UTC")
_KEY = pl.List(pl.Struct({"history": pl.String, "key": pl.String}))

TABLES: Mapping[str, Mapping[str, Any]] = {
    DECISIONS: {
        "at": MOMENT,
        "id": pl.String,
        "time": MOMENT,
        "market": pl.String,
        "version": pl.String,
        "arm": pl.String,
        "raw_score": pl.Float64,
        "percentile": pl.Float64,
        "probability": pl.Float64,
        "decision": pl.String,
        "thresholds": pl.String,
        "degraded": pl.Boolean,
        "replayed": pl.Boolean,
        "role": pl.Int8,
        "keys": _KEY,
        "values": pl.String,
        "histories": pl.String,
    },
    OUTCOMES: {"at": MOMENT, "id": pl.String, "fraud": pl.Boolean, "known_at": MOMENT, "by": pl.String},
    REASONS: {"at": MOMENT, "id": pl.String, "version": pl.String, "reasons": pl.String},
}
"""By table: its columns. `values`, `histories` and `reasons` are JSON texts."""
TIMES = ("at", "time", "known_at")
_LINE_TYPES = {MOMENT: pl.Float64, pl.Int8: pl.Int64}
LINE: Mapping[str, Any] = {
    "table": pl.String,
    **{name: _LINE_TYPES.get(kind, kind) for table in TABLES.values() for name, kind in table.items()},
}
"""The fields of a line in a journal: those of all tables; times are epoch seconds."""


def decision_entry(result: ScoreResult, market: str, thresholds: str | None) -> dict[str, Any]:
    """The entry of an answer.

    Args:
        result: With details.
        market: Name of the market.
        thresholds: `threshold_set` of the bundle that answered; None if that is not known.
    """
    details = result.details
    assert details is not None
    return {
        "table": DECISIONS,
        "at": time.time(),
        "id": details.id,
        "time": details.time_seconds,
        "market": market,
        **result.stored_fields(),
        "thresholds": thresholds,
        "degraded": result.degraded,
        "replayed": result.replayed,
        "role": details.role,
        "keys": [{"history": history, "key": key} for history, key in details.keys],
        "values": _json(details.values),
        "histories": None if details.histories is None else _json(details.histories),
    }


def outcome_entry(id_: str, fraud: bool, known_at: float, by: str | None) -> dict[str, Any]:
    """The entry of an outcome. by: who reported it."""
    return {"table": OUTCOMES, "at": time.time(), "id": id_, "fraud": fraud, "known_at": known_at, "by": by}


def reasons_entry(details: PaymentDetails, version: str, reasons: Sequence[Any]) -> dict[str, Any]:
    """The entry of the reasons given with an answer of the bundle `version`."""
    return {"table": REASONS, "at": time.time(), "id": details.id, "version": version, "reasons": _json(reasons)}


def line_of(entry: Mapping[str, Any]) -> bytes:
    """An entry as a line of a journal."""
    return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)


def threshold_set(bundle: Bundle) -> str | None:
    """A name for the bundle's thresholds: the first 12 hex digits of a sha256 of them; None if it has none."""
    if bundle.thresholds is None:
        return None
    text = orjson.dumps(bundle.thresholds.to_dict(), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:12]


def _json(value: object) -> str:
    return orjson.dumps(value, default=str).decode()
