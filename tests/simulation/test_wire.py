"""Simulated wire rows: reproducible, of the market's fields, as the log tells them, and with every rule to be kept."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tsa.config.market import Market
from tsa.data.store.prepare import prepare
from tsa.data.wire.layout import FieldLayout
from tsa.errors import ConfigError
from tsa.simulation import SimulationConfig, simulate, write_wire

TABLE: dict[str, Any] = {
    "name": "small",
    "event": {"id": "id", "time": "at", "time_unit": "s", "amount": "amount"},
    "label": {"column": "fraud", "delay_days": 0},
    "history": [
        {"name": "cid", "key": "customer_id", "length": 6},
        {"name": "ccid", "key": "card_id", "length": 4},
    ],
    "features": {
        "categorical": ["device", "channel", "hour", "made.up"],
        "numerical": ["amount", "noise"],
        "engineered": ["payments_7d"],
    },
    "split": {"fractions": [0.4, 0.2, 0.2, 0.2]},
    "wire": {
        "separator": ";SEP;",
        "missing": ["", "My Text String"],
        "history_field": "{history}.{feature}",
        "event_field": "{history}.{part}.{feature}",
        "numeric_categorical": ["hour"],
    },
}
MARKETS = Path(__file__).parents[2] / "markets"
CONFIG = SimulationConfig(payments=400, customers=20, fraud_rate=0.1, days=30)


@pytest.fixture(scope="module")
def market() -> Market:
    return Market.from_dict(TABLE)


@pytest.fixture(scope="module")
def rows(market: Market, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    assert write_wire(CONFIG, market, path) == {"payments": 400, "frauds": int(simulate(CONFIG)["is_fraud"].sum())}
    return pl.read_parquet(path)


def test_the_same_settings_give_the_same_bytes(market: Market, tmp_path: Path) -> None:
    for name in ("rows.tsv.gz", "rows.jsonl", "rows.parquet"):
        paths = [tmp_path / folder / name for folder in ("a", "b")]
        for path in paths:
            write_wire(CONFIG, market, path)
        assert paths[0].read_bytes() == paths[1].read_bytes()
    header = gzip.decompress((tmp_path / "a" / "rows.tsv.gz").read_bytes()).split(b"\n")[0].decode().split("\t")
    first = json.loads((tmp_path / "a" / "rows.jsonl").read_text().splitlines()[0])
    assert [name.replace("__DOT__", ".") for name in header] == list(first)
    assert "cid__DOT__made__DOT__up" in header
    assert {*FieldLayout(market).history_fields, *FieldLayout(market).current} <= set(first)


def test_rows_tell_what_the_log_tells(rows: pl.DataFrame, market: Market) -> None:
    """Each history is the customer's or the card's last payments, with the values that they had themselves."""
    own = {line["id"]: line for line in rows.iter_rows(named=True)}
    last: dict[tuple[str, str], list[str]] = {}
    for line in rows.iter_rows(named=True):
        for history, key, length in (("cid", "customer_id", 5), ("ccid", "card_id", 3)):
            past = last.setdefault((history, line[key]), [])[-length:]
            assert line[f"{history}.cat.id"] == ";SEP;".join(past)
            for field, name in (("device", "device"), ("made.up", "made.up"), ("cat.at", "at")):
                assert line[f"{history}.{field}"] == ";SEP;".join(own[before][name] for before in past)
            last[history, line[key]].append(line["id"])


def test_every_rule_is_met_with(rows: pl.DataFrame) -> None:
    """Missing values in each spelling, fractions of whole numbers, late values, and parts that differ."""
    assert {"", "My Text String"} <= set(rows["made.up"])
    assert {"", "My Text String"} <= set(rows["noise"])
    assert rows["hour"].str.contains(r"^\d+\.0$").any()
    assert rows["hour"].str.contains(r"^\d+$").any()
    assert set(rows["made.up"][300:]) - set(rows["made.up"][:200])
    differ = rows.filter(pl.col("cid.cat.id") != pl.col("cid.num.id"))
    assert 0 < len(differ) < 40


def test_they_make_a_store_whatever_the_market_does_with_differences(market: Market, tmp_path: Path) -> None:
    for mode in ("align", "drop", "refuse"):
        of = market.override([f"wire.mismatched={mode}"])
        write_wire(CONFIG, of, tmp_path / "rows.jsonl")
        store = prepare(of, tmp_path / "rows.jsonl", tmp_path / "store")
        assert len(store) == 400
        assert (store.label == 1).sum() > 20


@pytest.mark.parametrize("name", ["eu", "na"])
def test_the_worked_examples_make_stores(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the legacy system's sizes."""
    market = Market.load(MARKETS / f"{name}.toml")
    if market.privacy is not None and market.privacy.secret_env is not None:
        monkeypatch.setenv(market.privacy.secret_env, "a secret of at least 32 characters")
    write_wire(SimulationConfig(payments=150, customers=10, fraud_rate=0.3, days=60), market, tmp_path / "rows.tsv.gz")
    store = prepare(market, tmp_path / "rows.tsv.gz", tmp_path / "store")
    assert len(store) == 150
    features = market.features
    assert store.categorical.shape[1] == len(features.categorical) + len(features.calendar)
    assert store.engineered.shape == (150, len(store.encoder.engineered_names))


def test_what_cannot_be_simulated_is_refused(market: Market, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"history\.cid\.key='who'"):
        write_wire(CONFIG, market.override(["history.0.key=who"]), tmp_path / "rows.jsonl")
    with pytest.raises(ConfigError, match="out must end in"):
        write_wire(CONFIG, market, tmp_path / "rows.xlsx")
    logs = Market.from_dict({key: value for key, value in market.to_dict().items() if key != "wire"})
    with pytest.raises(ConfigError, match=r"must have a \[wire\] table"):
        write_wire(CONFIG, logs, tmp_path / "rows.jsonl")
