"""A store of a few days with the bundle whose encoder made it: a network with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from support.easy_log import MARKET
from support.endpoint import config_of
from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.inference.scorer import Scorer
from tsa.model import TSANetwork

DAY = 86_400
START = 1_525_651_200
TABLE: dict[str, Any] = {
    **MARKET,
    "event": {**MARKET["event"], "scored": {"column": "kind", "values": ["payment"]}},
    "features": {**MARKET["features"], "categorical": ["category", "kind"]},
}


@dataclass(frozen=True)
class Days:
    """The payments as a table, a log and a store."""

    folder: Path
    table: pl.DataFrame
    log: Path
    scorer: Scorer
    store: EventStore


def days_case(folder: Path, n: int = 1300) -> Days:
    """Payments on 15 days of 16, of which 2018-05-10 has none. One event in eight is not scored."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(START, START + 15 * DAY, n))
    times = np.where(times >= START + 3 * DAY, times + DAY, times)
    table = pl.DataFrame(
        {
            "id": [f"p{at:05}" for at in range(n)],
            "time": times,
            "amount": rng.lognormal(3, 1, n),
            "fraud": rng.integers(0, 2, n),
            "customer": rng.integers(0, 20, n),
            "category": rng.choice(["a", "b"], n),
            "kind": rng.choice(["payment"] * 7 + ["login"], n),
        }
    )
    log = folder / "log.parquet"
    table.write_parquet(log)
    market = Market.from_dict(TABLE)
    store = prepare(market, log, folder / "store")
    config = config_of(market, store.encoder)
    torch.manual_seed(0)
    network = TSANetwork(config).eval()
    Bundle(market=market, encoder=store.encoder, config=config, network=network, training={}).save(folder / "bundle")
    return Days(folder, table, log, Scorer.load(folder / "bundle"), store)


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of each file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
