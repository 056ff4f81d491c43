"""The past of a payment as a block of its own: the same aggregates as from whole blocks, and nothing beyond the limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsa.config.market import Market
from tsa.data.store.store import EventStore, prepare
from tsa.evaluation.baseline.aggregates import AggregateConfig, aggregate
from tsa.simulation import SimulationConfig, simulate

MARKET = Path(__file__).parents[3] / "markets" / "demo.toml"
SPLIT = "split.fractions=[0.7, 0.1, 0.1, 0.1]"


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    return simulate(SimulationConfig(payments=1500, customers=40, terminals=30, fraud_rate=0.1, days=60))


def store_of(log: pl.DataFrame, folder: Path, *overrides: str) -> EventStore:
    folder.mkdir(exist_ok=True)
    log.write_parquet(folder / "log.parquet")
    return prepare(Market.load(MARKET, [SPLIT, *overrides]), folder / "log.parquet", folder / "store")


def values_of(store: EventStore, rows: Any = None, **settings: int) -> dict[str, np.ndarray]:
    found = aggregate(store, rows=rows, config=AggregateConfig(**settings))
    return dict(zip(found.names, found.values.T, strict=True))


def test_a_limit_that_cuts_nothing_changes_nothing(log: pl.DataFrame, tmp_path: Path) -> None:
    whole = values_of(store_of(log, tmp_path))
    rows = np.random.default_rng(0).permutation(1500)[:700]
    for places in (500_000, 300):
        cut = values_of(store_of(log, tmp_path, "privacy.retention_days=1000"), rows, places_at_once=places)
        assert list(cut) == list(whole)
        for name, values in cut.items():
            np.testing.assert_allclose(values, whole[name][rows], rtol=1e-4, atol=1e-4, err_msg=name)


def test_nothing_beyond_the_limit_is_aggregated(log: pl.DataFrame, tmp_path: Path) -> None:
    """What the last payments see does not change when all that is older is taken out of the log."""
    days = 7
    since = log["paid_at"].max() - pl.duration(days=days + 1)
    short = store_of(log.filter(pl.col("paid_at") >= since), tmp_path, "privacy.retention_days=7", "label.delay_days=1")
    wanted = {name: values[-20:] for name, values in values_of(short).items()}
    store = store_of(log, tmp_path, "privacy.retention_days=7", "label.delay_days=1")
    found = values_of(store, np.arange(1480, 1500))
    columns = [name for name in found if name.startswith(("customer.", "terminal."))]
    assert len(columns) > 40
    for name in columns:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert (found["customer.count_all"] == found["customer.count_7d"]).mean() > 0.9


def test_wire_rows_give_the_aggregates_of_what_they_tell(tmp_path: Path) -> None:
    """Two payments of a customer: the second row tells of the first."""
    table = {
        "name": "small",
        "event": {"id": "id", "time": "at", "time_unit": "s"},
        "label": {"column": "fraud", "delay_days": 0},
        "history": [{"name": "cid"}],
        "features": {"categorical": [{"name": "device", "min_count": 1}], "numerical": ["amount"]},
        "wire": {"separator": "~"},
        "split": {"fractions": [0.25, 0.25, 0.25, 0.25]},
    }
    start, day, rows = 1_700_000_000, 86_400, []
    times, devices = [0, 2, 4, 7], ["a", "b", "a", "a"]
    for at in range(4):
        past = range(at)
        told = {
            "hist.cat.at": "~".join(str(start + times[i] * day) for i in past),
            "hist.cat.id": "~".join(map(str, past)),
        }
        told |= {name.replace("cat", "num"): value for name, value in told.items()}
        told |= {"hist.device": "~".join(devices[i] for i in past), "hist.amount": "~".join(str(10 * i) for i in past)}
        own = {
            "id": str(at),
            "at": str(start + times[at] * day),
            "device": devices[at],
            "amount": str(10 * at),
            "fraud": "0",
        }
        rows.append({**own, **told})
    pl.DataFrame(rows).write_ndjson(tmp_path / "rows.jsonl")
    found = values_of(prepare(Market.from_dict(table), tmp_path / "rows.jsonl", tmp_path / "store"))
    assert found["cid.count_all"].tolist() == [0, 1, 2, 3]
    assert found["cid.count_7d"].tolist() == [0, 1, 2, 2]
    assert found["cid.count_1d"].tolist() == [0, 0, 0, 0]
    assert found["cid.device.seen_before"].tolist() == [0, 0, 1, 2]
    assert found["cid.gap_seconds"][1:].tolist() == [2 * day, 2 * day, 3 * day]
    assert not [name for name in found if "known" in name]
