from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.data.aggregates.compute import compute_aggregates
from tsa.data.aggregates.in_words import describe
from tsa.data.aggregates.spec import COMPARED, DETAILED, AggregateSpec, unit_scale
from tsa.data.store.prepare import prepare
from tsa.data.wire import WireReader
from tsa.errors import MarketError, StoreError
from tsa.simulation import SimulationConfig
from tsa.simulation.wire import write_wire


def market(**changes: Any) -> Market:
    table: dict[str, Any] = {
        "name": "wide",
        "event": {"id": "id", "time": "time"},
        "label": {"column": "fraud", "delay_days": 1, "as_feature": True},
        "history": [{"name": "b", "key": "bank"}, {"name": "a", "key": "account"}],
        "features": {
            "categorical": [f"c{at}" for at in range(COMPARED + 2)],
            "numerical": [f"n{at}" for at in range(DETAILED + 2)],
        },
    }
    return Market.from_dict({**table, **changes})


def spec_of(market: Market, **settings: Any) -> AggregateSpec:
    numbers = np.ones((5, len(market.features.numerical)), np.float32)
    store: Any = SimpleNamespace(market=market, raw_numerical=numbers, numerical=numbers)
    return AggregateSpec.of(store, np.arange(5), **{"history_length": "market", **settings})


def test_every_column_is_named_once_and_the_own_key_is_left_out() -> None:
    spec = spec_of(market())
    assert len(set(spec.names)) == len(spec.names)
    assert {name.split("/")[2] for name in spec.names if "/key/" in name and name.startswith("a/")} == {"b"}
    assert {name.split("/")[2] for name in spec.names if "/key/" in name and name.startswith("b/")} == {"a"}
    for history in spec.histories:
        assert [one.name for one in spec.of_history(history)] == [n for n in spec.names if n.startswith(f"{history}/")]
        assert len(spec.stored_columns[history]) == len(spec.of_history(history))


def test_the_first_features_have_all_statistics_and_the_others_few() -> None:
    names = spec_of(market()).names
    per = {
        feature: sum(f"/{feature}/" in name for name in names)
        for feature in ("n0", f"n{DETAILED}", "c0", f"c{COMPARED}")
    }
    assert per == {"n0": 2 * (5 * 6 + 2), f"n{DETAILED}": 2 * 6, "c0": 2 * 4, f"c{COMPARED}": 2}


def test_outcomes_only_where_the_market_uses_them() -> None:
    quiet = market(label={"column": "fraud", "delay_days": 1})
    assert not [name for name in spec_of(quiet).names if "outcome" in name or "fraud" in name]


def test_saved_as_json_and_read_again() -> None:
    spec = spec_of(market(), history_length=None)
    assert AggregateSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    with pytest.raises(StoreError, match="version 1"):
        AggregateSpec.from_dict({**spec.to_dict(), "version": 7})
    with pytest.raises(StoreError, match="must be as this program writes it"):
        AggregateSpec.from_dict({"version": 1})
    spec.check_market(market())
    with pytest.raises(StoreError, match=r"categorical must be those of market 'wide', \[\] \(got \['c0'"):
        spec.check_market(market(features={"numerical": ["other"]}))


def test_the_market_sets_windows_and_length() -> None:
    spec = spec_of(market(trees={"history_length": 9, "windows": ["30m", "2d"]}))
    assert (spec.history_length, spec.window_seconds) == (9, (1800, 172_800))
    assert market(trees={"history_length": 9}).fingerprint == market().fingerprint
    with pytest.raises(MarketError, match=r"windows must become longer and longer \(got \['1d', '24h'\]\)"):
        market(trees={"windows": ["1d", "24h"]})


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=20))
def test_units_are_fine_and_leave_room(values: list[float]) -> None:
    scale = unit_scale(np.array(values, np.float64))
    finite = np.abs([value for value in values if np.isfinite(value)])
    usual = np.quantile(finite, 0.999) if len(finite) and np.quantile(finite, 0.999) > 0 else 1.0
    assert 2**31 / 10_001 <= usual * scale <= 2**31 / 999


def test_amounts_in_cents_stay_exact() -> None:
    assert unit_scale(np.array([19.99, 250.0, 12_000.0])) >= 100


def test_requests_that_carry_their_history_give_the_bits_of_a_store(tmp_path: Path) -> None:
    text = {
        "name": "tiny",
        "event": {"id": "payment_id", "time": "paid_at", "time_unit": "s", "amount": "amount"},
        "label": {"column": "is_fraud", "delay_days": 1},
        "history": [
            {"name": "cid", "key": "customer_id", "length": 8},
            {"name": "ccid", "key": "card_id", "length": 6},
        ],
        "features": {
            "categorical": ["merchant_category", "device"],
            "numerical": [{"name": "amount", "transform": "log1p"}],
        },
        "split": {"fractions": [0.5, 0.2, 0.1, 0.2]},
        "wire": {"separator": ";", "history_field": "{history}.{feature}", "event_field": "{history}.{part}.{feature}"},
    }
    wired = Market.from_dict(text)
    config = SimulationConfig(payments=400, fraud_rate=0.08, days=40, seed=3)
    write_wire(config, wired, tmp_path / "rows.tsv")
    store = prepare(wired, tmp_path / "rows.tsv", tmp_path / "store")
    spec = AggregateSpec.of(store, np.arange(200), history_length="market")
    wanted = compute_aggregates(spec, store)
    rows = pl.read_csv(tmp_path / "rows.tsv", separator="\t", infer_schema=False).fill_null("")
    reader = WireReader(wired, store.encoder)
    place = {id_: at for at, id_ in enumerate(store.ids().to_list())}
    lines = [{name.replace("__DOT__", "."): value for name, value in row.items()} for row in rows.iter_rows(named=True)]
    for first in (*range(0, 40), 40, 100):
        some = lines[first : first + (1 if first < 40 else 60)]
        requests = reader.read(some)
        found = compute_aggregates(spec, requests.seen)
        at = [place[id_] for id_ in requests.ids]
        np.testing.assert_array_equal(found.view(np.uint32), wanted[at].view(np.uint32))
    assert not any("/key/" in name for name in spec.names)
    assert np.nanmax(wanted[:, spec.names.index("cid/events/count_all")]) == 7


@pytest.mark.parametrize("value", [0.0, 1.0, 12.5, 1e9, math.nan])
def test_every_aggregate_has_words(value: float) -> None:
    texts = [describe(aggregate, value) for aggregate in spec_of(market()).aggregates]
    assert not [text for text in texts if "{" in text or "nan" in text or not text]
