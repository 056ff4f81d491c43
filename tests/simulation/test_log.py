"""The simulator: same settings give the same bytes, counts are exact, rhythm and every kind of fraud are there."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tsa import simulation as package
from tsa.config.market import Market
from tsa.errors import ConfigError
from tsa.simulation import FRAUD_KINDS, SimulationConfig, simulate, write_simulation

MARKET = Path(__file__).parents[2] / "markets" / "demo.toml"
CONFIG = SimulationConfig(payments=60_000, seed=7, with_truth=True)
SCHEMA = {
    "payment_id": pl.Int64,
    "paid_at": pl.Datetime("us"),
    "customer_id": pl.Int64,
    "card_id": pl.Int64,
    "terminal_id": pl.Int64,
    "merchant_category": pl.String,
    "channel": pl.String,
    "device": pl.String,
    "country": pl.String,
    "account_age_days": pl.Float64,
    "amount": pl.Float64,
    "is_fraud": pl.Int8,
}


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    return simulate(CONFIG)


def test_the_same_settings_give_the_same_log_and_another_seed_another(log: pl.DataFrame) -> None:
    assert simulate(CONFIG).equals(log)
    assert not simulate(CONFIG.replace(seed=8)).equals(log)


def test_columns_are_those_of_the_market_and_truth_only_on_request(log: pl.DataFrame) -> None:
    assert dict(log.schema) == {**SCHEMA, "fraud_kind": pl.String}
    plain = simulate(CONFIG.replace(with_truth=False))
    assert plain.equals(log.drop("fraud_kind"))
    market = Market.load(MARKET)
    wanted = {*market.raw_columns, market.event.time, market.label.column}
    assert wanted <= set(plain.columns)


def test_demo_splits_lie_in_the_default_period_and_hold_fraud(log: pl.DataFrame) -> None:
    split = Market.load(MARKET).split
    time = pl.col("paid_at").dt.replace_time_zone("UTC")
    for start, end in (split.ranges[name] for name in ("train", "validation", "calibration", "test")):
        part = log.filter(time.is_between(start, end, closed="left"))
        assert part["is_fraud"].sum() > 10
        assert part["paid_at"].dt.date().n_unique() == (end - start).days


def test_counts_order_and_ids_are_exact(log: pl.DataFrame) -> None:
    assert len(log) == CONFIG.payments
    assert log["payment_id"].is_unique().all()
    assert log.equals(log.sort("paid_at", "payment_id"))
    assert str(log["paid_at"].min()) >= "2025-01-01"
    assert str(log["paid_at"].max()) < "2025-05-01"
    assert log["amount"].is_finite().all()
    assert log["amount"].min() > 0
    assert log.select("card_id", "customer_id").unique()["card_id"].is_unique().all()


def test_fraud_rate_and_every_kind(log: pl.DataFrame) -> None:
    assert log["fraud_kind"].drop_nulls().len() == round(CONFIG.payments * CONFIG.fraud_rate)
    assert set(log["fraud_kind"].drop_nulls()) == set(FRAUD_KINDS)
    assert log["fraud_kind"].value_counts().filter(pl.col("fraud_kind").is_not_null())["count"].min() > 20
    labelled = log["is_fraud"].mean()
    assert 0.94 * CONFIG.fraud_rate < labelled < CONFIG.fraud_rate
    assert log.filter(pl.col("fraud_kind").is_null())["is_fraud"].max() == 0


def test_no_id_or_missing_value_gives_fraud_away(log: pl.DataFrame) -> None:
    seconds_tied = log.filter(pl.col("paid_at").is_duplicated())
    assert len(seconds_tied) > 100
    for column in ("merchant_category", "country", "terminal_id"):
        missing = log.filter(pl.col(column).is_null())
        assert 0 < len(missing) < 0.01 * len(log)
        assert missing["is_fraud"].mean() < 5 * CONFIG.fraud_rate
    assert 0.2 < log["device"].null_count() / len(log) < 0.6


def test_rhythm_of_the_day_and_the_week(log: pl.DataFrame) -> None:
    hour = log["paid_at"].dt.hour()
    assert (hour.is_between(1, 5)).sum() * 3 < hour.is_between(15, 19).sum()
    weekday = log.group_by(pl.col("paid_at").dt.weekday().alias("day")).len().sort("day")["len"]
    assert weekday[6] < 0.85 * weekday[4]


def test_histories_are_long_and_short_and_some_values_rare(log: pl.DataFrame) -> None:
    for key in ("customer_id", "terminal_id"):
        lengths = log[key].drop_nulls().value_counts()["count"]
        assert lengths.quantile(0.1) < 6
        assert (lengths > 51).mean() > 0.04
    assert (log["device"].value_counts()["count"] < 10).sum() > 10
    early, late = log[: len(log) // 2], log[len(log) // 2 :]
    assert not set(late["device"]) <= set(early["device"])
    assert (log.group_by("customer_id").agg(pl.col("card_id").n_unique())["card_id"] > 1).mean() > 0.1


def test_a_takeover_brings_a_new_device_and_a_stolen_card_a_burst(log: pl.DataFrame) -> None:
    customer = log.with_columns(
        new=pl.int_range(pl.len()).over("customer_id", "device") < 3,
        gap=pl.col("paid_at").diff().over("card_id").dt.total_minutes(),
    )
    taken = customer.filter(pl.col("fraud_kind") == "account_takeover", pl.col("device").is_not_null())
    usual = customer.filter(pl.col("fraud_kind").is_null(), pl.col("device").is_not_null())
    assert taken["new"].mean() > usual["new"].mean() + 0.1
    assert customer.filter(pl.col("fraud_kind") == "stolen_card")["gap"].median() < 120
    assert customer.filter(pl.col("fraud_kind").is_null())["gap"].median() > 1000


def test_pieces_are_joined_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package.log, "PIECE_ROWS", 1_000)
    log = simulate(CONFIG.replace(payments=10_000, days=30))
    assert log["payment_id"].to_list() == list(range(1, 10_001))
    assert log["paid_at"].is_sorted()
    assert log["fraud_kind"].drop_nulls().len() == 90


@pytest.mark.parametrize(
    "config",
    [
        SimulationConfig(payments=1, days=1),
        SimulationConfig(payments=30, days=2, fraud_rate=0.5),
        SimulationConfig(payments=500, days=1, fraud_rate=0.2, customers=3, terminals=1),
        SimulationConfig(payments=500, days=10, fraud_rate=0.0),
    ],
)
def test_small_and_odd_sizes_keep_their_counts(config: SimulationConfig) -> None:
    log = simulate(config.replace(with_truth=True))
    assert len(log) == config.payments
    assert log["fraud_kind"].drop_nulls().len() == config.n_frauds
    assert log["paid_at"].dt.date().n_unique() <= config.days


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.tsv", "a.csv.gz", "a.jsonl", "a.jsonl.gz"])
def test_a_file_holds_the_log_and_equal_settings_equal_bytes(tmp_path: Path, name: str) -> None:
    config = SimulationConfig(payments=2_000, days=20, seed=3)
    counts = write_simulation(config, tmp_path / "one" / name)
    write_simulation(config, tmp_path / "two" / name)
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert [path.name for path in (tmp_path / "one").iterdir()] == [name]
    read = _read(tmp_path / "one" / name)
    expected = simulate(config)
    assert read.columns == expected.columns
    for column in ("payment_id", "customer_id", "terminal_id", "device", "amount", "is_fraud"):
        assert read[column].cast(expected[column].dtype).equals(expected[column])
    assert counts["payments"] == 2_000
    assert counts["frauds"] == sum(counts["kinds"].values()) == 18
    assert counts["labelled_fraud"] == expected["is_fraud"].sum()


def _read(path: Path) -> pl.DataFrame:
    if ".parquet" in path.name:
        return pl.read_parquet(path)
    if ".json" in path.name:
        return pl.read_ndjson(path, infer_schema_length=None)
    return pl.read_csv(path, separator="\t" if ".tsv" in path.name else ",", infer_schema_length=None)


def test_nothing_is_left_of_a_log_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no more")

    monkeypatch.setattr(package.log, "_frame", fail)
    with pytest.raises(RuntimeError, match="no more"):
        write_simulation(SimulationConfig(payments=100, days=2), tmp_path / "a.csv")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    for name in ("a.xlsx", "a", "a.parquet.gz"):
        with pytest.raises(ConfigError, match=r"out must end in .* [(]got out=.*" + name):
            write_simulation(CONFIG, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"payments": 0}, "simulation.payments: must be at least 1 (got 0)"),
        ({"payments": 2.5}, "simulation.payments: "),
        ({"days": 0}, "simulation.days: "),
        ({"days": 1, "payments": 3_000_000}, "at most 2000000 a day"),
        ({"customers": 0}, "simulation.customers: "),
        ({"terminals": -1}, "simulation.terminals: "),
        ({"seed": -1}, "simulation.seed: "),
        ({"fraud_rate": 0.6}, "simulation.fraud_rate: must be at most 0.5 (got 0.6)"),
        ({"fraud_rate": float("nan")}, "simulation.fraud_rate: "),
        ({"start": "1st of May"}, "simulation.start: "),
        ({"start": "2025-1-1"}, "simulation.start: "),
        ({"start": "2025-02-30"}, "start must be a date like 2025-01-01"),
    ],
)
def test_settings_out_of_bounds_are_refused(setting: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SimulationConfig(**setting)  # type: ignore[arg-type]
    assert text in str(caught.value)
