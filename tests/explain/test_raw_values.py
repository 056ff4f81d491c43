"""What is read back from encoded values, and the facts of rows that carry their own history."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.scaler import ImportedScaler, ScalerGroup
from tsa.data.encoding.vocabulary import ImportedVocabulary
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.explain.baseline import Baseline
from tsa.explain.raw_values import UNKNOWN, calendar_values, decoded, decoded_numbers, store_facts

FEATURES = {
    "calendar": ["hour_of_day", "day_of_week"],
    "categorical": [{"name": "device", "min_count": 2}],
    "numerical": [
        {"name": "amount", "transform": "log1p"},
        {"name": "balance", "transform": "signed_log1p", "scale": "minmax"},
        {"name": "rank", "scale": "quantile"},
    ],
    "engineered": [{"name": "gap", "scale": "quantile"}],
}
MARKET = {
    "name": "facts",
    "event": {"id": "id", "time": "time", "time_unit": "s"},
    "label": {"column": "fraud", "delay_days": 1},
    "history": [{"name": "customer", "key": "customer", "length": 4}],
    "features": FEATURES,
}
FRAME = pl.DataFrame(
    {
        "device": ["a", "a", "b", "b", None, "rare"],
        "amount": [5.0, 50.0, None, 500.0, 12.0, 0.0],
        "balance": [-100.0, 0.0, 40.0, 1e6, 3.0, -2.0],
        "rank": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "gap": [0.0, 1.0, None, 3.0, 4.0, 5.0],
        "__time_seconds": [1_525_651_200.0 + 3_600 * hour for hour in range(6)],
    }
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.fit(Market.from_dict(MARKET), FRAME)


def test_encoded_values_are_read_back(encoder: Encoder) -> None:
    categorical, numerical = encoder.categorical(FRAME), encoder.numerical(FRAME)
    engineered = encoder.engineered(FRAME)
    for row, line in enumerate(FRAME.iter_rows(named=True)):
        values = decoded(encoder, categorical[row], numerical[row])
        values |= decoded_numbers(encoder.engineered_scaling, engineered[row])
        assert values["device"] == (UNKNOWN if line["device"] == "rare" else line["device"])
        assert values["hour_of_day"] == str(row)
        for name in ("amount", "balance", "rank", "gap"):
            if line[name] is None:
                assert values[name] is None
            else:
                assert values[name] == pytest.approx(line[name], rel=1e-3, abs=1e-2)


def test_calendar_values(encoder: Encoder) -> None:
    assert calendar_values(encoder, 1_525_651_200.0 + 3 * 3_600) == {"hour_of_day": "3", "day_of_week": "0"}
    assert calendar_values(encoder, None) == {}


def test_values_of_another_system() -> None:
    vocabulary = ImportedVocabulary(name="x", values=("-1", "a", "b"), rows=(4, 7, 7), default="-1")
    encoder = Encoder(
        market_name="m",
        market_fingerprint="",
        categorical_vocabularies=(vocabulary,),
        calendar_vocabularies=(),
        numerical_scaling=ScalerGroup((ImportedScaler(name="y", slope=0.5, offset=0.1, default=2.0),)),
        engineered_scaling=ScalerGroup(()),
    )
    assert decoded(encoder, np.array([7]), np.array([1.6], np.float32)) == {"x": "a", "y": pytest.approx(3.0)}
    assert decoded(encoder, np.array([0]), np.array([0.1], np.float32))["x"] == UNKNOWN
    neutral = Baseline.of(encoder)
    assert [rows.tolist() for rows in neutral.rows] == [[4, 7]]
    assert neutral.numerical.tolist() == pytest.approx([1.1])


def test_neutral_values_are_in_the_middle(encoder: Encoder) -> None:
    neutral = Baseline.of(encoder)
    device, hour, _ = neutral.rows
    assert device.tolist() == [3, 4]  # a and b: neither missing nor unknown
    assert len(hour) == 24
    names = dict(zip(encoder.numerical_names, neutral.numerical.tolist(), strict=True))
    assert (names["amount"], names["balance"], names["rank"]) == (0.0, 0.0, 0.5)
    assert names["amount is missing"] == 0.0
    assert neutral.engineered.tolist()[0] == 0.5


def test_earlier_payments_that_rows_carry_along_are_read_back(tmp_path: Path) -> None:
    wire = {"history_field": "past.{feature}", "event_field": "past.{part}.{feature}", "separator": "~"}
    features = {"categorical": [{"name": "device", "min_count": 1}], "numerical": ["amount"]}
    market = Market.from_dict({**MARKET, "features": features, "wire": wire})
    rows = {
        "id": ["p1", "p2"],
        "time": ["1525651200", "1525661200"],
        "customer": ["c", "c"],
        "fraud": ["0", "1"],
        "device": ["phone", "tablet"],
        "amount": ["5", "70.5"],
        "past.device": ["", "phone~laptop"],
        "past.amount": ["", "5~9.5"],
        **{f"past.{part}.time": ["", "1525651200~1525651300"] for part in ("cat", "num")},
        **{f"past.{part}.id": ["", "p1~x"] for part in ("cat", "num")},
    }
    pl.DataFrame(rows).write_csv(tmp_path / "rows.tsv", separator="\t")
    frame = pl.DataFrame({"device": ["phone", "tablet"], "amount": [5.0, 70.5], "__time_seconds": [0.0, 1.0]})
    store: EventStore = prepare(market, tmp_path / "rows.tsv", tmp_path / "store", encoder=Encoder.fit(market, frame))
    first, second = store_facts(store, [0, 1])
    assert first.payment.values["device"] == "phone"
    assert not first.earlier["customer"]
    assert second.payment.id == "p2"
    told = second.earlier["customer"]
    assert [payment.values["amount"] for payment in told] == [pytest.approx(5.0), pytest.approx(9.5)]
    assert [payment.values["device"] for payment in told] == ["phone", UNKNOWN]
    assert [payment.time_seconds for payment in told] == [1_525_651_200.0, 1_525_651_300.0]
