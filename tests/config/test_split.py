"""Relative ranges: dates counted from the end of the log, and texts that are refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.easy_log import MARKET
from tsa.config.market import SPLITS, Market
from tsa.config.split import Split
from tsa.data.store.append import append
from tsa.data.store.prepare import prepare
from tsa.errors import DataError, MarketError
from tsa.times import DAY_SECONDS

RELATIVE = {
    "train": "last 10 days before validation",
    "validation": "last 3 days before calibration",
    "calibration": "last 2 days before test",
    "test": "last 4 days before the last 2 days",
}
END = datetime(2025, 3, 31, 10, tzinfo=UTC).timestamp()


def day(number: int, month: int = 3) -> float:
    return datetime(2025, month, number, tzinfo=UTC).timestamp()


def market(**split: Any) -> Market:
    return Market.from_dict({**MARKET, "split": split})


def test_ranges_are_counted_from_the_end_of_the_log() -> None:
    ranges = Split(**RELATIVE).resolve(0.0, END, 5 * DAY_SECONDS)
    assert list(ranges) == list(SPLITS)
    assert ranges["test"] == (day(26), day(30))
    assert ranges["calibration"] == (day(19), day(21))  # the label delay before the test range
    assert ranges["validation"] == (day(16), day(19))
    assert ranges["train"] == (day(6), day(16))
    assert Split(**{**RELATIVE, "test": "last 4 days"}).resolve(0.0, END, 0.0)["test"] == (day(28), day(1, 4))


@given(st.floats(0, 4e9), st.integers(0, 40), st.integers(1, 400), st.integers(0, 40))
def test_ranges_never_overlap(end: float, delay: int, days: int, skipped: int) -> None:
    test = f"last {days} days before the last {skipped} days"
    ranges = Split(**{**RELATIVE, "test": test}).resolve(0.0, end, delay * DAY_SECONDS)
    assert ranges["train"][1] == ranges["validation"][0]
    assert ranges["validation"][1] == ranges["calibration"][0]
    assert ranges["calibration"][1] + delay * DAY_SECONDS == ranges["test"][0]
    assert all(start < stop for start, stop in ranges.values())
    assert end < ranges["test"][1] + skipped * DAY_SECONDS <= end + DAY_SECONDS


@pytest.mark.parametrize("text", ["last 0 days", "first 3 days", "last 3 days before train", "last 3 weeks", ""])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(MarketError, match=r"split"):
        market(**{**RELATIVE, "test": text})


def test_dates_and_texts_can_be_mixed_if_they_follow_each_other() -> None:
    mixed = {**RELATIVE, "train": ["2025-01-01", "2025-03-01"]}
    assert Split(**mixed).resolve(0.0, END, 0.0)["train"][1] == day(1)
    with pytest.raises(DataError, match=r"split\.validation: must begin not before the end of train"):
        Split(**{**mixed, "train": ["2025-01-01", "2025-03-25"]}).resolve(0.0, END, 0.0)


def test_a_market_with_them_is_read_back() -> None:
    made = market(**RELATIVE)
    assert Market.from_dict(json.loads(json.dumps(made.to_dict()))).fingerprint == made.fingerprint
    assert made.to_dict()["split"] == RELATIVE


def test_they_move_on_with_an_appended_log(tmp_path: Path, easy_log: Path) -> None:
    log = pl.read_parquet(easy_log).sort("time", "id")
    middle = int(log["time"][-1]) - 4 * int(DAY_SECONDS)
    log.filter(pl.col("time") < middle).write_parquet(tmp_path / "first.parquet")
    log.filter(pl.col("time") >= middle).write_parquet(tmp_path / "second.parquet")
    split = {
        "train": "last 5 days before validation",
        "validation": "last 2 days before calibration",
        "calibration": "last 1 day before test",
        "test": "last 2 days",
    }
    store = prepare(market(**split), tmp_path / "first.parquet", tmp_path / "store")
    before = store.manifest["splits"]["test"]
    after = append(tmp_path / "store", tmp_path / "second.parquet").store.manifest["splits"]["test"]
    assert after["end_seconds"] - before["end_seconds"] == 4 * DAY_SECONDS
    assert after["end_seconds"] - after["start_seconds"] == 2 * DAY_SECONDS
