"""Rules that hold for a row alone hold for it everywhere: in a log that is prepared or scored, in quarantine, and single."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.data.log.quarantine import Quarantine
from tsa.data.online.payments import PaymentReader
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError

START = datetime(2025, 1, 1)
N = 200
TABLE: dict[str, Any] = {
    "name": "rows",
    "event": {"id": "id", "time": "time", "amount": "amount"},
    "label": {"column": "fraud", "known_at": "known", "as_feature": True},
    "history": [{"name": "customer", "key": "customer", "length": 4}],
    "features": {
        "categorical": [{"name": "channel", "min_count": 1}],
        "numerical": [{"name": "amount", "transform": "log1p"}],
        "engineered": [{"name": "age", "transform": "log1p", "scale": "minmax"}],
    },
    "split": {"fractions": [0.5, 0.2, 0.1, 0.2]},
}
LAST = TABLE | {"input": {"duplicates": "last"}}


def payments(n: int = N) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "id": f"p{row}",
            "time": (START + timedelta(hours=row)).isoformat(),
            "customer": f"c{row % 7}",
            "channel": ("web", "pos")[row % 2],
            "amount": float(rng.lognormal(3)),
            "age": float(row % 50),
            "fraud": int(row % 5 == 0),
            "known": (START + timedelta(hours=row + 1)).isoformat(),
        }
        for row in range(n)
    ]


def stored(
    rows: list[dict[str, Any]], folder: Path, table: dict[str, Any] | None = None, **settings: Any
) -> EventStore:
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / "log.parquet")
    return prepare(Market.from_dict(table or TABLE), folder / "log.parquet", folder / "store", **settings)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return stored(payments(), tmp_path_factory.mktemp("sound"))


SPOILED = [
    ("amount", -1.0, "out_of_range"),
    ("amount", -20.0, "out_of_range"),
    ("age", -1e300, "out_of_range"),
    ("known", "2024-12-31T23:59:59Z", "known_too_early"),
    ("known", "2024-12-31", "known_too_early"),
    ("amount", 1e39, "out_of_range"),
    ("amount", float("inf"), "infinite"),
    ("fraud", 2, "bad_label"),
]


@pytest.mark.parametrize("encoded", [False, True], ids=["prepare", "score"])
@pytest.mark.parametrize(("column", "value", "rule"), SPOILED)
def test_one_row_is_refused_by_the_same_rule_everywhere(
    encoded: bool, column: str, value: Any, rule: str, store: EventStore, tmp_path: Path
) -> None:
    """And the other rows are kept."""
    rows = payments()
    rows[90] = {**rows[90], column: value}
    given = {"encoder": store.encoder} if encoded else {}
    with pytest.raises(DataError, match=f"{rule}:{column}: .*id p90") as refused:
        stored(rows, tmp_path, **given)
    kept = stored(rows, tmp_path, quarantine=tmp_path / "bad.parquet", **given)
    assert len(kept) == N - 1
    bad = pl.read_parquet(tmp_path / "bad.parquet")
    assert (bad["id"].to_list(), bad["__reason"].to_list()) == (["p90"], [f"{rule}:{column}"])
    found = PaymentReader(Market.from_dict(TABLE), store.encoder).read([rows[90], rows[91]], outcomes=True)
    assert (found.problems[0].rule, found.problems[0].field) == (rule, column)
    assert f": {found.problems[0].expectation}: 1 rows" in str(refused.value), "in the same words"
    assert found.positions == (1,)


@pytest.mark.parametrize("amount", [-0.999, 0.0, 1e38, None])
def test_numbers_that_can_be_scaled_are_kept(amount: float | None, store: EventStore, tmp_path: Path) -> None:
    rows = payments()
    rows[90] = {**rows[90], "amount": amount}
    assert len(stored(rows, tmp_path)) == N
    assert not PaymentReader(Market.from_dict(TABLE), store.encoder).read([rows[90]]).problems


def test_a_date_without_time_is_the_end_of_that_day(store: EventStore, tmp_path: Path) -> None:
    """In texts and in columns of dates: an outcome of the same day is known once the day is over, and no sooner."""
    rows = payments()
    end = (START + timedelta(days=1)).replace(tzinfo=UTC).timestamp()
    rows[5] = {**rows[5], "known": "2025-01-01"}
    as_text = stored(rows, tmp_path)
    dates = pl.DataFrame(payments()).with_columns(known=pl.col("time").str.to_datetime().dt.date())
    dates.write_parquet(tmp_path / "dates.parquet")
    as_dates = prepare(Market.from_dict(TABLE), tmp_path / "dates.parquet", tmp_path / "other")
    reader = PaymentReader(Market.from_dict(TABLE), store.encoder)
    single = reader.read([rows[5]], outcomes=True).payments.known_at_seconds[0]
    assert as_text.known_at_seconds[5] == as_dates.known_at_seconds[5] == single == end


# duplicates


def again(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**row, **changes}


def test_the_last_word_on_a_payment_counts_where_the_market_says_so(tmp_path: Path) -> None:
    rows = payments()
    first = [again(row, fraud=0) for row in rows]
    updates = [again(row, known="2025-06-01") for row in rows if row["fraud"]]
    told = stored([*first, *updates, rows[7]], tmp_path, LAST)
    assert len(told) == N
    assert told.label.tolist() == [row["fraud"] for row in rows]
    assert told.data_report["rows_replaced"] == len(updates) + 1
    assert (told.known_at_seconds[::5] > told.known_at_seconds[-1]).all(), "and when it is known"


def test_without_it_equal_ids_are_refused_and_how_they_differ_is_said(tmp_path: Path) -> None:
    rows = payments()
    more = [rows[1], again(rows[2], fraud=1), again(rows[3], known=None), again(rows[4], amount=1.0, age=2.0)]
    with pytest.raises(DataError) as refused:
        stored([*rows, *more], tmp_path)
    text = "4 ids occur more than once (identical rows: 1; only the outcome differs: 2; other columns differ: 1, amount, age)"
    assert text in str(refused.value)
    assert 'duplicates = "last"' in str(refused.value)


@pytest.mark.parametrize("table", [TABLE, LAST])
def test_quarantine_keeps_no_row_whose_outcome_is_in_doubt(table: dict[str, Any], tmp_path: Path) -> None:
    """Two outcomes, or an unreadable newer one: both rows go. Of rows that are alike, or no update at all, one stays."""
    rows = payments()
    more = [again(rows[2], fraud=9), again(rows[3], fraud=1), again(rows[4], amount=1.0), rows[6]]
    kept = stored([*rows, *more], tmp_path, table, quarantine=Quarantine(tmp_path / "bad.parquet", limit=0.1))
    bad = pl.read_parquet(tmp_path / "bad.parquet")
    ids = set(kept.ids())
    assert "p2" not in ids, "nobody can read its newer word"
    assert ("p3" in ids) == (table is LAST)
    assert {"p4", "p6"} <= ids
    assert len(kept) + len(bad) + kept.data_report["rows_replaced"] == N + 4
    if table is LAST:
        assert kept.label[kept.ids().to_list().index("p3")] == 1


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_updates_in_any_order_leave_the_last_of_each(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = payments(60)
    told = [
        (at, data.draw(st.sampled_from([0, 1, None, -1])))
        for at in data.draw(st.lists(st.integers(0, 59), max_size=30))
    ]
    log = [*rows, *(again(rows[at], fraud=fraud) for at, fraud in told)]
    wanted = {row["id"]: row["fraud"] for row in log}
    made = stored(log, tmp_path_factory.mktemp("updates"), LAST)
    assert dict(zip(made.ids(), made.label.tolist(), strict=True)) == {
        id_: -1 if fraud is None else fraud for id_, fraud in wanted.items()
    }


# quarantine


def test_quarantine_says_what_it_sets_aside(tsa: Callable[..., Any], store: EventStore, tmp_path: Path) -> None:
    rows = payments()
    for at in (10, 11, 15):
        rows[at]["amount"] = -5.0
    rows[15]["age"] = -5.0
    (tmp_path / "m.json").write_text("")
    market = tmp_path / "market.toml"
    market.write_text(MARKET_TEXT)
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    bad, log = tmp_path / "bad.parquet", tmp_path / "log.parquet"
    made = tsa("prepare", "-m", market, log, "--out", tmp_path / "store", "--quarantine", bad)
    assert made.code == 0, made.err
    assert f"note: 3 of 200 rows (1.50%), 2 of 40 frauds break a rule and go to {bad}" in made.err
    assert "out_of_range:amount: 3 rows, 2 of them fraud" in made.err
    assert "out_of_range:age: 1 rows, 1 of them fraud" in made.err
    report = EventStore.open(tmp_path / "store").data_report
    assert (report["rows_quarantined"], report["frauds_quarantined"]) == (3, 2)
    assert report["frauds_by_rule"] == {"out_of_range:amount": 2, "out_of_range:age": 1}


def test_quarantine_takes_no_more_than_its_share(tsa: Callable[..., Any], tmp_path: Path) -> None:
    rows = payments()
    for at in range(11):
        rows[at]["amount"] = -5.0
    market, bad, log = tmp_path / "market.toml", tmp_path / "bad.parquet", tmp_path / "log.parquet"
    market.write_text(MARKET_TEXT)
    pl.DataFrame(rows).write_parquet(log)
    asked = ("prepare", "-m", market, log, "--out", tmp_path / "store", "--quarantine", bad)
    made = tsa(*asked)
    assert made.code == 2
    assert "11 of 200 rows break a rule (5.50%, 3 of 40 frauds among them)" in made.err
    assert "--quarantine-limit 0.06" in made.err
    assert "out_of_range:amount" in made.err
    assert not bad.exists()
    assert not (tmp_path / "store").exists()
    assert tsa(*asked, "--quarantine-limit", "0.06").code == 0
    assert len(pl.read_parquet(bad)) == 11
    for limit in ("-0.1", "1.5", "nan"):
        assert "share from 0 to 1" in tsa(*asked, "--quarantine-limit", limit).err
    assert "--quarantine-limit needs --quarantine" in tsa(*asked[:-2], "--quarantine-limit", "0.5").err


def test_a_limit_is_a_share(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    with pytest.raises(ConfigError, match="share from 0 to 1"):
        Quarantine(path, limit=5)
    assert Quarantine.of(path) == Quarantine(path, limit=0.05)
    assert Quarantine.of(None) is None


MARKET_TEXT = """name = "rows"
event = { id = "id", time = "time", amount = "amount" }
label = { column = "fraud", known_at = "known" }
history = [{ name = "customer", key = "customer" }]
[features]
categorical = [{ name = "channel", min_count = 1 }]
numerical = [{ name = "amount", transform = "log1p" }]
engineered = [{ name = "age", transform = "log1p" }]
[split]
fractions = [0.5, 0.2, 0.1, 0.2]
"""
