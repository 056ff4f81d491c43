"""Derived features: their values, missing and invalid inputs, and that a log and single payments agree to the bit."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.data.derived import YEARS_PER_SECOND, derive, input_name
from tsa.data.online.payments import PaymentReader
from tsa.data.store.prepare import encoded_log, prepare
from tsa.data.store.store import EventStore
from tsa.errors import DataError, MarketError

ZONE = "America/New_York"
PLACES = ["home_lat", "home_lon", "shop_lat", "shop_lon"]
DERIVED: list[dict[str, Any]] = [
    {"name": "distance", "kind": "distance_km", "columns": PLACES},
    {"name": "age", "kind": "years_between", "columns": ["born", "time"]},
    {"name": "since", "kind": "seconds_between", "columns": ["opened", "time"], "time_unit": "ms"},
    {"name": "share", "kind": "ratio", "columns": ["amount", "limit"]},
    {"name": "left", "kind": "difference", "columns": ["limit", "amount"]},
    {"name": "same", "kind": "equal", "columns": ["billing", "shipping"]},
    {"name": "bin", "kind": "prefix", "columns": "card", "length": 6},
    {"name": "letters", "kind": "length", "columns": ["mail"]},
    {"name": "domain", "kind": "pattern", "columns": ["mail"], "pattern": "@(.+)$"},
    {"name": "hour", "kind": "hour_of_day", "zone": ZONE},
    {"name": "day", "kind": "day_of_week", "zone": ZONE},
    {"name": "date", "kind": "day_of_month", "zone": ZONE},
    {"name": "weekend", "kind": "is_weekend", "zone": ZONE},
]
TABLE: dict[str, Any] = {
    "name": "derived",
    "event": {"id": "id", "time": "time", "amount": "amount"},
    "label": {"column": "fraud", "delay_days": 0.01, "as_feature": True},
    "history": [{"name": "card", "key": "card", "length": 4}, {"name": "bin", "key": "bin", "length": 3}],
    "features": {
        "categorical": [
            {"name": name, "min_count": 1} for name in ("same", "bin", "domain", "hour", "day", "date", "weekend")
        ],
        "numerical": ["amount", "distance", "since"],
        "engineered": ["age", {"name": "share", "scale": "quantile"}, "left", "letters"],
        "derived": DERIVED,
    },
    "split": {"fractions": [0.4, 0.2, 0.2, 0.2]},
}
START = datetime(2025, 3, 8, tzinfo=UTC).timestamp()  # the clocks change on the next day
KINDS: dict[str, Any] = {
    **{"id": pl.String, "time": pl.String, "card": pl.String, "mail": pl.String, "billing": pl.String},
    **{"shipping": pl.String, "born": pl.Date, "opened": pl.Int64, "fraud": pl.Int8},
    **dict.fromkeys([*PLACES, "amount", "limit"], pl.Float64),
}

degrees = st.one_of(st.none(), st.floats(-90, 90))
numbers = st.one_of(st.none(), st.just(0.0), st.floats(-1e9, 1e9), st.floats())
texts = st.sampled_from([None, "", "DE", "US", " US", "a@b.example", "ü@é.example", "@", "true", "27.0"])


def payment(at: int, **values: Any) -> dict[str, Any]:
    usual = {
        **{"time": datetime.fromtimestamp(START + 3600 * at, UTC).isoformat(), "card": f"4929{at % 5}6{at:010d}"},
        **{"mail": f"u{at}@{'ab'[at % 2]}.example", "billing": "DE", "shipping": ("DE", "US")[at % 2]},
        **{
            "born": datetime(1980, 1, 1 + at % 28).date(),
            "opened": int(1000 * (START - at * 86400)),
            "fraud": at % 7 == 0,
        },
        **{
            "home_lat": 52.5,
            "home_lon": 13.4,
            "shop_lat": 48.1 + at % 3,
            "shop_lon": 11.6,
            "amount": 5.0 + at,
            "limit": 100.0,
        },
    }
    return {"id": f"p{at:04d}", **usual, **values}


def market(**changes: Any) -> Market:
    return Market.from_dict({**TABLE, **changes})


def stored(rows: list[dict[str, Any]], folder: Path, suffix: str = "parquet", **given: Any) -> EventStore:
    frame = pl.DataFrame(rows, schema=KINDS)
    if suffix == "csv":
        frame.write_csv(folder / "log.csv")
    else:
        frame.write_parquet(folder / "log.parquet")
    return prepare(market(), folder / f"log.{suffix}", folder / "store", **given)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return stored([payment(at) for at in range(120)], tmp_path_factory.mktemp("derived"))


def values_of(row: dict[str, Any], store: EventStore) -> dict[str, Any]:
    return dict(PaymentReader(store.market, store.encoder).read_all([row]).raw[0])


def test_the_values(store: EventStore) -> None:
    row = payment(3, time="2025-03-09T07:30:00Z", born=datetime(1985, 3, 9).date(), opened=1_741_505_400_000)
    found = values_of(row, store)
    here, there = math.radians(52.5), math.radians(48.1)  # the spherical law of cosines
    cosine = math.sin(here) * math.sin(there) + math.cos(here) * math.cos(there) * math.cos(math.radians(13.4 - 11.6))
    assert found["distance"] == pytest.approx(6371.0088 * math.acos(cosine), abs=1e-6)
    assert found["age"] == pytest.approx(
        (datetime(2025, 3, 9, 7, 30) - datetime(1985, 3, 9)).total_seconds() * YEARS_PER_SECOND
    )
    assert found["since"] == 0.0
    assert (found["share"], found["left"]) == (0.08, 92.0)
    assert (found["same"], found["bin"], found["domain"], found["letters"]) == ("false", "492936", "b.example", 12.0)
    assert (found["hour"], found["day"], found["date"], found["weekend"]) == ("3", "6", "9", "true"), "summer time"


@settings(max_examples=20, deadline=None)
@given(seconds=st.integers(631_152_000, 4_102_444_800))
def test_the_calendar_of_a_zone_is_that_of_python(seconds: int) -> None:
    given_ = {input_name(f, at): 0.0 for f in market().features.derivations for at in range(4)}
    given_ |= {input_name(f, 0): float(seconds) for f in market().features.derivations if f.zone}
    inputs = {name: given_[name] for name in _input_names()}
    found = derive(market(), [{n: str(v) if n in _text_inputs() else v for n, v in inputs.items()}])[0]
    local = datetime.fromtimestamp(seconds, ZoneInfo(ZONE))
    assert (found["hour"], found["day"], found["date"]) == (str(local.hour), str(local.weekday()), str(local.day))


def _input_names() -> list[str]:
    from tsa.data.derived import inputs_of

    return list(inputs_of(market()))


def _text_inputs() -> set[str]:
    from tsa.data.derived import IS_TEXT, inputs_of

    return {name for name, item in inputs_of(market()).items() if IS_TEXT.get(item.kind)}


rows_ = st.lists(
    st.fixed_dictionaries(
        {
            **dict.fromkeys(PLACES, degrees),
            **{"amount": numbers, "limit": numbers, "mail": texts, "billing": texts, "shipping": texts},
            **{"card": st.sampled_from([None, "4929123", "49", "x", "0004929123"])},
            **{"opened": st.one_of(st.none(), st.integers(-(10**12), 2 * 10**12))},
            **{"born": st.one_of(st.none(), st.dates(datetime(1900, 1, 1).date(), datetime(2030, 1, 1).date()))},
        }
    ),
    min_size=1,
    max_size=8,
)


def test_times_of_a_log_and_single_payments_agree(store: EventStore, tmp_path: Path) -> None:
    """Polars divides many rows by a constant with one rounding more than one row."""
    opened = [*range(1_525_651_200_001, 1_525_651_200_100), 725_940_381_034]
    rows = [payment(at, opened=value, born=date(1940, 1, 1) + timedelta(at * 251)) for at, value in enumerate(opened)]
    log = stored(rows, tmp_path, "parquet", encoder=store.encoder)
    for name in ("since", "age"):
        assert [values_of(row, store)[name] for row in rows] == log.columns([name])[name].to_list()


@settings(max_examples=30, deadline=None)
@given(given_=rows_, suffix=st.sampled_from(["parquet", "csv"]))
def test_a_log_and_single_payments_agree(
    store: EventStore, tmp_path_factory: pytest.TempPathFactory, given_: list[dict[str, Any]], suffix: str
) -> None:
    """Refused rows for the same rule of the same field, all others to the bit."""
    folder = tmp_path_factory.mktemp("agree")
    rows = [payment(at, **values) for at, values in enumerate(given_)]
    reader = PaymentReader(store.market, store.encoder)
    parsed = reader.read(rows)
    log = (
        stored([*rows, payment(999)], folder, suffix, encoder=store.encoder, quarantine=None)
        if not parsed.problems
        else None
    )
    if log is None:
        with pytest.raises(DataError) as error:
            stored(rows, folder, suffix, encoder=store.encoder)
        for problem in parsed.problems.values():
            assert f"{problem.rule}:{problem.field}" in str(error.value)
        return
    n = len(rows)
    for name in ("categorical", "numerical", "engineered"):
        np.testing.assert_array_equal(getattr(log, name)[:n], getattr(parsed.payments, name))
    names = [feature["name"] for feature in DERIVED]
    clean = log.columns(names).head(n).to_dicts()
    assert clean == [{name: row[name] for name in names} for row in parsed.payments.raw]
    one_by_one = [reader.read([row]).payments for row in rows]
    for name in ("categorical", "numerical", "engineered"):
        np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in one_by_one]), getattr(log, name)[:n])


def test_missing_inputs_give_missing_values(store: EventStore) -> None:
    nothing = dict.fromkeys([*PLACES, "born", "opened", "limit", "billing", "card", "mail"])
    found = values_of(payment(3, **nothing), store)
    others = {"hour", "day", "date", "weekend"}
    assert {feature["name"] for feature in DERIVED if found[feature["name"]] is not None} == others
    assert values_of(payment(3, limit=0), store)["share"] is None
    assert values_of(payment(3, mail="nobody"), store)["domain"] is None


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("home_lat", 90.5, "out_of_range"),
        ("shop_lon", "-181", "out_of_range"),
        ("limit", "much", "not_a_number"),
        ("limit", "inf", "infinite"),
        ("born", "1985", "bad_time"),
        ("opened", "yesterday", "bad_time"),
        ("card", "4.92912E+15", "inexact"),
    ],
)
def test_invalid_inputs_cost_their_row_alone(
    store: EventStore, tmp_path: Path, field: str, value: Any, rule: str
) -> None:
    rows = [payment(1), payment(2, **{field: value}), payment(3)]
    parsed = PaymentReader(store.market, store.encoder).read(rows)
    assert (parsed.problems[1].rule, parsed.problems[1].field) == (rule, field)
    assert parsed.positions == (0, 2)
    log = [{name: None if v is None else str(v) for name, v in row.items()} for row in rows]
    for row in log:
        row["fraud"] = None
    pl.DataFrame(log, schema=dict.fromkeys(KINDS, pl.String)).write_csv(tmp_path / "log.csv")
    aside = tmp_path / "aside.parquet"
    from tsa.data.log.quarantine import Quarantine

    with encoded_log(
        store.market, tmp_path / "log.csv", store.encoder, quarantine=Quarantine(path=aside, limit=1.0)
    ) as kept:
        assert kept.ids().to_list() == ["p0001", "p0003"]
    assert f"{rule}:{field}" in pl.read_parquet(aside)["__reason"][0]


def test_later_rows_and_order_change_nothing(store: EventStore, tmp_path: Path) -> None:
    rows = [payment(at) for at in range(20)]
    changed = [*rows[:10], *(payment(at, card="1", home_lat=1.0, mail=None) for at in range(10, 20))]
    for at, other in enumerate((rows[::-1], changed)):
        (tmp_path / str(at)).mkdir()
        left = stored(rows, tmp_path / str(at), encoder=store.encoder)
        expected = {name: np.array(getattr(left, name)[:10]) for name in ("categorical", "numerical", "engineered")}
        right = stored(other, tmp_path / str(at), encoder=store.encoder)
        for name, array in expected.items():
            np.testing.assert_array_equal(getattr(right, name)[:10], array)


def test_a_derived_key_has_histories(store: EventStore) -> None:
    index = store.histories["bin"]
    bins = store.columns(["bin"])["bin"].to_list()
    for row, held in itertools.islice(enumerate(index.position - index.start), 50):
        assert held == sum(other == bins[row] for other in bins[:row])
    assert math.isfinite(float(store.numerical.sum()))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "prefix", "columns": ["card"]}, "length is required"),
        ({"kind": "ratio", "columns": ["amount"]}, "columns must be 2"),
        ({"kind": "pattern", "columns": ["mail"], "pattern": "("}, "must be a regular expression"),
        ({"kind": "pattern", "columns": ["mail"], "pattern": "(?=x)"}, "without look-around"),
        ({"kind": "hour_of_day", "zone": "Europe/Nowhere"}, "name of a time zone"),
        ({"kind": "length", "columns": ["mail"], "zone": "UTC"}, "zone is only for"),
        ({"kind": "ratio", "columns": ["amount", "fraud"]}, "the outcome would leak"),
        ({"kind": "ratio", "columns": ["amount", "share"]}, "not from derived ones"),
        ({"kind": "prefix", "columns": ["card"], "length": 2}, "is a text"),
    ],
)
def test_market_files_are_checked(changed: dict[str, Any], message: str) -> None:
    features = {"numerical": ["amount", "x", "share"], "derived": [{"name": "x", **changed}, DERIVED[3]]}
    table = {**TABLE, "features": features, "history": TABLE["history"][:1]}
    with pytest.raises(MarketError, match=message):
        Market.from_dict(table)


def test_unused_and_hidden_inputs_are_refused() -> None:
    features = {"numerical": ["amount"], "derived": [DERIVED[6], DERIVED[1]], "categorical": ["bin"]}
    table = {**TABLE, "features": features, "history": TABLE["history"][:1]}
    with pytest.raises(MarketError, match=r"features\.derived\.age: must be used"):
        Market.from_dict(table)
    features["derived"] = [DERIVED[6]]
    privacy = {"pseudonymise": ["card"], "secret_env": "SECRET"}
    with pytest.raises(MarketError, match="must not be a derived feature or a column of one"):
        Market.from_dict({**table, "privacy": privacy})
    with pytest.raises(MarketError, match=r"features\.derived\.bin: must not be one of privacy.forbidden"):
        Market.from_dict({**table, "history": [{"name": "mail", "key": "mail"}], "privacy": {"forbidden": ["card"]}})


def test_a_market_without_derived_features_keeps_its_fingerprint() -> None:
    features = {"numerical": ["amount"]}
    table = {**TABLE, "features": features, "history": TABLE["history"][:1]}
    same = {**table, "features": {**features, "derived": []}}
    assert Market.from_dict(table).fingerprint == Market.from_dict(same).fingerprint
    assert "derived" not in Market.from_dict(table).to_dict()["features"]
