"""Aggregates are the same bits from a log and from single payments, and see nothing of later events."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.past_events import past_of
from tsa.config.market import Market
from tsa.data.aggregates import compute
from tsa.data.aggregates.compute import compute_aggregates
from tsa.data.aggregates.spec import Aggregate, AggregateSpec
from tsa.data.encoding.encoder import Encoder
from tsa.data.online.histories import event_histories
from tsa.data.online.payments import PaymentReader
from tsa.data.store.prepare import encoded_log, prepare
from tsa.data.store.store import EventStore

START = 1_525_651_200
MARKET: dict[str, Any] = {
    "name": "odd",
    "event": {"id": "id", "time": "time", "time_unit": "s", "amount": "amount"},
    "label": {"column": "fraud", "known_at": "known", "as_feature": True},
    "history": [{"name": "shop", "key": "shop", "length": 3}, {"name": "card", "key": "card", "length": 4}],
    "features": {
        "calendar": ["hour_of_day"],
        "categorical": [{"name": "kind"}, {"name": "count", "min_count": 1}],
        "numerical": [{"name": "amount", "transform": "signed_log1p"}, {"name": "known_all"}],
    },
    "trees": {"history_length": 5, "windows": ["1h", "10h", "1d", "2d"]},
}
SCHEMA = {
    "id": pl.Int64(),
    "time": pl.Float64(),
    "card": pl.Int64(),
    "shop": pl.String(),
    "kind": pl.String(),
    "count": pl.String(),
    "amount": pl.Float64(),
    "known_all": pl.Float64(),
    "fraud": pl.Int64(),
    "known": pl.Float64(),
}


def random_rows(seed: int, n: int = 40) -> list[dict[str, Any]]:
    """Payments in (time, id) order, many at equal times, with outcomes that become known in any order."""
    rng = np.random.default_rng(seed)
    rows = []
    for id_ in rng.permutation(3 * n)[:n].tolist():
        time = float(START + 1800 * int(rng.integers(0, 60)))
        fraud = [0, 1, 1, None][int(rng.integers(0, 4))]
        late = float(rng.integers(0, 30) * 1800)
        rows.append(
            {
                "id": id_,
                "time": time,
                "card": int(rng.integers(1, 4)) if rng.random() > 0.1 else None,
                "shop": f"s{rng.integers(1, 4)}" if rng.random() > 0.1 else None,
                "kind": [None, "a", "b", "rare"][int(rng.integers(0, 4))],
                "count": str(rng.integers(0, 2)),
                "amount": round(float(rng.normal() * 100), 2) if rng.random() > 0.1 else None,
                "known_all": float(rng.integers(0, 9)) * 10.0 ** int(rng.integers(-30, 30)),
                "fraud": fraud,
                "known": None if fraud is None or late > 40_000 else time + late,
            }
        )
    return sorted(rows, key=lambda row: (row["time"], row["id"]))


@pytest.fixture(scope="module")
def market() -> Market:
    return Market.from_dict(MARKET)


@pytest.fixture(scope="module")
def trained(market: Market, tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    folder = tmp_path_factory.mktemp("log")
    pl.DataFrame(random_rows(0, 300), schema=SCHEMA).write_parquet(folder / "log.parquet")
    return prepare(market, folder / "log.parquet", folder / "store")


@pytest.fixture(scope="module")
def spec(trained: EventStore) -> AggregateSpec:
    return AggregateSpec.of(trained, np.arange(200), history_length="market")


def of_log(market: Market, encoder: Encoder, spec: AggregateSpec, rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    with encoded_log(market, pl.DataFrame(rows, schema=SCHEMA), encoder) as store:
        return compute_aggregates(spec, store)


def same_bits(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any], spec: AggregateSpec) -> None:
    wrong = left.view(np.uint32) != right.view(np.uint32)
    names = [spec.names[at] for at in np.flatnonzero(wrong.any(axis=0))]
    assert not wrong.any(), (names, left[wrong][:5], right[wrong][:5])


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), cut=st.integers(0, 39))
def test_single_payments_as_in_a_log(
    market: Market, trained: EventStore, spec: AggregateSpec, seed: int, cut: int
) -> None:
    """Each payment with what a history store knows of its keys; earlier or later payments asked with it change nothing."""
    rows = random_rows(seed)
    wanted = of_log(market, trained.encoder, spec, rows)
    reader = PaymentReader(market, trained.encoder)
    past = past_of(reader.read_all([row for at, row in enumerate(rows) if at != cut], outcomes=True), market)
    found = compute_aggregates(spec, event_histories(market, reader.read_all([rows[cut]]), past))
    same_bits(found, wanted[[cut]], spec)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), cut=st.integers(0, 39), shuffle=st.randoms(use_true_random=False))
def test_later_events_and_outcomes_change_nothing(
    market: Market, trained: EventStore, spec: AggregateSpec, seed: int, cut: int, shuffle: Any
) -> None:
    rows = random_rows(seed)
    before = of_log(market, trained.encoder, spec, rows)[: cut + 1]
    now = rows[cut]["time"]
    seen = [dict(row) for row in rows[: cut + 1]]
    for row in seen:
        if row["known"] is not None and row["known"] > now:
            row["fraud"] = None if row["fraud"] else 1
    seen[-1]["fraud"] = 1
    later = [{**row, "time": now + 1 + at} for at, row in enumerate(random_rows(seed + 1, 10))]
    later = [{**row, "id": 1000 + at, "known": None} for at, row in enumerate(later)]
    changed = seen + later
    shuffle.shuffle(changed)
    after = of_log(market, trained.encoder, spec, changed)
    same_bits(after[[cut]], before[[cut]], spec)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6), size=st.integers(1, 39), together=st.booleans(), piece=st.sampled_from([1, 60, 10**6])
)
def test_rows_pieces_and_batches_change_nothing(
    market: Market, trained: EventStore, spec: AggregateSpec, seed: int, size: int, together: bool, piece: int
) -> None:
    rng = np.random.default_rng(seed)
    with encoded_log(market, pl.DataFrame(random_rows(seed), schema=SCHEMA), trained.encoder) as store:
        wanted = compute_aggregates(spec, store)
        some = rng.permutation(40)[:size]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compute, "TOGETHER", 64 if together else 0)
            patch.setattr(compute, "PIECE_VALUES", piece)
            found = compute_aggregates(spec, store, some)
    same_bits(found, wanted[some], spec)


def slow(spec: AggregateSpec, column: Aggregate, rows: list[dict[str, Any]], at: int, length: int) -> float:
    """One aggregate by its definition, event by event."""
    key = rows[at][column.history]
    now = rows[at]["time"]
    past = [row for row in rows[:at] if key is not None and row[column.history] == key][-(length - 1) :]
    seconds = dict(zip(spec.windows, spec.window_seconds, strict=True)).get(column.window, math.inf)
    inside = [row for row in past if row["time"] > now - seconds]
    if column.kind == "events":
        return len(inside)
    if column.kind == "gap":
        times = [row["time"] for row in past]
        if column.statistic == "last_seconds":
            return now - times[-1] if times else math.nan
        if column.statistic == "first_seconds":
            return now - times[0] if times else math.nan
        if len(times) < 2:
            return math.nan
        return (
            times[-1] - times[-2] if column.statistic == "before_seconds" else (times[-1] - times[0]) / (len(times) - 1)
        )
    if column.kind == "number":
        return slow_number(column, [row[column.feature] for row in inside], rows[at][column.feature])
    if column.kind in ("categorical", "key"):
        return slow_same(column, past, rows[at])
    known = [row for row in past if row["fraud"] is not None and row["known"] is not None and row["known"] <= now]
    fraud = [row for row in known if row["fraud"] == 1]
    if column.kind == "fraud_number":
        return slow_number(column, [row[column.feature] or 0.0 for row in fraud], rows[at][column.feature])
    recent = [row for row in known if row["known"] > now - seconds]
    n_fraud = sum(row["fraud"] for row in recent)
    return {
        "known": len(recent),
        "fraud": n_fraud,
        "fraud_rate": n_fraud / len(recent) if recent else math.nan,
        "last_fraud_seconds": now - fraud[-1]["time"] if fraud else math.nan,
        "first_fraud_seconds": now - fraud[0]["time"] if fraud else math.nan,
        "last_is_fraud": known[-1]["fraud"] if known else math.nan,
    }[column.statistic]


def slow_number(column: Aggregate, values: list[float | None], own: float | None) -> float:
    present = [value for value in values if value is not None]
    current = math.nan if own is None else own
    if column.statistic == "total":
        return sum(present)
    if not present:
        return math.nan
    mean = sum(present) / len(present)
    return {
        "mean": mean,
        "std": float(np.std(present)),
        "highest": max(present),
        "ratio": current / mean if mean else math.nan,
        "difference": current - mean,
    }[column.statistic]


def slow_same(column: Aggregate, past: list[dict[str, Any]], own: dict[str, Any]) -> float:
    value = own[column.feature]
    if column.statistic == "distinct":
        return len({row[column.feature] for row in past})
    if column.kind == "key" and value is None:
        return math.nan
    same = [row for row in past if row[column.feature] == value]
    if column.statistic == "count":
        return len(same)
    if column.statistic == "share":
        return len(same) / len(past) if past else math.nan
    return own["time"] - same[-1]["time"] if same else math.nan


@pytest.mark.parametrize("length", [5, None])
def test_by_definition(market: Market, trained: EventStore, spec: AggregateSpec, length: int | None) -> None:
    for seed in range(3):
        rows = random_rows(seed)
        for row in rows:
            row["known_all"] = float(len(row["count"]) + row["id"] % 3)
        with encoded_log(market, pl.DataFrame(rows, schema=SCHEMA), trained.encoder) as store:
            every = AggregateSpec.of(store, np.arange(40), history_length=length)
            found = compute_aggregates(every, store)
        for at in range(len(rows)):
            wanted = [slow(every, column, rows, at, length or 10**6) for column in every.aggregates]
            np.testing.assert_allclose(found[at], wanted, rtol=2e-6, atol=2e-5, err_msg=str(every.names))


def test_names_are_unique_and_never_those_of_columns(spec: AggregateSpec) -> None:
    assert len(set(spec.names)) == len(spec.names)
    assert not set(spec.names) & set(SCHEMA)
    assert AggregateSpec.from_dict(spec.to_dict()) == spec


def test_no_rows(market: Market, trained: EventStore, spec: AggregateSpec) -> None:
    assert compute_aggregates(spec, trained, np.empty(0, np.int64)).shape == (0, len(spec.names))
    assert Path(trained.path).exists()
