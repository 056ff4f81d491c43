"""How outcomes and times may be written, which times are refused, and payments that were declined."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.config.tables import Label
from tsa.data.log.row_sets import label as label_column
from tsa.data.online.payments import PaymentReader
from tsa.data.spelling import Spelling
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.data.values import RuleViolationError, label_of
from tsa.errors import DataError, MarketError

TABLE: dict[str, Any] = {
    "name": "outcomes",
    "event": {"id": "id", "time": "time"},
    "label": {"column": "fraud", "delay_days": 1, "as_feature": True},
    "history": [{"name": "customer", "key": "customer", "length": 4}],
    "features": {"numerical": ["amount"]},
    "split": {"fractions": [0.4, 0.2, 0.2, 0.2]},
}
N = 240


def frame(start: str = "2024-01-01", **columns: Any) -> pl.DataFrame:
    times = pl.Series([start]).str.to_datetime()[0]
    table = {
        "id": [f"e{at:04d}" for at in range(N)],
        "time": pl.datetime_range(times, times + pl.duration(hours=N - 1), "1h", eager=True),
        "customer": np.arange(N) % 5,
        "amount": np.arange(N, dtype=float),
        "fraud": (np.arange(N) % 4 == 0).astype(np.int8),
    }
    return pl.DataFrame({**table, **columns})


def stored(log: pl.DataFrame, folder: Path, **changes: Any) -> EventStore:
    log.write_parquet(folder / "log.parquet")
    return prepare(Market.from_dict({**TABLE, **changes}), folder / "log.parquet", folder / "store")


PLAIN = Label(column="x", delay_days=1)
NAMED = Label(column="x", delay_days=1, fraud=("chargeback", 3), genuine=("", "ok"))
TEXTS = [
    None,
    "",
    "1",
    "0",
    "-1",
    "1.0",
    "TRUE",
    "Yes",
    "n",
    "F",
    " no ",
    "maybe",
    "2",
    "chargeback",
    "ok",
    "3.0",
    "NULL",
]


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=8), rule=st.sampled_from([PLAIN, NAMED]))
def test_columns_and_values_are_read_alike(texts: list[str | None], rule: Label) -> None:
    spelling = Spelling(frozenset({"NULL"}))
    column = pl.DataFrame({"x": pl.Series(texts, dtype=pl.String)})
    found = column.select(label_column("x", pl.String(), rule, spelling)).to_series().to_list()
    for text, value in zip(texts, found, strict=True):
        single: int | None = None
        with contextlib.suppress(RuleViolationError):
            single = label_of(text, rule, spelling)
        blank = text is None or text.strip() in ("", "NULL")
        expected = -1 if value is None and blank else int(value) if value in (0.0, 1.0, -1.0) else None
        assert single == expected, text


def test_named_outcomes(tmp_path: Path) -> None:
    log = frame(fraud=[("chargeback", "ok", None)[at % 3] for at in range(N)])
    label = {**TABLE["label"], "fraud": ["chargeback"], "genuine": ["ok", ""]}
    store = stored(log, tmp_path, label=label)
    assert store.label[:6].tolist() == [1, 0, 0, 1, 0, 0]
    reader = PaymentReader(store.market, store.encoder)
    assert reader.read_all(log.head(6).to_dicts(), outcomes=True).label.tolist() == store.label[:6].tolist()
    wrong = log.with_columns(fraud=pl.when(pl.col("id") == "e0007").then(pl.lit("?")).otherwise("fraud"))
    with pytest.raises(
        DataError, match=r"bad_label:fraud: must be one of label\.fraud and label\.genuine: 'chargeback'"
    ):
        stored(wrong, tmp_path, label=label)


@pytest.mark.parametrize(("yes", "no"), [(True, False), ("yes", "no"), ("Y", "N"), ("TRUE", "false"), (1.0, 0.0)])
def test_spellings_of_outcomes(tmp_path: Path, yes: Any, no: Any) -> None:
    store = stored(frame(fraud=[yes if at % 4 == 0 else no for at in range(N)]), tmp_path)
    assert store.label.tolist() == [int(at % 4 == 0) for at in range(N)]


def test_a_log_of_1950(tmp_path: Path) -> None:
    log = frame("1950-02-27")
    with pytest.raises(DataError, match="absurd_time:time: must be from 1990 to ten years from now"):
        stored(log, tmp_path)
    event = {**TABLE["event"], "earliest": "1900-01-01", "latest": "1960-01-01"}
    store = stored(log, tmp_path, event=event, features={**TABLE["features"], "calendar": ["hour_of_day", "month"]})
    reader = PaymentReader(store.market, store.encoder)
    single = reader.read_all(log.tail(30).to_dicts())
    np.testing.assert_array_equal(single.categorical, store.categorical[-30:])
    np.testing.assert_array_equal(single.time_seconds, store.time_seconds[-30:])
    late = reader.read([{**log.to_dicts()[0], "time": "1961-01-01"}]).problems[0]
    assert (late.rule, late.expectation) == ("absurd_time", "must be from 1900-01-01 to 1960-01-01")
    with pytest.raises(MarketError, match="earliest must be before latest"):
        Market.from_dict({**TABLE, "event": {**event, "latest": "1900-01-01"}})


def test_declined_payments_have_no_outcome(tmp_path: Path) -> None:
    log = frame(decision=[("accept", "decline", None)[at % 3] for at in range(N)])
    label = {**TABLE["label"], "decision": {"column": "decision", "values": ["decline"]}}
    store = stored(log, tmp_path, label=label)
    declined = np.arange(N) % 3 == 1
    assert (store.label[declined] == -1).all()
    assert (store.label[~declined] >= 0).all()
    assert store.data_report["roles"]["declined"] == declined.sum()
    assert not declined[store.labelled("train")].any()
    assert len(store.split_rows("train")) > len(store.labelled("train")), "scored and in histories all the same"
    assert set(np.asarray(store.histories["customer"].order)) == set(range(N))
    reader = PaymentReader(store.market, store.encoder)
    assert reader.read_all(log.head(9).to_dicts(), outcomes=True).label.tolist() == store.label[:9].tolist()
    assert reader.read_all(log.drop("decision").head(3).to_dicts()).role.tolist() == [0, 0, 0]
    with pytest.raises(MarketError, match=r"features: must not be label\.decision"):
        Market.from_dict({**TABLE, "label": label, "features": {"categorical": ["decision"]}})


@settings(max_examples=40, deadline=None)
@given(gaps=st.lists(st.integers(1, 30), min_size=40, max_size=80), delay=st.sampled_from([0.0, 50.0]))
def test_a_split_by_rows(gaps: list[int], delay: float) -> None:
    times = np.cumsum(np.array(gaps, np.float64))
    split = Market.from_dict({**TABLE, "split": {"fractions": [0.5, 0.2, 0.1, 0.2], "by": "rows"}}).split
    try:
        ranges = split.resolve_rows(times, delay)
    except DataError:
        assert times[-1] - times[0] < delay * 4
        return
    rows = {name: np.searchsorted(times, edges) for name, edges in ranges.items()}
    count = {name: int(stop - begin) for name, (begin, stop) in rows.items()}
    usable = sum(count.values())
    for name, share in zip(("train", "validation", "calibration"), (0.5, 0.2, 0.1), strict=True):
        assert abs(count[name] - share * usable) <= 2 + delay / 2
    assert ranges["test"][0] == ranges["calibration"][1] + delay


def test_a_store_split_by_rows(tmp_path: Path) -> None:
    changes = {"split": {"fractions": [0.5, 0.2, 0.1, 0.2], "by": "rows"}, "label": {**TABLE["label"], "delay_days": 0}}
    store = stored(frame(), tmp_path, **changes)
    names = ("train", "validation", "calibration", "test")
    assert [len(store.split_rows(name)) for name in names] == [120, 48, 24, 48]
    days = ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04", "2024-01-06", "2024-01-07"]
    ranges = dict(zip(names, [days[:2], days[1:3], days[2:4], days[4:]], strict=True))
    with pytest.raises(MarketError, match='by = "rows" needs fractions'):
        Market.from_dict({**TABLE, "split": {**ranges, "by": "rows"}})
