"""Features that never change within a history are recognised, whatever is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from tsa.config.market import Market
from tsa.data.store.constant_in_history import fixed_values
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore

MARKET = {
    "name": "fixed",
    "event": {"id": "id", "time": "time", "time_unit": "s"},
    "label": {"column": "fraud", "delay_days": 0},
    "history": [{"name": "shop", "key": "shop", "length": 5}, {"name": "card", "key": "card", "length": 5}],
    "features": {"categorical": [{"name": "trade", "min_count": 1}, {"name": "device", "min_count": 1}]},
}


def made(folder: Path, n: int) -> EventStore:
    rng = np.random.default_rng(0)
    shop = rng.integers(0, 12, n)
    rows = {
        "id": np.arange(n),
        "time": 1_525_651_200 + 60 * np.arange(n),
        "fraud": rng.integers(0, 2, n),
        "shop": shop,
        "card": rng.integers(0, 30, n),
        "trade": [None if rng.random() < 0.1 else f"t{at % 4}" for at in shop.tolist()],
        "device": [f"d{at}" for at in rng.integers(0, 5, n).tolist()],
    }
    pl.DataFrame(rows).write_parquet(folder / "log.parquet")
    return prepare(Market.from_dict(MARKET), folder / "log.parquet", folder / "store")


def test_the_trade_of_a_shop_never_changes(tmp_path: Path) -> None:
    store = made(tmp_path, 600)
    assert fixed_values(store, np.arange(600)) == {"shop": ["trade"]}


def test_few_payments_show_nothing(tmp_path: Path) -> None:
    store = made(tmp_path, 60)
    assert fixed_values(store, np.arange(60)) == {}
    assert fixed_values(store, np.arange(0)) == {}
