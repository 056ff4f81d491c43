"""Single payments are encoded to the very bits of a store; histories gathered for them are those of a log."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.past_events import past_of
from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.history import gather
from tsa.data.online.encoded import EVENT_ARRAYS, EncodedPayments
from tsa.data.online.histories import HistoryEvents, event_histories, gather_histories
from tsa.data.online.payments import PaymentReader
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.data.values import RuleViolation
from tsa.errors import ConfigError, DataError, MarketError

MARKET: dict[str, Any] = {
    "name": "odd",
    "event": {"id": "id", "time": "time", "time_unit": "s", "amount": "amount"},
    "label": {"column": "fraud", "delay_days": 1, "as_feature": True},
    "history": [
        {"name": "card", "key": "card", "length": 4},
        {"name": "shop", "key": "shop", "length": 3},
    ],
    "features": {
        "calendar": ["hour_of_day", "day_of_week"],
        "categorical": [{"name": "kind", "min_count": 1}],
        "numerical": [{"name": "amount", "transform": "signed_log1p"}],
        "engineered": [{"name": "age", "scale": "quantile"}],
    },
    "split": {"fractions": [0.4, 0.2, 0.2, 0.2]},
}
START = 1_525_651_200


def stored(rows: list[dict[str, Any]], folder: Path, market: Market, encoder: Encoder | None = None) -> EventStore:
    columns = {
        name: [row.get(name) for row in rows]
        for name in ("id", "time", "card", "shop", "kind", "amount", "age", "fraud")
    }
    kinds = {"id": pl.Int64, "time": pl.Float64, "card": pl.Int64, "shop": pl.String, "kind": pl.String}
    kinds |= {"amount": pl.Float64, "age": pl.Float64, "fraud": pl.Int64}
    pl.DataFrame(columns, schema=kinds).write_parquet(folder / "log.parquet")
    return prepare(market, [folder / "log.parquet"], folder / "store", encoder=encoder)


def random_rows(seed: int, n: int = 120) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "id": int(id_),
            "time": float(START + 3600 * int(rng.integers(0, 60))),
            "card": int(rng.integers(1, 5)) if rng.random() > 0.1 else None,
            "shop": f"s{rng.integers(1, 4)}" if rng.random() > 0.1 else None,
            "kind": [None, "a", "b", "c", "rare"][int(rng.integers(0, 5))],
            "amount": float(rng.normal() * 100) if rng.random() > 0.1 else None,
            "age": float(rng.integers(0, 9)) if rng.random() > 0.1 else None,
            "fraud": [0, 1, -1, None][int(rng.integers(0, 4))],
        }
        for id_ in rng.permutation(3 * n)[:n]
    ]


@pytest.fixture(scope="module")
def market() -> Market:
    return Market.from_dict(MARKET)


@pytest.fixture(scope="module")
def store(market: Market, tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return stored(random_rows(0), tmp_path_factory.mktemp("odd"), market)


@pytest.fixture(scope="module")
def reader(market: Market, store: EventStore) -> PaymentReader:
    return PaymentReader(market, store.encoder)


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["time"], row["id"]))


def test_encoded_as_in_a_store(store: EventStore, reader: PaymentReader) -> None:
    payments = reader.read_all(in_order(random_rows(0)), outcomes=True)
    assert [int(id_) for id_ in payments.ids] == store.ids().to_list()
    for name in ("categorical", "numerical", "engineered", "time_seconds", "label", "known_at_seconds"):
        own, stored_ = getattr(payments, name), getattr(store, name)
        assert own.dtype == stored_.dtype, name
        np.testing.assert_array_equal(own, stored_, err_msg=name)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.integers(0, 119), size=st.integers(1, 40), mixed=st.booleans())
def test_histories_as_of_a_log(
    market: Market,
    store: EventStore,
    reader: PaymentReader,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    cut: int,
    size: int,
    mixed: bool,
) -> None:
    """Some payments of a random log, all others being known already: what is later makes no difference."""
    log = stored(random_rows(seed), tmp_path_factory.mktemp("log"), market, store.encoder)
    rows = in_order(random_rows(seed))
    current = list(range(cut, min(cut + size, len(rows))))
    others = [row for at, row in enumerate(rows) if at not in current and (mixed or at < cut)]
    past = past_of(reader.read_all(others, outcomes=True), market)
    order = np.random.default_rng(seed).permutation(len(current))
    payments = reader.read_all([rows[current[at]] for at in order])
    found = gather_histories(market, store.encoder, event_histories(market, payments, past))
    for history in market.history:
        wanted = gather(log.events, log.histories[history.name], np.asarray(current)[order], history.length)
        own = found[history.name]
        for name in ("categorical", "numerical", "age_seconds", "padding", "same_key"):
            np.testing.assert_array_equal(getattr(own, name), getattr(wanted, name), err_msg=name)
        # outcomes of payments that come in the same request are not known yet
        told = wanted.outcome.copy()
        told[(own.outcome == 1) & (wanted.outcome > 1)] = 1
        np.testing.assert_array_equal(own.outcome, told)
        if size == 1:
            np.testing.assert_array_equal(own.outcome, wanted.outcome)


def test_retention(store: EventStore, reader: PaymentReader, tmp_path: Path) -> None:
    limited = Market.from_dict({**MARKET, "privacy": {"retention_days": 0.5}})
    rows = in_order(random_rows(3))
    (tmp_path / "log").mkdir()
    log = stored(rows, tmp_path / "log", limited, store.encoder)
    payments = reader.read_all(rows[60:])
    past = past_of(reader.read_all(rows[:60], outcomes=True), limited)
    found = gather_histories(limited, store.encoder, event_histories(limited, payments, past))
    for history in limited.history:
        wanted = gather(log.events, log.histories[history.name], np.arange(60, 120), history.length)
        np.testing.assert_array_equal(found[history.name].padding, wanted.padding)
    assert (
        found["card"].padding.sum()
        > gather_histories(reader.market, store.encoder, event_histories(reader.market, payments, past))[
            "card"
        ].padding.sum()
    )


GOOD: dict[str, Any] = {"id": 1, "time": START, "card": 2, "shop": "s1", "kind": "a", "amount": 3, "age": 1}


@pytest.mark.parametrize(
    ("change", "rule", "field"),
    [
        ({"id": None}, "null_id", "id"),
        ({"id": ""}, "null_id", "id"),
        ({"id": [1]}, "not_a_text", "id"),
        ({"time": None}, "null_time", "time"),
        ({"time": "soon"}, "bad_time", "time"),
        ({"time": True}, "bad_time", "time"),
        ({"time": 10**400}, "bad_time", "time"),
        ({"time": 5}, "absurd_time", "time"),
        ({"time": 1e12}, "absurd_time", "time"),
        ({"amount": "ten"}, "not_a_number", "amount"),
        ({"amount": "1_000"}, "not_a_number", "amount"),
        ({"amount": {}}, "not_a_number", "amount"),
        ({"amount": "inf"}, "infinite", "amount"),
        ({"amount": 10**400}, "infinite", "amount"),
        ({"age": math.inf}, "infinite", "age"),
        ({"kind": ["a"]}, "not_a_text", "kind"),
        ({"card": 9.1e18}, "inexact", "card"),
        ({"card": "4.55679E+15"}, "inexact", "card"),
        ({"id": "NULL"}, "null_id", "id"),
        ({"time": "<NA>"}, "null_time", "time"),
        ({"card": {"a": 1}}, "not_a_text", "card"),
    ],
)
def test_refusals(reader: PaymentReader, change: dict[str, Any], rule: str, field: str) -> None:
    """A bad payment says rule, field and value; those beside it are read."""
    found = reader.read([GOOD, {**GOOD, **change}, {**GOOD, "id": 3}])
    assert found.positions == (0, 2)
    assert len(found.payments) == 2
    problem = found.problems[1]
    assert (problem.rule, problem.field) == (rule, field)
    assert len(problem.value) <= 40
    with pytest.raises(DataError, match=rf"payment number 2: {field} must .* [(]got .*, rule {rule}[)]"):
        reader.read_all([GOOD, {**GOOD, **change}])


def test_each_row_keeps_its_place(reader: PaymentReader) -> None:
    """Problems found while reading and after: each stands where its row does."""
    rows = random_rows(5, n=7)
    rows[2], rows[4] = {**rows[2], "amount": "much"}, {**rows[4], "kind": "\ud800"}
    late = RuleViolation("late", "payment", "must be right", "it is not")
    found = reader.read(rows)
    assert found.positions == (0, 1, 3, 5, 6)
    found = found.without({1: late, 3: late})
    assert found.positions == (0, 3, 6)
    assert found.payments.ids == tuple(reader.read_all([rows[at]]).ids[0] for at in (0, 3, 6))
    came = found.in_place(["a", "b", "c"])
    assert [one if isinstance(one, str) else one.rule for one in came] == [
        *("a", "late", "not_a_number", "b", "not_a_text", "late", "c")
    ]
    assert found.without({}) is found
    nothing = reader.read([rows[2]])
    assert nothing.in_place([]) == [found.problems[2]]


def test_fields(market: Market, store: EventStore, reader: PaymentReader) -> None:
    assert reader.read([{name: GOOD[name] for name in GOOD if name != "kind"}]).problems[0].rule == "missing_field"
    assert reader.read([{**GOOD, "other": 1}]).problems == {}
    strict = PaymentReader(market, store.encoder, refuse_unknown_fields=True)
    assert strict.read([{**GOOD, "other": 1}]).problems[0].rule == "unknown_field"
    assert strict.read([GOOD, {**GOOD, "fraud": 1}]).problems == {}
    assert reader.read([["a"]]).problems[0].rule == "not_an_object"  # type: ignore[list-item]
    assert reader.read([]).payments.categorical.shape == (0, 3)


def test_outcomes(reader: PaymentReader) -> None:
    rows = [{**GOOD, "fraud": 1}, {**GOOD, "fraud": -1}, GOOD]
    assert reader.read_all(rows).label.tolist() == [-1, -1, -1], "a current payment has none"
    payments = reader.read_all(rows, outcomes=True)
    assert payments.label.tolist() == [1, -1, -1]
    assert payments.known_at_seconds.tolist() == [START + 86_400, math.inf, math.inf]
    assert reader.read([{**GOOD, "fraud": 2}], outcomes=True).problems[0].rule == "bad_label"


TIMES = [
    "2018-05-07",
    "2018-05-07 12:30",
    "2018-05-07T12:30:15",
    "2018-05-07T12:30:15Z",
    "2018-05-07 12:30:15.25 UTC",
    "2018-05-07T12:30:15,123456789+05:30",
    "2018-05-07T12:30:15-0730",
    "2018-05-07T12:30:15.1+02",
    " 2018-05-07 ",
]


@pytest.mark.parametrize("text", [*TIMES, "2018-02-30", "2018-5-7", "20180507", "2018-05-07T25:00", "12:30", "x"])
def test_times_are_read_as_in_logs(store: EventStore, tmp_path: Path, text: str) -> None:
    spelled = Market.from_dict({**MARKET, "event": {"id": "id", "time": "time", "amount": "amount"}})
    found = PaymentReader(spelled, store.encoder).read([{**GOOD, "time": text}])
    pl.DataFrame({**{name: [value] for name, value in GOOD.items()}, "time": [text]}).write_parquet(
        tmp_path / "log.parquet"
    )
    try:
        log = prepare(spelled, [tmp_path / "log.parquet"], tmp_path / "store", encoder=store.encoder)
    except DataError:
        assert found.problems[0].rule == "bad_time"
    else:
        assert found.payments.time_seconds[0] == log.time_seconds[0]
        assert text in TIMES


def test_a_datetime(store: EventStore) -> None:
    spelled = Market.from_dict({**MARKET, "event": {"id": "id", "time": "time", "amount": "amount"}})
    reader = PaymentReader(spelled, store.encoder)
    moments = [datetime(2018, 5, 7, 12), datetime(2018, 5, 7, 12, tzinfo=UTC)]
    found = reader.read_all([{**GOOD, "time": moment} for moment in moments])
    assert found.time_seconds.tolist() == [START + 12 * 3600] * 2


def test_excluded_accounts(store: EventStore) -> None:
    features = {**MARKET["features"], "exclude": [{"column": "card", "values": [7, "test"]}]}
    reader = PaymentReader(Market.from_dict({**MARKET, "features": features}), store.encoder)
    found = reader.read([{**GOOD, "card": card} for card in (7, "7", 7.0, "7.0", "007", "test", 8, None)])
    assert found.positions == (6, 7)
    assert {problem.rule for problem in found.problems.values()} == {"excluded"}


def test_pseudonyms(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    veiled = Market.from_dict({**MARKET, "privacy": {"pseudonymise": ["id", "card"], "secret_env": "TSA_TEST_SECRET"}})
    with pytest.raises(ConfigError, match="TSA_TEST_SECRET"):
        PaymentReader(veiled, store.encoder)
    monkeypatch.setenv("TSA_TEST_SECRET", "s" * 32)
    payments = PaymentReader(veiled, store.encoder).read_all([GOOD])
    assert len(payments.ids[0]) == 32
    assert payments.keys["card"][0] == payments.raw[0]["card"] != "2"
    assert payments.keys["shop"] == ("s1",)


def test_other_features_are_refused(store: EventStore) -> None:
    other = {**MARKET, "features": {**MARKET["features"], "calendar": []}}
    with pytest.raises(MarketError):
        PaymentReader(Market.from_dict(other), store.encoder)


def test_arrays_are_those_of_events() -> None:
    assert set(EVENT_ARRAYS) <= set(HistoryEvents.__dataclass_fields__) & set(EncodedPayments.__dataclass_fields__)
