"""Events that are not scored, and rows that only ask: in the store, its histories, ranges and counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.data.history import HistoryIndex, apply_retention, index_histories, without_asking
from tsa.data.online.payments import PaymentReader
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import DataError, MarketError

TABLE: dict[str, Any] = {
    "name": "roles",
    "event": {
        "id": "id",
        "time": "time",
        "time_unit": "s",
        "scored": "is_payment",
        "asks": {"column": "kind", "values": ["question"]},
    },
    "label": {"column": "fraud", "delay_days": 0, "as_feature": True},
    "history": [{"name": "customer", "key": "customer", "length": 4}],
    "features": {"categorical": [{"name": "kind", "min_count": 1}], "numerical": ["amount"]},
    "split": {"fractions": [0.4, 0.2, 0.2, 0.2]},
}
KINDS = ("payment", "login", "question")
START = 1_700_000_000


def frame(n: int, seed: int = 0, **columns: Any) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    kind = rng.choice(KINDS, n)
    table = {
        "id": [f"e{at:04d}" for at in range(n)],
        "time": START + 600 * np.arange(n),
        "kind": kind,
        "is_payment": kind == "payment",
        "customer": rng.integers(0, 5, n),
        "amount": rng.normal(size=n),
        "fraud": (rng.random(n) < 0.3).astype(np.int8),
    }
    return pl.DataFrame({**table, **columns})


def stored(log: pl.DataFrame, folder: Path, **settings_: Any) -> EventStore:
    log.write_parquet(folder / "log.parquet")
    return prepare(Market.from_dict(TABLE), folder / "log.parquet", folder / "store", **settings_)


def test_histories_hold_what_they_should(tmp_path: Path) -> None:
    log = frame(200)
    store = stored(log, tmp_path)
    kinds, customers = store.columns(["kind", "customer"]).get_columns()
    index = store.histories["customer"]
    for row in range(len(store)):
        seen = np.asarray(index.order[max(index.start[row], index.position[row] - 3) : index.position[row] + 1])
        earlier = [at for at in range(row) if customers[at] == customers[row] and kinds[at] != "question"]
        assert seen.tolist() == [*earlier[-3:], row]
    reopened = EventStore.open(store.path)
    np.testing.assert_array_equal(reopened.histories["customer"].order, index.order)


def test_only_scored_events_are_counted(tmp_path: Path) -> None:
    store = stored(frame(200), tmp_path)
    kinds = store.columns(["kind"])["kind"].to_numpy()
    assert store.scored_rows().tolist() == np.flatnonzero(kinds != "login").tolist()
    for name in ("train", "validation", "calibration", "test"):
        rows = store.split_rows(name)
        assert len(rows) == len(store.labels(name))
        assert not (kinds[rows] == "login").any()
        assert set(store.labelled(name)) <= set(rows)
    assert store.data_report["roles"] == {
        name: int((kinds == kind).sum())
        for name, kind in zip(("payments", "not_scored", "only_ask"), KINDS, strict=True)
    } | {"declined": 0}


def test_a_range_needs_scored_events(tmp_path: Path) -> None:
    log = frame(100).with_columns(is_payment=pl.int_range(100) < 50, kind=pl.lit("x"))
    with pytest.raises(DataError, match=r"split\.(calibration|test) must hold payments"):
        stored(log, tmp_path)


@pytest.mark.parametrize("value", [None, 2, "maybe"])
def test_a_value_that_is_no_boolean_is_refused(tmp_path: Path, value: Any) -> None:
    log = frame(60).with_columns(is_payment=pl.col("is_payment").cast(pl.String))
    store = stored(log, tmp_path)
    bad = log.with_columns(
        is_payment=pl.when(pl.col("id") == "e0007").then(pl.lit(value, pl.String)).otherwise("is_payment")
    )
    with pytest.raises(DataError, match="not_a_boolean:is_payment: must be true or false: 1 rows"):
        stored(bad, tmp_path)
    parsed = PaymentReader(store.market, store.encoder).read(
        [row for row in bad.head(9).to_dicts() if row["kind"] != "question"]
    )
    asks = bad["kind"][7] == "question"
    assert [problem.rule for problem in parsed.problems.values()] == ([] if asks else ["not_a_boolean"])


def test_market_files_are_checked() -> None:
    with pytest.raises(MarketError, match="the outcome would leak"):
        Market.from_dict({**TABLE, "event": {**TABLE["event"], "scored": "fraud"}})
    plain = {**TABLE, "event": {"id": "id", "time": "time"}}
    assert set(Market.from_dict(plain).to_dict()["event"]) == {"id", "time"}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 30), length=st.integers(2, 5), keep=st.sampled_from([3.5, 1e9]))
def test_without_asking(data: st.DataObject, n: int, length: int, keep: float) -> None:
    """The histories are those of a log that never had the other questions."""
    keys = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n)))
    asks = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    times = np.sort(np.array(data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)), np.float64))
    index = without_asking(apply_retention(index_histories(keys), times, keep), asks, length)
    for row in range(n):
        left = np.flatnonzero(~asks | (np.arange(n) == row))
        own = apply_retention(index_histories(keys[left]), times[left], keep)
        expected = left[seen(own, int(np.flatnonzero(left == row)[0]), length)]
        assert seen(index, row, length).tolist() == expected.tolist()


def seen(index: HistoryIndex, row: int, length: int) -> np.ndarray[Any, Any]:
    position = index.position[row]
    return np.asarray(index.order[max(index.start[row], position - length + 1) : position + 1])
