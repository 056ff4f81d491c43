"""What trees read of a payment: the same bits from files of rows that carry their own history and from requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.wire_rows import NOW, TWO, TWO_FIELDS, encoder, market, row, stored, told
from tsa.config.market import Market
from tsa.data.aggregates.spec import AggregateSpec
from tsa.data.store.store import EventStore
from tsa.data.tree_columns import TreeColumns
from tsa.data.wire import WireReader
from tsa.errors import StoreError

MARKETS = {
    "one history": market(),
    "two histories, in any order": market(wire=TWO_FIELDS, history=TWO),
    "later payments": market(wire={"rules": "legacy"}, history=[{"name": "cid", "key": "customer", "length": 9}]),
    "ages to a limit": market(privacy={"retention_days": 1}),
}


def random_row(of: Market, rng: np.random.Generator, at: int) -> dict[str, Any]:
    """A row with up to seven earlier payments per history: missing values, equal times, in any order."""
    assert of.wire is not None
    made = row(id=f"p{at}", fraud=str(at % 2), **_values(rng))
    made = {name: value for name, value in made.items() if not name.startswith("hist.")}
    ages = [0, 5, 5, 3600, 90_000, 400_000, *([-50, -7000] if of.wire.legacy else [])]
    for history in of.history:
        n = int(rng.integers(0, 8))
        ids = rng.permutation(20)[:n]
        past = [(f"x{i}", int(rng.choice(ages)), *_event(rng)) for i in ids]
        fields = told(past)
        prefix = "hist" if len(of.history) == 1 else history.name
        made |= {name.replace("hist", prefix, 1): value for name, value in fields.items()}
    return made


def _event(rng: np.random.Generator) -> tuple[str, str, str, str]:
    values = _values(rng)
    return values["device"], values["hour"], values["amount"], values["items"]


def _values(rng: np.random.Generator) -> dict[str, str]:
    number = f"{rng.normal() * 10.0 ** int(rng.integers(-3, 6)):.7g}"
    return {
        "device": str(rng.choice(["phone", "tablet", "other", ""])),
        "hour": str(rng.choice(["3", "3.0", "12", "7", ""])),
        "amount": str(rng.choice([number, "5", "", "0.1"])),
        "items": str(rng.choice([f"{rng.integers(0, 10**6)}", "", "2"])),
        "orders": str(rng.choice(["2", "", "0"])),
    }


@pytest.mark.parametrize("name", MARKETS)
def test_a_request_gives_the_bits_of_the_file(name: str, tmp_path: Path) -> None:
    of, rng = MARKETS[name], np.random.default_rng(7)
    rows = [random_row(of, rng, at) for at in range(80)]
    rng.shuffle(rows)
    store = stored(of, rows, tmp_path)
    columns = TreeColumns.of(store, np.arange(len(store)))
    wanted = columns.of_store(store, np.arange(len(store)))
    reader, ids = WireReader(of, encoder(of)), store.columns(["id"])["id"].to_list()
    by_id = {one["id"]: one for one in rows}
    single = [reader.read([by_id[one]]) for one in ids]
    together = reader.read([by_id[one] for one in ids])
    found = np.concatenate([columns.of_payments(one.seen, one.engineered) for one in single])
    assert np.isfinite(wanted).any(axis=0).mean() > 0.5
    assert found.tobytes() == wanted.tobytes()
    assert columns.of_payments(together.seen, together.engineered).tobytes() == wanted.tobytes()


def test_columns_are_those_of_the_market(tmp_path: Path) -> None:
    store: EventStore = stored(market(), [row(id=f"p{at}", at=str(NOW + at)) for at in range(3)], tmp_path)
    columns = TreeColumns.of(store, np.arange(3))
    assert TreeColumns.from_dict(columns.to_dict()) == columns
    columns.check(store.market, store.encoder)
    assert isinstance(columns.aggregates, AggregateSpec)
    assert columns.names[: len(columns.own)] == columns.own
    assert [columns.names[at] for at in columns.codes] == ["device", "hour"]
    with pytest.raises(StoreError, match="must be those of market"):
        columns.check(market(history=TWO, wire=TWO_FIELDS), store.encoder)
