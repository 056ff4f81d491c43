"""The market file that `tsa init` proposes: what it guesses of logs of many kinds, and that the log can be prepared."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tsa.cli.app import app
from tsa.config.market import Market
from tsa.data.proposal.guesses import Guess
from tsa.data.proposal.known_columns import Given
from tsa.data.proposal.propose import propose
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import DataError
from tsa.simulation import SimulationConfig, simulate

N = 3_000
START = datetime(2024, 1, 1)
SHARED = Path(__file__).parents[4] / "shared" / "data" / "public"


def best(question: str, options: Sequence[Guess]) -> Guess:
    return options[0]


def payments(seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    fraud = rng.random(N) < 0.05
    return pl.DataFrame(
        {
            "TransID": [f"T{at:06d}" for at in range(N)],
            "bookedAt": [START + timedelta(minutes=47 * at) for at in range(N)],
            "cardNumber": rng.integers(10**15, 10**15 + 200, N),
            "merchant": [f"M{key}" for key in rng.integers(0, 150, N)],
            "mcc": rng.choice([5411, 5812, 7995], N),
            "channel": rng.choice(["web", "shop"], N),
            "total": np.round(rng.lognormal(3, 1.8, N), 2),
            "balance": np.round(rng.normal(100, 30, N), 2),
            "note": ["x"] * N,
            "chargeback_code": ["A1" if one else None for one in fraud],
            "isFraud": fraud.astype(np.int8),
        }
    )


def proposed(log: pl.DataFrame, folder: Path, name: str = "log.parquet") -> tuple[dict[str, Any], str]:
    log.write_parquet(folder / name)
    return of_file(folder / name)


def of_file(path: Path) -> tuple[dict[str, Any], str]:
    text = propose([str(path)], best).text
    return tomllib.loads(text), text


def stored(table: dict[str, Any], path: Path) -> EventStore:
    return prepare(Market.from_dict(table), path, path.parent / "store")


def test_a_log_of_payments(tmp_path: Path) -> None:
    table, text = proposed(payments(), tmp_path)
    assert table["event"] == {"id": "TransID", "time": "bookedAt", "amount": "total"}
    assert table["label"] == {"column": "isFraud", "delay_days": 7.0, "as_feature": True}
    assert [history["key"] for history in table["history"]] == ["cardNumber", "merchant"]
    features = table["features"]
    assert features["categorical"] == ["mcc", "channel"]
    assert features["numerical"] == [{"name": "total", "transform": "log1p"}, "balance"]
    assert '# not used: "note": it has no value, or only one' in text
    assert '# not used: "chargeback_code": it has no value, or only one' in text
    assert "# a different value in every row" in text
    assert "payments (frauds): train" in text
    assert len(stored(table, tmp_path / "log.parquet")) == N


def test_a_feature_that_decides_is_left_out(tmp_path: Path) -> None:
    log = payments().with_columns(refund=pl.when(pl.col("isFraud") == 1).then("total"))
    table, text = proposed(log, tmp_path)
    assert "refund" not in str(table["features"])
    assert '# not used: "refund": it nearly decides the outcome alone (ROC AUC 1.000)' in text


def test_a_table_with_semicolons_commas_and_two_columns_of_time(tmp_path: Path) -> None:
    log = (
        payments()
        .with_columns(
            day=pl.col("bookedAt").dt.strftime("%Y-%m-%d"),
            clock=pl.col("bookedAt").dt.strftime("%H:%M"),
            total=pl.col("total").cast(pl.String).str.replace(".", ",", literal=True),
            balance=pl.col("balance").cast(pl.String).str.replace(".", ",", literal=True),
        )
        .drop("TransID", "bookedAt")
    )
    log.write_csv(tmp_path / "log.csv", separator=";")
    table, text = of_file(tmp_path / "log.csv")
    assert (table["input"]["separator"], table["input"]["decimal"]) == (";", ",")
    assert "# fields are separated by ';'" in text
    assert table["input"]["joined"] == [{"name": "payment_time", "columns": ["day", "clock"]}]
    assert table["event"] == {"id": "row", "time": "payment_time", "amount": "total"}
    assert "day and clock together" in text
    store = stored(table, tmp_path / "log.csv")
    assert store.ids()[0] == "log.csv:1"
    assert store.time_seconds[1] - store.time_seconds[0] == 47 * 60


def test_quotes_and_encodings_are_written_into_the_file(tmp_path: Path) -> None:
    """So that later files of the log are read in the same way."""
    log = payments().with_columns(town=pl.lit("Köln")).with_columns(pl.all().cast(pl.String).fill_null(""))
    lines = ["'" + "','".join(row) + "'" for row in [tuple(log.columns), *log.rows()]]
    (tmp_path / "log.csv").write_bytes("\n".join(lines).encode("cp1252"))
    table, _ = of_file(tmp_path / "log.csv")
    assert table["input"] == {"encoding": "cp1252", "quote": "'"}
    assert len(stored(table, tmp_path / "log.csv").time_seconds) == N


def test_times_as_numbers_and_outcomes_as_words(tmp_path: Path) -> None:
    log = (
        payments()
        .with_columns(
            timestamp=pl.col("bookedAt").dt.epoch("ms"),
            outcome=pl.when(pl.col("isFraud") == 1).then(pl.lit("chargeback")).otherwise(pl.lit("settled")),
            reported=pl.col("bookedAt") + pl.duration(days=20),
        )
        .drop("bookedAt", "isFraud")
    )
    table, _ = proposed(log, tmp_path)
    assert table["event"]["time_unit"] == "ms"
    expected = {"column": "outcome", "known_at": "reported", "fraud": ["chargeback"], "genuine": ["settled"]}
    assert table["label"] == {**expected, "as_feature": True}
    assert len(stored(table, tmp_path / "log.parquet")) == N


def test_accounts_that_send_and_receive(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    log = (
        payments()
        .with_columns(
            nameOrig=pl.Series([f"C{key}" for key in rng.integers(0, 300, N)]),
            nameDest=pl.Series([f"C{key}" for key in rng.integers(0, 300, N)]),
        )
        .drop("cardNumber", "merchant")
    )
    table, text = proposed(log, tmp_path)
    assert table["history"] == [{"name": "account", "keys": ["nameOrig", "nameDest"], "length": 51}]
    assert "of the values of the one occur in the other" in text


def test_an_id_of_two_columns(tmp_path: Path) -> None:
    log = payments().with_columns(shop_no=pl.int_range(N) % 60, receipt_no=pl.int_range(N) // 60).drop("TransID")
    table, _ = proposed(log, tmp_path)
    assert table["event"]["id"] == "payment_id"
    assert table["input"]["joined"] == [{"name": "payment_id", "columns": ["shop_no", "receipt_no"], "separator": "/"}]
    assert len(stored(table, tmp_path / "log.parquet")) == N


def test_events_without_outcomes_are_pointed_out(tmp_path: Path) -> None:
    log = payments().with_columns(kind=pl.Series(["payment", "login"] * (N // 2)))
    log = log.with_columns(isFraud=pl.when(pl.col("kind") == "payment").then("isFraud"))
    _, text = proposed(log, tmp_path)
    assert "events whose kind is 'login' never have an outcome" in text
    assert 'scored = { column = "kind", values = ["payment"] }' in text


def test_a_log_before_1990(tmp_path: Path) -> None:
    table, _ = proposed(payments().with_columns(bookedAt=pl.col("bookedAt") - pl.duration(days=365 * 60)), tmp_path)
    assert table["event"]["earliest"] == "1963-01-01"
    assert len(stored(table, tmp_path / "log.parquet")) == N


def test_frauds_that_come_late_are_split_by_rows(tmp_path: Path) -> None:
    at = pl.int_range(N)
    busy = payments().with_columns(
        bookedAt=pl.lit(START) + pl.duration(minutes=pl.when(at < 2900).then(at).otherwise(at * 60))
    )
    table, _ = proposed(busy, tmp_path)
    assert table["split"]["by"] == "rows"


def test_questions_are_asked_where_two_are_likely(tmp_path: Path) -> None:
    log = payments().with_columns(fraud_model=pl.Series(([0] * 9 + [1]) * (N // 10)))
    log.write_parquet(tmp_path / "log.parquet")
    asked: dict[str, list[str]] = {}

    def last(question: str, options: Sequence[Guess]) -> Guess:
        asked[question] = [one.column for one in options]
        return options[-1]

    table = tomllib.loads(propose([str(tmp_path / "log.parquet")], last).text)
    assert sorted(asked["Which column is the outcome?"]) == ["fraud_model", "isFraud"]
    assert table["label"]["column"] == asked["Which column is the outcome?"][-1]


def test_names_in_any_language(tmp_path: Path) -> None:
    names = {"TransID": "Buchung-Nr", "cardNumber": "Karte №", "merchant": "Händler (Name)", "isFraud": "Betrug?"}
    log = payments().rename(names).with_columns(pl.col("Betrug?").replace_strict({0: "nein", 1: "ja"}))
    table, _ = proposed(log, tmp_path)
    assert (table["label"]["column"], table["label"]["fraud"]) == ("Betrug?", ["ja"])
    assert {one["key"]: one["name"] for one in table["history"]} == {
        "Karte №": "karte",
        "Händler (Name)": "handler_name",
    }


def test_times_that_cannot_be_read_are_shown(tmp_path: Path) -> None:
    log = payments().with_columns(pl.col("bookedAt").dt.strftime("%d.%m.%Y %H:%M"))
    log.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"times of bookedAt must be in a form that can be read \(got '\d\d\."):
        propose([str(tmp_path / "log.parquet")], best)


@pytest.mark.parametrize(
    ("drop", "match"),
    [
        (["bookedAt"], "must have a column of times"),
        (["isFraud", "chargeback_code"], "must have a column with the outcome"),
        (["cardNumber", "merchant", "mcc", "channel", "TransID", "note", "chargeback_code"], "whose values repeat"),
    ],
)
def test_logs_that_say_too_little(tmp_path: Path, drop: list[str], match: str) -> None:
    payments().drop(drop).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=match):
        propose([str(tmp_path / "log.parquet")], best)


def test_the_simulated_log_needs_no_edits(tmp_path: Path) -> None:
    log = simulate(SimulationConfig(payments=20_000, customers=400, terminals=150))
    log.write_parquet(tmp_path / "log.parquet")
    table, _ = of_file(tmp_path / "log.parquet")
    assert (table["event"]["id"], table["event"]["time"], table["label"]["column"]) == (
        "payment_id",
        "paid_at",
        "is_fraud",
    )
    assert {history["key"] for history in table["history"]} == {"card_id", "customer_id", "terminal_id"}
    assert len(stored(table, tmp_path / "log.parquet")) == 20_000


@pytest.mark.parametrize(("name", "label"), [("bitcoin_alpha", "distrust"), ("f1_dnf_frozen", "y")])
def test_public_logs_need_no_edits(tmp_path: Path, name: str, label: str) -> None:
    source = SHARED / f"{name}.parquet"
    if not source.exists():
        pytest.skip("the public logs are not here")
    (tmp_path / "log.parquet").write_bytes(source.read_bytes())
    table, _ = of_file(tmp_path / "log.parquet")
    assert table["label"]["column"] == label
    store = stored(table, tmp_path / "log.parquet")
    assert all((store.label[store.labelled(part)] == 1).sum() >= 10 for part in ("train", "validation", "test"))


def test_the_command_writes_a_file_or_prints_it(tmp_path: Path) -> None:
    payments().write_parquet(tmp_path / "log.parquet")
    out = tmp_path / "my.toml"
    arguments = ["init", str(tmp_path / "log.parquet"), "--yes", "--name", "shop"]
    written = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert written.exit_code == 0, written.output
    assert f"next: tsa check --market {out}" in written.output
    assert Market.load(out).name == "shop"
    printed = CliRunner().invoke(app, arguments)
    assert printed.output == out.read_text()
    two = payments().with_columns(fraud_model=pl.Series(([0] * 9 + [1]) * (N // 10)))
    two.write_parquet(tmp_path / "log.parquet")
    unclear = CliRunner().invoke(app, arguments[:2])
    assert unclear.exit_code != 0
    assert "take the first with --yes" in f"{unclear.output}{unclear.exception}"


def test_given_columns_are_not_guessed(tmp_path: Path) -> None:
    log = payments().rename({"bookedAt": "t0", "isFraud": "z"}).with_columns(pl.col("t0").dt.epoch("s"))
    log.write_parquet(tmp_path / "log.parquet")
    given = ["--time", "t0", "--label", "z", "--key", "merchant", "--amount", "balance", "--id", "TransID"]
    done = CliRunner().invoke(
        app, ["init", str(tmp_path / "log.parquet"), "--yes", *given, "--out", str(tmp_path / "m.toml")]
    )
    assert done.exit_code == 0, done.output
    market = Market.load(tmp_path / "m.toml")
    assert (market.event.time, market.event.time_unit, market.event.amount) == ("t0", "s", "balance")
    assert market.label.column == "z"
    assert [history.key for history in market.history] == ["merchant"]
    assert "balance" in market.features.names
    prepare(market, tmp_path / "log.parquet", tmp_path / "store")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Given(time="nothing"), "has no column nothing"),
        (Given(id="mcc"), "must be different in every row"),
        (Given(label="mcc"), "must have two values"),
        (Given(time="note"), "must hold dates with times"),
        (Given(id="TransID", keys=("TransID",)), "must have one use"),
    ],
)
def test_given_columns_that_cannot_be_what_they_are_given_as(given: Given, text: str, tmp_path: Path) -> None:
    payments().write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=text):
        propose([str(tmp_path / "log.parquet")], best, given=given)
