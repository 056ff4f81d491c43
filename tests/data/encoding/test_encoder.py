from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.log.reader import TIME
from tsa.errors import DataError, MarketError, StoreError

SCHEMA = {"category": pl.String, "amount": pl.Float64, "risk": pl.Float64, TIME: pl.Float64}
DAY = 86_400.0


def _market(**features: Any) -> Market:
    table = {
        "name": "tiny",
        "event": {"id": "id", "time": "time"},
        "label": {"column": "fraud", "delay_days": 1},
        "history": [{"name": "customer", "key": "customer"}],
        "features": {
            "calendar": ["hour_of_day", "month"],
            "categorical": [{"name": "category", "min_count": 2}],
            "numerical": [{"name": "amount", "transform": "log1p"}],
            "engineered": [{"name": "risk", "scale": "quantile"}],
            **features,
        },
    }
    return Market.from_dict(table)


row = st.tuples(
    st.sampled_from([None, "a", "b", "c", "d"]),
    st.one_of(st.none(), st.floats(0, 1e6)),
    st.one_of(st.none(), st.floats(-1e6, 1e6)),
    st.floats(0, 2e9),
)
rows = st.lists(row, max_size=25)


def _frame(values: list[Any]) -> pl.DataFrame:
    return pl.DataFrame(values, schema=SCHEMA, orient="row")


def _bytes(encoder: Encoder, frame: pl.DataFrame) -> list[bytes]:
    return [encode(frame).tobytes() for encode in (encoder.categorical, encoder.numerical, encoder.engineered)]


def test_names_sizes_and_rows_of_the_table() -> None:
    train = _frame([("b", 1.0, 1.0, 0.0), ("b", 2.0, None, 0.0), ("a", 3.0, 2.0, 0.0)])
    encoder = Encoder.fit(_market(), train)
    assert encoder.categorical_names == ("category", "hour_of_day", "month")
    assert encoder.numerical_names == ("amount", "another value is missing")
    assert encoder.engineered_names == ("risk", "risk is missing")
    assert [v.first_row for v in encoder.vocabularies] == [1, 4, 30]
    assert encoder.n_rows == 44
    rare = encoder.categorical(_frame([("a", 1.0, 1.0, 31 * DAY + 3600.0)]))
    assert rare.dtype == np.int32
    assert rare.tolist() == [[2, 4 + 2 + 1, 30 + 2 + 1]]
    assert encoder.numerical(train).dtype == np.float32
    assert encoder.numerical(train).shape == (3, 2)
    assert encoder.engineered(train)[:, 1].tolist() == [0, 1, 0]


def test_a_market_without_features_has_the_padding_row_alone() -> None:
    encoder = Encoder.fit(_market(calendar=[], categorical=[], numerical=[], engineered=[]), _frame([]))
    frame = _frame([("a", 1.0, 1.0, 0.0)])
    assert encoder.n_rows == 1
    assert [encoder.categorical(frame).shape, encoder.numerical(frame).shape] == [(1, 0), (1, 0)]


@settings(max_examples=50, deadline=None)
@given(train=rows, payments=rows, seed=st.integers(0, 99))
def test_a_row_is_encoded_alone_in_any_order(train: list[Any], payments: list[Any], seed: int) -> None:
    encoder = Encoder.fit(_market(), _frame(train))
    order = np.random.default_rng(seed).permutation(len(payments))
    frame = _frame(payments)
    for encode in (encoder.categorical, encoder.numerical, encoder.engineered):
        together = encode(frame)
        assert together[order].tobytes() == encode(frame[order]).tobytes()
        for index, payment in enumerate(payments):
            assert together[index].tobytes() == encode(_frame([payment])).tobytes()


@settings(max_examples=50, deadline=None)
@given(train=rows, payments=rows)
def test_a_saved_encoder_encodes_to_the_bit(train: list[Any], payments: list[Any], tmp_path_factory: Any) -> None:
    encoder = Encoder.fit(_market(), _frame(train).lazy())
    path = tmp_path_factory.mktemp("encoder") / "encoder.json"
    encoder.save(path)
    again = Encoder.load(path)
    assert again == encoder
    assert _bytes(again, _frame(payments)) == _bytes(encoder, _frame(payments))


def test_an_encoder_knows_its_market() -> None:
    market = _market()
    encoder = Encoder.fit(market, _frame([("a", 1.0, 1.0, 0.0)]))
    assert encoder.market_fingerprint == market.fingerprint
    encoder.check_market(market)
    with pytest.raises(
        MarketError, match=r"features.calendar must be as the encoder was fitted: \['hour_of_day', 'mon"
    ):
        encoder.check_market(_market(calendar=["month"]))
    with pytest.raises(MarketError, match=r"features.numerical .* [(]got \['amount \(none, standard\)'\]"):
        encoder.check_market(_market(numerical=["amount"]))


def test_rows_without_the_columns_or_times_are_refused() -> None:
    encoder = Encoder.fit(_market(), _frame([("a", 1.0, 1.0, 0.0)]))
    with pytest.raises(DataError, match="calendar features need the column '__time_seconds'"):
        encoder.categorical(_frame([("a", 1.0, 1.0, 0.0)]).drop(TIME))
    with pytest.raises(DataError, match="must be finite, but 1 rows are not"):
        encoder.categorical(_frame([("a", 1.0, 1.0, None)]))


def test_an_unreadable_encoder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "encoder.json"
    path.write_text("{")
    with pytest.raises(StoreError, match=r"encoder\.json cannot be read"):
        Encoder.load(path)
    path.write_text('{"version": 1}')
    with pytest.raises(StoreError, match="must be as this program writes it"):
        Encoder.load(path)
    path.write_text('{"version": 9}')
    with pytest.raises(StoreError, match="version=9"):
        Encoder.load(path)
