"""Small wire rows for tests: a market of three histories' worth of rules in two, and rows that keep them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.history import HistoryArrays, gather
from tsa.data.log.reader import TIME
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.data.wire import Requests, WireReader

NOW = 1_700_000_000
FIELDS = ("categorical", "numerical", "age_seconds", "padding", "outcome")
"""Arrays of a history that rows and requests must agree on."""
CATEGORICAL, NUMERICAL, ENGINEERED = ("device", "hour"), ("amount", "items"), ("orders",)
TABLE: dict[str, Any] = {
    "name": "small",
    "event": {"id": "id", "time": "at", "time_unit": "s", "amount": "amount"},
    "label": {"column": "fraud", "delay_days": 0},
    "history": [{"name": "cid", "key": "customer", "length": 5}],
    "features": {
        "categorical": [{"name": "device", "min_count": 1}, {"name": "hour", "min_count": 1}],
        "numerical": [{"name": "amount", "scale": "minmax"}, {"name": "items", "transform": "signed_log1p"}],
        "engineered": [{"name": "orders", "transform": "log1p"}],
    },
    "wire": {"separator": "~", "missing": ["", "My Text String"], "numeric_categorical": ["hour"]},
}
TWO = [{"name": "cid", "key": "customer", "length": 5}, {"name": "ccid", "length": 4}]
TWO_FIELDS = {"history_field": "{history}.{feature}", "event_field": "{history}.{part}.{feature}"}


def market(wire: dict[str, Any] | None = None, **changes: Any) -> Market:
    """The small market; `wire` is merged into its wire table, `changes` replace tables."""
    return Market.from_dict({**TABLE, "wire": {**TABLE["wire"], **(wire or {})}, **changes})


def encoder(of: Market) -> Encoder:
    """Fitted on four payments: devices phone and tablet, hours 3 and 12."""
    frame = {
        "device": ["phone", "tablet", "phone", None],
        "hour": ["3", "12", None, "3"],
        "amount": [0.0, 10.0, 100.0, None],
        "items": [1.0, 2.0, 3.0, 4.0],
        "orders": [0.0, 1.0, None, 7.0],
        TIME: [float(NOW)] * 4,
    }
    return Encoder.fit(of, pl.DataFrame(frame))


Past = Sequence[tuple[str, int, str, str, str, str]]
"""(id, seconds ago, device, hour, amount, items), oldest first."""

PAST: Past = (("a", 300, "phone", "3.0", "1.5", "2"), ("b", 200, "tablet", "12", "", "3"), ("c", 100, "", "4", "7", ""))


def told(past: Past, separator: str = "~", now: int = NOW, numerical: Past | None = None) -> dict[str, str]:
    """The history fields of a row; `numerical` where that part tells of other payments."""
    fields: dict[str, str] = {}
    for part, events in (("cat", past), ("num", past if numerical is None else numerical)):
        fields[f"hist.{part}.at"] = separator.join(str(now - event[1]) for event in events)
        fields[f"hist.{part}.id"] = separator.join(event[0] for event in events)
        for place, name in ((2, "device"), (3, "hour")) if part == "cat" else ((4, "amount"), (5, "items")):
            fields[f"hist.{name}"] = separator.join(str(event[place]) for event in events)
    return fields


def row(past: Past = PAST, **changes: Any) -> dict[str, Any]:
    """A row of the small market; None takes a field away."""
    own = {"id": "p1", "at": str(NOW), "fraud": "0", "customer": "ann", "device": "phone", "hour": "3"}
    own |= {"amount": "5", "items": "1", "orders": "2"}
    found = {**own, **told(past), **changes}
    return {name: value for name, value in found.items() if value is not None}


def write(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def stored(of: Market, rows: Sequence[dict[str, Any]], folder: Path, **settings: Any) -> EventStore:
    """The store of rows, encoded with the small encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    log = write(rows, folder / "rows.jsonl")
    return prepare(of, log, folder / "store", encoder=encoder(of), **settings)


def gathered(store: EventStore, history: str = "cid") -> HistoryArrays:
    """The histories of all payments of a store."""
    import numpy as np

    length = next(key.length for key in store.market.history if key.name == history)
    return gather(store.events, store.histories[history], np.arange(len(store)), length)


def single(of: Market, payload: Any) -> Requests:
    return WireReader(of, encoder(of)).read(payload)
