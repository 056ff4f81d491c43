"""The report of `tsa check`: what it counts, what it notes, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tsa.cli.app import app
from tsa.config.market import Market
from tsa.data.check.log_check import LogCheck, check_log
from tsa.errors import DataError

N = 2_000
START = datetime(2024, 1, 1)
TABLE: dict[str, Any] = {
    "name": "checked",
    "event": {"id": "id", "time": "time", "amount": "amount"},
    "label": {"column": "fraud", "delay_days": 1},
    "history": [{"name": "customer", "key": "customer"}, {"name": "shop", "key": "shop"}],
    "features": {
        "categorical": [{"name": "kind", "min_count": 5}, "status", "same"],
        "numerical": ["amount", "refund", "later"],
        "derived": [{"name": "later", "kind": "seconds_between", "columns": ["time", "settled"]}],
    },
    "split": {"fractions": [0.5, 0.2, 0.1, 0.2]},
}


def log() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    fraud = (rng.random(N) < 0.1).astype(np.int8)
    times = [START + timedelta(hours=at) for at in range(N)]
    return pl.DataFrame(
        {
            "id": np.arange(N),
            "time": times,
            "customer": rng.integers(0, 300, N),
            "shop": np.where(rng.random(N) < 0.08, 7, rng.integers(10, 400, N)),
            "kind": np.where(np.arange(N) > 1900, "new", rng.choice(["a", "b"], N)),
            "status": np.where(fraud == 1, "blocked", "paid"),
            "same": ["x"] * N,
            "amount": rng.normal(size=N),
            "refund": [float(value) if label else None for value, label in zip(rng.normal(size=N), fraud, strict=True)],
            "settled": [time + timedelta(days=1) for time in times],
            "fraud": fraud,
            "extra": [1] * N,
        }
    )


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> LogCheck:
    folder = tmp_path_factory.mktemp("check")
    rows = log().with_columns(amount=pl.when(pl.col("id") < 3).then(float("inf")).otherwise("amount"))
    rows.write_parquet(folder / "log.parquet")
    return check_log(Market.from_dict(TABLE), [str(folder / "log.parquet")])


def notes(checked: LogCheck) -> dict[tuple[str, str], str]:
    return {(note.kind, note.column): note.text for note in checked.notes}


def test_rows_by_rule_with_examples(checked: LogCheck) -> None:
    (rule,) = checked.rules
    assert (rule.name, rule.rows, rule.examples) == ("infinite:amount", 3, ("0", "1", "2"))
    assert rule.values == ("inf", "inf", "inf")
    assert rule.text.startswith("must be")
    assert (checked.report["rows_read"], checked.report["rows_kept"]) == (N, N - 3)


def test_columns_by_use(checked: LogCheck) -> None:
    columns = {column.name: column for column in checked.columns}
    assert (columns["customer"].use, columns["id"].use, columns["amount"].use) == ("key", "id", "numerical")
    assert columns["kind"].distinct == 3
    assert columns["kind"].unknown == pytest.approx(99 / (N - 3)), "a value that the training range does not have"
    assert columns["amount"].unknown is None
    assert columns["refund"].missing == pytest.approx(0.9, abs=0.03)
    assert columns["same"].share == 1.0
    assert checked.unused == ("extra",)


def test_ranges_are_those_of_prepare(checked: LogCheck) -> None:
    assert [found.name for found in checked.ranges] == ["train", "validation", "calibration", "test"]
    train, *_, test = checked.ranges
    assert train.payments == pytest.approx(N / 2, rel=0.03)
    assert train.labelled == train.payments
    assert 0 < train.frauds < train.payments / 5
    assert test.last == (START - datetime(1970, 1, 1)).total_seconds() + 3600 * (N - 1)


def test_what_looks_wrong(checked: LogCheck) -> None:
    found = notes(checked)
    assert "its value alone nearly decides the outcome (ROC AUC 1.000)" in found["decides", "status"]
    assert "whether it has a value alone" in found["decides", "refund"]
    assert "settled is later than the payment in 100% of the rows" in found["after_the_payment", "later"]
    assert found["constant", "same"] == "has only the value 'x', so it cannot help: remove it from [features]"
    assert "has 8." in found["large_key", "shop"] or "has 7." in found["large_key", "shop"]
    assert ("decides", "amount") not in found
    assert ("decides", "kind") not in found
    assert ("large_key", "customer") not in found


def test_a_feature_that_is_filled_in_later(tmp_path: Path) -> None:
    rows = log().with_columns(amount=pl.when(pl.col("id") < 1850).then("amount"))
    rows.write_parquet(tmp_path / "log.parquet")
    found = notes(check_log(Market.from_dict(TABLE), [str(tmp_path / "log.parquet")]))
    assert "missing in 89% of the rows of the last 7 days and in 0% before" in found["filled_in_later", "amount"]


def test_coarse_times(checked: LogCheck, tmp_path: Path) -> None:
    """Of full hours; of days, also at midnight in Berlin; and of half hours, which are not coarse."""
    assert notes(checked)["coarse_times", "time"].startswith(
        "all times are full hours: payments of one hour are ordered"
    )
    calendar = {**TABLE, "features": {**TABLE["features"], "calendar": ["hour_of_day"]}}
    rows, zoned = log(), {**calendar, "input": {"time_zone": "Europe/Berlin"}}
    for changed, market, expected in (
        (
            pl.col("time").dt.truncate("1d"),
            zoned,
            "full days: payments of one day are ordered by their id, and hour_of_day",
        ),
        (pl.col("time").dt.truncate("1d"), TABLE, "full days: payments of one day are ordered by their id; is there"),
        (pl.col("time") + pl.duration(minutes=30), TABLE, None),
    ):
        rows.with_columns(time=changed).write_parquet(tmp_path / "log.parquet")
        found = notes(check_log(Market.from_dict(market), [str(tmp_path / "log.parquet")]))
        text = found.get(("coarse_times", "time"))
        assert text is None if expected is None else text is not None and expected in text


def test_an_account_in_two_columns_is_counted_in_both(tmp_path: Path) -> None:
    """4 % as customer and 4 % as shop, one row as both."""
    at = pl.col("id")
    rows = log().with_columns(
        customer=pl.when(at < 80).then(7777).otherwise("customer"),
        shop=pl.when((at >= 79) & (at < 159)).then(7777).otherwise(10 + at % 300),
    )
    rows.write_parquet(tmp_path / "log.parquet")
    market = {**TABLE, "history": [{"name": "account", "keys": ["customer", "shop"]}]}
    found = notes(check_log(Market.from_dict(market), [str(tmp_path / "log.parquet")]))
    assert found["large_key", "account"] == (
        "one value, '7777', has 8.0% of the rows, as customer or shop; "
        "if it means no customer, card or account, make it empty"
    )


def test_a_split_that_does_not_fit_is_a_note(tmp_path: Path) -> None:
    log().head(20).write_parquet(tmp_path / "log.parquet")
    checked = check_log(Market.from_dict(TABLE), [str(tmp_path / "log.parquet")])
    assert checked.ranges == ()
    assert "split.fractions needs a log longer than the label delay" in notes(checked)["split", "split"]


def test_ranges_without_frauds_are_noted(tmp_path: Path) -> None:
    rows = log().with_columns(fraud=pl.when(pl.col("id") < 1000).then("fraud").otherwise(0))
    rows.write_parquet(tmp_path / "log.parquet")
    texts = [note.text for note in check_log(Market.from_dict(TABLE), [str(tmp_path / "log.parquet")]).notes]
    assert "the test range has no fraud" in texts


def test_rows_with_inline_history_are_refused() -> None:
    with pytest.raises(DataError, match="must be one of logs to be checked"):
        check_log(Market.load("markets/eu.toml"), ["x.parquet"])


def test_the_command_prints_it_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"work": tmp_path / "work", "temporary": tmp_path / "temporary"}
    for place in places.values():
        place.mkdir()
    monkeypatch.chdir(places["work"])
    monkeypatch.setattr(tempfile, "tempdir", str(places["temporary"]))
    log().write_parquet(tmp_path / "log.parquet")
    lines = ['name = "checked"\n[event]\nid = "id"\ntime = "time"\n[label]\ncolumn = "fraud"\ndelay_days = 1\n']
    lines += [f'[[history]]\nname = "{name}"\nkey = "{name}"\n' for name in ("customer", "shop")]
    lines += ['[features]\ncategorical = ["status"]\nnumerical = ["amount"]\n']
    (tmp_path / "market.toml").write_text("".join(lines))
    arguments = ["check", "--market", str(tmp_path / "market.toml"), str(tmp_path / "log.parquet")]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "note: status: its value alone nearly decides" in shown.output
    assert "columns of the log that the market does not use: kind, same, refund, settled, extra" in shown.output
    made = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert made["report"]["rows_read"] == N
    assert {column["name"] for column in made["columns"]} == {"id", "customer", "shop", "status", "amount"}
    assert [os.listdir(place) for place in places.values()] == [[], []]
