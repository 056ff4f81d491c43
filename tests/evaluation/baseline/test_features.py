from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from tsa.config.market import Market
from tsa.data.aggregates.compute import compute_aggregates
from tsa.data.aggregates.spec import AggregateSpec
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.evaluation.baseline.features import baseline_features

MARKET: dict[str, Any] = {
    "name": "features",
    "event": {"id": "id", "time": "time", "time_unit": "s"},
    "label": {"column": "fraud", "delay_days": 1},
    "history": [{"name": "card", "key": "card", "length": 4}],
    "features": {
        "categorical": [{"name": "card/events/count_all", "min_count": 1}, {"name": "calendar.hour", "min_count": 1}],
        "numerical": [{"name": "amount", "transform": "log1p"}],
        "engineered": [{"name": "age"}],
    },
    "split": {"fractions": [0.4, 0.2, 0.2, 0.2]},
}
HOUR = 3600
MONDAY = 1_525_651_200  # 2018-05-07


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    folder = tmp_path_factory.mktemp("features")
    n = 200
    rows = {
        "id": list(range(n)),
        "time": [MONDAY + HOUR * at for at in range(n)],
        "card": [f"c{at % 3}" for at in range(n)],
        "card/events/count_all": ["a", "b"] * (n // 2),
        "calendar.hour": ["x"] * n,
        "amount": [None if at == 5 else 0.5 * at for at in range(n)],
        "age": [float(at % 7) for at in range(n)],
        "fraud": [int(at % 5 == 0) for at in range(n)],
    }
    pl.DataFrame(rows).write_parquet(folder / "log.parquet")
    return prepare(Market.from_dict(MARKET), folder / "log.parquet", folder / "store")


def test_own_values_then_aggregates(store: EventStore) -> None:
    spec = AggregateSpec.of(store, np.arange(80), history_length=None)
    rows = np.array([30, 5, 199])
    made = baseline_features(store, rows, spec)
    assert made.values.shape == (3, len(made.names))
    assert len(set(made.names)) == len(made.names)
    assert made.current == ("amount", "age", "calendar.hour", "calendar.day_of_week")
    assert made.categorical == ("card/events/count_all'", "calendar.hour'")
    assert made.names[:6] == (*made.current, *made.categorical)
    assert made.names[6:] == spec.names
    np.testing.assert_array_equal(made.values[:, 0], [15.0, np.nan, 99.5])
    np.testing.assert_array_equal(made.values[:, 2], [6, 5, 199 % 24])
    np.testing.assert_array_equal(made.values[:, 3], [1, 0, 1])
    np.testing.assert_array_equal(made.values[:, 6:], compute_aggregates(spec, store, rows))


def test_aggregates_reach_over_the_whole_log(store: EventStore) -> None:
    spec = AggregateSpec.of(store, np.arange(80), history_length=None)
    made = baseline_features(store, np.array([199]), spec)
    assert made.values[0, made.names.index("card/events/count_all")] == 66
    assert not any("/outcome/" in name for name in made.names)
