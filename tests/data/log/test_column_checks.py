"""What is odd about whole columns is said in the terminal and in data_report.json, and of sound columns nothing is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsa.config.market import Market
from tsa.data.log.column_checks import KEY_SHARE
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.evaluation.report.data_summary import summarize_data

N = 600
TABLE: dict[str, Any] = {
    "name": "notes",
    "event": {"id": "id", "time": "time", "amount": "amount"},
    "label": {"column": "fraud", "delay_days": 0},
    "history": [{"name": "customer", "key": "customer"}],
    "features": {
        "categorical": [{"name": "channel", "min_count": 5}],
        "numerical": [{"name": "amount", "transform": "signed_log1p"}, {"name": "age"}],
    },
    "split": {"fractions": [0.5, 0.2, 0.1, 0.2]},
}


def log(**columns: Any) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    sound = {
        "id": list(range(N)),
        "time": [datetime(2025, 1, 1) + timedelta(hours=row) for row in range(N)],
        "customer": [f"c{row % 30}" for row in range(N)],
        "channel": [("web", "pos")[row % 2] for row in range(N)],
        "amount": rng.lognormal(3, 1, N).tolist(),
        "age": [float(row % 60) for row in range(N)],
        "fraud": [int(row % 9 == 0) for row in range(N)],
    }
    return pl.DataFrame({**sound, **columns}, strict=False)


def prepared(frame: pl.DataFrame, folder: Path, table: Mapping[str, Any] = TABLE, **settings: Any) -> EventStore:
    frame.write_parquet(folder / "log.parquet")
    return prepare(Market.from_dict(table), folder / "log.parquet", folder / "store", **settings)


def kinds(store: EventStore) -> dict[str, str]:
    return {note["kind"]: note["column"] for note in store.data_report["notes"]}


HOURS = [datetime(2025, 1, 1) + timedelta(hours=row) for row in range(N)]
ODD = {
    "large_key": {"customer": ["0" if row % 4 == 0 else f"c{row % 60}" for row in range(N)]},
    "unknown": {"channel": [f"device {row}" for row in range(N)]},
    "missing": {"age": [None if row % 100 else 1.0 for row in range(N)]},
    "negative_amounts": {"amount": [-1.0 - row for row in range(N)]},
    "one_outcome": {"fraud": [1 if row % 9 == 0 else -1 for row in range(N)]},
    "future": {"time": [*HOURS[:-1], datetime.now() + timedelta(days=300)]},
    "stray": {"time": [datetime(2000, 1, 1), *HOURS[1:]]},
}


@pytest.mark.parametrize(("label", "what"), [(1, "1 (fraud)"), (0, "0 (genuine)"), (None, "missing or -1")])
def test_outcomes_of_one_kind_are_told_of(label: int | None, what: str, tmp_path: Path) -> None:
    (note,) = prepared(log(fraud=pl.Series([label] * N, dtype=pl.Int64)), tmp_path).data_report["notes"]
    assert (note["kind"], note["column"]) == ("one_outcome", "fraud")
    assert note["text"].startswith(f"all {N} outcomes are {what}")


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_column_is_told_of(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (column,) = ODD[kind]
    with caplog.at_level(logging.WARNING, logger="tsa"):
        store = prepared(log(**ODD[kind]), tmp_path)
    assert kinds(store) == {kind: column}
    (note,) = store.data_report["notes"]
    assert f"{column}: {note['text']}" in caplog.messages, "said as a note of the command"
    assert summarize_data(store.data_report)["notes"] == [(column, note["text"])], "and shown on the page"


def test_sound_columns_are_not(tmp_path: Path) -> None:
    store = prepared(log(), tmp_path)
    assert store.data_report["notes"] == []
    for kind in ("future", "stray"):
        other = prepared(log(**ODD[kind]), tmp_path)
        for name, wanted in store.manifest["splits"].items():
            found = other.manifest["splits"][name]
            assert found["start_seconds"] == pytest.approx(wanted["start_seconds"], abs=7200), (
                "clocks do not move ranges"
            )
    assert store.data_report["unknown_rates"] == {"channel": 0.0}


@pytest.mark.parametrize(
    ("kind", "column"), [("large_key", {"customer": ["0"] * N}), ("negative_amounts", {"amount": [0.0] * N})]
)
def test_one_value_alone_is_odd_too(kind: str, column: dict[str, Any], tmp_path: Path) -> None:
    assert kind in kinds(prepared(log(**column), tmp_path))


def test_a_share_that_is_usual_is_not_odd(tmp_path: Path) -> None:
    """Of few keys each owns much; a key that owns little more than others do does no harm."""
    of_four = prepared(log(customer=[f"c{row % 4}" for row in range(N)]), tmp_path)
    assert KEY_SHARE < 1 / 4
    assert not kinds(of_four)


def test_values_that_a_bundle_does_not_know_are_told_of(tmp_path: Path) -> None:
    """One in ten is enough, and no single new device; nothing is said of outcomes, which a log to be scored may lack."""
    encoder = prepared(log(), tmp_path).encoder
    upper = [("WEB " if row % 8 == 0 else "web") for row in range(N)]
    found = prepared(log(channel=upper, fraud=[-1] * N), tmp_path, encoder=encoder)
    assert kinds(found) == {"unknown": "channel"}
    assert "75 of 600 values (12.5%) are unknown to the bundle" in found.data_report["notes"][0]["text"]
    assert found.data_report["unknown_rates"] == {"channel": 75 / N}
    assert not kinds(prepared(log(channel=["tv", *["web"] * (N - 1)]), tmp_path, encoder=encoder))
    few = log(channel=["tv"] * N).head(5)
    assert not kinds(prepared(few, tmp_path, encoder=encoder)), "of a handful of payments no shares are told"


def test_missing_values_are_not_unknown_ones(tmp_path: Path) -> None:
    encoder = prepared(log(), tmp_path).encoder
    half = [None if row % 2 else "web" for row in range(N)]
    found = prepared(log(channel=half), tmp_path, encoder=encoder)
    assert found.data_report["unknown_rates"] == {"channel": 0.0}
    assert not kinds(found)


def test_outcomes_that_come_too_late_are_counted(tmp_path: Path) -> None:
    """By range, in the report; and a store tells the same."""
    known = [datetime(2025, 1, 1) + timedelta(hours=row, days=10) for row in range(N)]
    table = {**TABLE, "label": {"column": "fraud", "known_at": "known"}}
    store = prepared(log(known=known), tmp_path, table)
    begins = datetime.fromtimestamp(store.manifest["splits"]["test"]["start_seconds"], UTC).replace(tzinfo=None)
    late = {}
    for name in ("train", "validation", "calibration"):
        rows = store.split(name)
        late[name] = sum(moment > begins for moment in known[rows.start : rows.stop])
        assert store.known_too_late(name) == late[name]
    assert sum(late.values()) > 0
    assert store.data_report["known_too_late"] == late
    assert kinds(store) == {"known_too_late": "known"}
