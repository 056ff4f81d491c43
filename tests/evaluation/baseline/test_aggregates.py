from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.data.history import index_histories
from tsa.errors import ConfigError, DataError
from tsa.evaluation.baseline import segmented_ops as kernel
from tsa.evaluation.baseline.aggregates import AggregateConfig, aggregate
from tsa.evaluation.baseline.segmented_ops import blocks_of
from tsa.times import DAY_SECONDS

WINDOWS = {"1d": 1 * DAY_SECONDS, "7d": 7 * DAY_SECONDS, "30d": 30 * DAY_SECONDS, "all": np.inf}


@dataclass(frozen=True)
class Event:
    time: float
    customer: int | None
    terminal: int | None
    amount: float | None
    device: str | None
    label: int
    known_at: float


class TinyStore:
    """As much of an EventStore as the aggregates read, made of a list of events in time order."""

    def __init__(self, events: Sequence[Event], *, as_feature: bool = True) -> None:
        self.events = events
        self.market = Market.from_dict(
            {
                "name": "tiny",
                "event": {"id": "id", "time": "time", "time_unit": "s", "amount": "amount"},
                "label": {"column": "fraud", "delay_days": 1, "as_feature": as_feature},
                "history": [
                    {"name": "customer", "key": "customer"},
                    {"name": "terminal", "key": "terminal"},
                ],
                "features": {"categorical": ["device"], "numerical": ["amount"], "engineered": ["extra"]},
            }
        )
        n = len(events)
        self.time_seconds = np.array([e.time for e in events], np.float64)
        self.label = np.array([e.label for e in events], np.int8)
        self.known_at_seconds = np.array([e.known_at for e in events], np.float64)
        self.categorical = np.arange(n, dtype=np.int32)[:, None] % 5
        self.engineered = np.arange(n, dtype=np.float32)[:, None]
        keys = {name: [getattr(e, name) for e in events] for name in ("customer", "terminal")}
        codes = {name: np.array([-1 if k is None else k for k in key], np.int64) for name, key in keys.items()}
        self.histories = {name: index_histories(code) for name, code in codes.items()}

    def __len__(self) -> int:
        return len(self.events)

    def columns(self, names: Sequence[str]) -> pl.DataFrame:
        types: dict[str, Any] = {"amount": pl.Float64, "device": pl.String}
        return pl.DataFrame({name: [getattr(e, name) for e in self.events] for name in names}, schema_overrides=types)


def brute_force(events: Sequence[Event], at: int, key: str) -> dict[str, float]:
    """One history's columns for one event, read off their definitions."""
    now, mine = events[at], getattr(events[at], key)
    earlier = [e for e in events[:at] if getattr(e, key) == mine] if mine is not None else []
    row: dict[str, float] = {}
    for window, width in WINDOWS.items():
        inside = [e for e in earlier if e.time > now.time - width]
        row[f"count_{window}"] = len(inside)
        amounts = np.array([e.amount for e in inside if e.amount is not None])
        amount = np.nan if now.amount is None else now.amount
        mean = amounts.mean() if len(amounts) else np.nan
        row[f"amount.mean_{window}"] = mean
        row[f"amount.std_{window}"] = amounts.std() if len(amounts) > 1 else np.nan
        row[f"amount.max_{window}"] = amounts.max() if len(amounts) else np.nan
        row[f"amount.ratio_{window}"] = amount / mean
        row[f"amount.difference_{window}"] = amount - mean
        known = [e for e in earlier if e.label >= 0 and e.known_at <= now.time]
        known = [e for e in known if max(e.known_at, e.time) + width > now.time]
        frauds = sum(e.label for e in known)
        row |= {f"known_{window}": len(known), f"known_fraud_{window}": frauds}
        row[f"known_fraud_rate_{window}"] = frauds / len(known) if known else np.nan
    known = [e for e in earlier if e.label >= 0 and e.known_at <= now.time]
    fraud_times = [e.time for e in known if e.label == 1]
    row["days_since_known_fraud"] = (now.time - fraud_times[-1]) / DAY_SECONDS if fraud_times else np.nan
    row["last_known_is_fraud"] = known[-1].label if known else np.nan
    row["gap_seconds"] = now.time - earlier[-1].time if earlier else np.nan
    row["gap_before_seconds"] = earlier[-1].time - earlier[-2].time if len(earlier) > 1 else np.nan
    row["device.seen_before"] = sum(e.device == now.device for e in earlier)
    row["device.distinct"] = len({e.device for e in earlier})
    return {f"{key}.{name}": float(value) for name, value in row.items()}


@st.composite
def event_lists(draw: st.DrawFn, least: int = 0) -> list[Event]:
    """Events in time order: with ties, null keys, times at window edges, outcomes known at any time or never."""
    time = st.integers(0, 160).map(lambda quarter: 1.5e9 + quarter * DAY_SECONDS / 4)
    single = st.tuples(
        time,
        st.sampled_from([None, 0, 1]),
        st.sampled_from([None, 0, 1, 2]),
        st.one_of(st.none(), st.integers(1, 30_000).map(lambda cents: cents / 100)),
        st.sampled_from([None, "phone", "laptop"]),
        st.sampled_from([-1, 0, 1]),
        st.sampled_from([-1.0, 0.0, 0.25, 1.0, 6.75, 7.0, 40.0, np.inf]),
    )
    found = sorted(draw(st.lists(single, min_size=least, max_size=14)), key=lambda e: e[0])
    return [Event(*e[:6], known_at=e[0] + e[6] * DAY_SECONDS) for e in found]


@given(events=event_lists(), places=st.integers(1, 20), data=st.data())
@settings(max_examples=120, deadline=None)
def test_each_row_equals_its_definition(events: list[Event], places: int, data: st.DataObject) -> None:
    rows = np.array(data.draw(st.permutations(range(len(events)))), np.int64)
    rows = rows[: data.draw(st.integers(0, len(events)))]
    made = aggregate(TinyStore(events), rows=rows, config=AggregateConfig(places_at_once=places))
    assert made.values.shape == (len(rows), len(made.names))
    assert made.values.dtype == np.float32
    for values, row in zip(made.values, rows, strict=True):
        found = dict(zip(made.names, values.tolist(), strict=True))
        for key in ("customer", "terminal"):
            wanted = brute_force(events, int(row), key)
            assert set(wanted) == {name for name in found if name.startswith(f"{key}.")}
            for name, value in wanted.items():
                assert found[name] == pytest.approx(value, rel=2e-6, abs=1e-4, nan_ok=True), name


@given(
    events=event_lists(least=1),
    tail=event_lists(),
    label=st.lists(st.sampled_from([-1, 0, 1]), min_size=14),
    data=st.data(),
)
@settings(max_examples=120, deadline=None)
def test_nothing_later_and_no_unknown_outcome_moves_a_row(
    events: list[Event], tail: list[Event], label: list[int], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(events) - 1))
    now = events[at].time
    head = [e if e.known_at <= now else replace(e, label=new) for e, new in zip(events[:at], label, strict=False)]
    own = replace(events[at], label=label[-1], known_at=data.draw(st.sampled_from([now, np.inf])))
    later = [replace(e, time=max(e.time, now)) for e in tail]
    rows = np.array([at])
    before = aggregate(TinyStore(events), rows=rows, config=AggregateConfig(places_at_once=3))
    after = aggregate(TinyStore([*head, own, *later]), rows=rows)
    assert before.values.tobytes() == after.values.tobytes()


def test_own_columns_names_and_codes() -> None:
    events = [Event(1.5e9, 0, 0, 12.5, "phone", 0, 1.5e9), Event(1.5e9 + 3600, 0, 1, None, None, 1, np.inf)]
    made = aggregate(TinyStore(events))
    found = dict(zip(made.names, made.values.T.tolist(), strict=True))
    assert made.categorical == ("device",)
    assert made.current == ("amount", "extra", "calendar.hour", "calendar.day_of_week")
    assert found["amount"] == pytest.approx([12.5, np.nan], nan_ok=True)
    assert found["device"] == [0, 1]
    assert found["extra"] == [0, 1]
    # 1.5e9 is Friday 2017-07-14 02:40 UTC.
    assert found["calendar.hour"] == pytest.approx([8 / 3, 11 / 3])
    assert found["calendar.day_of_week"] == [4, 4]
    assert 60 <= len(made.names) <= 100
    assert len(set(made.names)) == len(made.names)


def test_a_market_without_known_outcomes_gets_none() -> None:
    made = aggregate(TinyStore([Event(1.5e9, 0, 0, 1.0, None, 1, 1.5e9)], as_feature=False))
    assert not [name for name in made.names if "known" in name]
    assert "customer.amount.mean_7d" in made.names


def test_refusals_say_the_value() -> None:
    with pytest.raises(DataError, match="got 1 of 2 repeated"):
        aggregate(TinyStore([Event(1.5e9, 0, 0, 1.0, None, 1, 1.5e9)]), rows=np.array([0, 0]))
    with pytest.raises(ConfigError, match=r"windows_days=\(7, 0\)"):
        AggregateConfig(windows_days=(7, 0))
    with pytest.raises(ConfigError, match="places_at_once=0"):
        AggregateConfig(places_at_once=0)


@pytest.mark.parametrize("places", [1, 1000, 10**6])
def test_sums_restart_with_each_block_whatever_its_length(places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "LONG_BLOCK", 64)
    rng = np.random.default_rng(0)
    key = np.repeat(np.arange(40), rng.integers(1, 150, 40))
    rng.shuffle(key)
    index, values = index_histories(key), rng.normal(size=len(key))
    found = np.full(len(key), np.nan)
    for blocks in blocks_of(index, places):
        found[blocks.event] = blocks.sums_before(values[blocks.event])
    wanted = np.empty(len(key))
    for one in range(40):
        own = np.flatnonzero(key == one)
        wanted[own] = np.append(0.0, np.cumsum(values[own])[:-1])
    assert np.array_equal(found, wanted)
