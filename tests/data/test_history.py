"""The gather against its definition, event by event, on random logs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.data.augmentation import HistoryAugmentation
from tsa.data.history import (
    FRAUD,
    GENUINE,
    PADDING,
    UNKNOWN_OUTCOME,
    ComparedKeys,
    EventArrays,
    HistoryArrays,
    gather,
    history_lengths,
    index_histories,
)

FIELDS = ("categorical", "numerical", "age_seconds", "padding", "outcome", "same_key")

COMPARED = ComparedKeys(names=("own", "first", "second"), columns=(None, 1, 2))
"""As for `arrays_of`: keys that few events share, some of them missing."""

event = st.tuples(
    st.integers(0, 6),  # time: few values, so that there are ties
    st.integers(-1, 2),  # key; -1 is null
    st.integers(-1, 1),  # label
    st.one_of(st.just(np.inf), st.integers(0, 8)),  # known at: it may be before the event, or never
)
logs = st.lists(event, max_size=25)


def arrays_of(log: list[Any], categorical: int = 2, numerical: int = 1) -> tuple[EventArrays, np.ndarray]:
    log = sorted(log, key=lambda row: row[0])
    n = len(log)
    time, key, label, known_at = (np.array([row[at] for row in log]) for at in range(4)) if log else [np.empty(0)] * 4
    events = EventArrays(
        categorical=np.arange(1, n * categorical + 1, dtype=np.int32).reshape(n, categorical),
        numerical=-np.arange(1, n * numerical + 1, dtype=np.float32).reshape(n, numerical),
        time_seconds=1.5e9 + time.astype(np.float64) * 1000.25,
        label=label.astype(np.int8),
        known_at_seconds=1.5e9 + known_at.astype(np.float64) * 1000.25,
        tokens=np.column_stack([key + 1, label + 1, time % 3]).astype(np.uint32),
    )
    return events, key.astype(np.int64)


def by_definition(events: EventArrays, key: np.ndarray, row: int, length: int) -> dict[str, np.ndarray]:
    """The history of one event, as the words say it."""
    now = events.time_seconds[row]
    same = [i for i in range(row + 1) if key[i] == key[row]] if key[row] >= 0 else [row]
    found: list[int | None] = [None] * length + same  # type: ignore[list-item]
    outcome = []
    for i in (found := found[-length:]):
        known = i is not None and i != row and events.known_at_seconds[i] <= now and events.label[i] >= 0
        outcome.append(PADDING if i is None else (GENUINE, FRAUD)[events.label[i]] if known else UNKNOWN_OUTCOME)
    zero = np.zeros_like
    same_key = np.zeros((length, len(COMPARED.columns)), bool)
    for at, i in enumerate(found):
        for k, column in enumerate(COMPARED.columns):
            if i is not None and column is not None:
                same_key[at, k] = events.tokens[i, column] == events.tokens[row, column] != 0
    return {
        "categorical": np.array([zero(events.categorical[0]) if i is None else events.categorical[i] for i in found]),
        "numerical": np.array([zero(events.numerical[0]) if i is None else events.numerical[i] for i in found]),
        "age_seconds": np.array([0 if i is None else now - events.time_seconds[i] for i in found], np.float32),
        "padding": np.array([i is None for i in found]),
        "outcome": np.array(outcome, np.int8),
        "same_key": same_key,
    }


def assert_equal(left: HistoryArrays, right: HistoryArrays) -> None:
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(left, field), getattr(right, field), err_msg=field)


@settings(max_examples=150, deadline=None)
@given(log=logs, length=st.integers(1, 6), data=st.data())
def test_gather_is_its_definition(log: list[Any], length: int, data: st.DataObject) -> None:
    events, key = arrays_of(log)
    index = replace(index_histories(key), compared=COMPARED)
    rows = np.array(data.draw(st.lists(st.integers(0, len(log) - 1), max_size=12) if log else st.just([])), np.int64)
    found = gather(events, index, rows, length)
    assert found.padding.shape == (len(rows), length)
    dtypes = [np.int32, np.float32, np.float32, np.bool_, np.int8, np.bool_]
    assert [getattr(found, name).dtype for name in FIELDS] == dtypes
    for at, row in enumerate(rows):
        for field, expected in by_definition(events, key, row, length).items():
            np.testing.assert_array_equal(getattr(found, field)[at], expected, err_msg=f"{field} of {row}")


@settings(max_examples=100, deadline=None)
@given(log=st.lists(event, min_size=1, max_size=25), length=st.integers(1, 8), data=st.data())
def test_trimming_cuts_off_padding_alone(log: list[Any], length: int, data: st.DataObject) -> None:
    events, key = arrays_of(log)
    index = replace(index_histories(key), compared=COMPARED)
    rows = np.array(data.draw(st.lists(st.integers(0, len(log) - 1), min_size=1, max_size=6)), np.int64)
    whole, trimmed = (gather(events, index, rows, length, trim=trim) for trim in (False, True))
    width = trimmed.padding.shape[1]
    assert width == history_lengths(index, rows, length).max() == (~whole.padding).sum(1).max()
    assert_equal(HistoryArrays(*(getattr(whole, field)[:, length - width :] for field in FIELDS)), trimmed)
    assert whole.padding[:, : length - width].all()


@given(log=logs)
@settings(max_examples=50, deadline=None)
def test_the_current_event_never_shows_its_own_label(log: list[Any]) -> None:
    """Not even when it is known at once, or was known before."""
    events, key = arrays_of(log)
    found = gather(events, index_histories(key), np.arange(len(log)), 4)
    assert (found.outcome[:, -1] == UNKNOWN_OUTCOME).all()
    assert not found.padding[:, -1:].any()


@given(log=logs)
@settings(max_examples=50, deadline=None)
def test_a_label_that_is_not_known_never_shows(log: list[Any]) -> None:
    events, key = arrays_of([(*row[:3], np.inf) for row in log])
    found = gather(events, index_histories(key), np.arange(len(log)), 5)
    assert set(np.unique(found.outcome)) <= {PADDING, UNKNOWN_OUTCOME}


def test_a_label_shows_from_the_moment_it_is_known() -> None:
    events, key = arrays_of([(0, 0, 1, 3), (2, 0, 0, 3), (3, 0, 1, 9), (3, 0, 0, 9)])
    outcome = gather(events, index_histories(key), np.arange(4), 4).outcome
    assert outcome.tolist() == [
        [PADDING, PADDING, PADDING, UNKNOWN_OUTCOME],
        [PADDING, PADDING, UNKNOWN_OUTCOME, UNKNOWN_OUTCOME],
        [PADDING, FRAUD, GENUINE, UNKNOWN_OUTCOME],
        [FRAUD, GENUINE, UNKNOWN_OUTCOME, UNKNOWN_OUTCOME],
    ]


def delayed(factor: np.ndarray) -> HistoryAugmentation:
    """Outcomes after so many times their delay, and all events."""
    n = len(factor)
    return HistoryAugmentation(factor, np.zeros(n, np.float32), np.zeros(n, np.int64))


@given(log=logs, seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_a_delay_factor_moves_outcomes_alone(log: list[Any], seed: int) -> None:
    """Each event shows its outcome after so many times its delay; all else is as without."""
    events, key = arrays_of(log)
    index, rows = index_histories(key), np.arange(len(log))
    factor = np.random.default_rng(seed).choice([0.25, 0.5, 1.0, 2.0], len(log)).astype(np.float32)
    plain, varied = (gather(events, index, rows, 4, variation=given) for given in (None, delayed(factor)))
    for name in ("categorical", "numerical", "age_seconds", "padding"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(varied, name))
    np.testing.assert_array_equal(plain.outcome[factor == 1.0], varied.outcome[factor == 1.0])
    later = plain.outcome[factor == 2.0] == UNKNOWN_OUTCOME
    assert (varied.outcome[factor == 2.0][later] == UNKNOWN_OUTCOME).all(), "twice the delay shows no more"
    for times in (0.25, 0.5, 2.0):
        sooner = replace(
            events, known_at_seconds=events.time_seconds + times * (events.known_at_seconds - events.time_seconds)
        )
        own = gather(sooner, index, rows, 4).outcome
        np.testing.assert_array_equal(own[factor == times], varied.outcome[factor == times])


def test_what_never_becomes_known_shows_at_no_delay_factor() -> None:
    events, key = arrays_of([(at, 0, 1, np.inf) for at in range(3)])
    factor = np.full(3, 2.0**-52, np.float32)
    outcome = gather(events, index_histories(key), np.arange(3), 3, variation=delayed(factor)).outcome
    assert set(np.unique(outcome)) <= {PADDING, UNKNOWN_OUTCOME}


@given(log=logs, seed=st.integers(0, 99), trim=st.booleans())
@settings(max_examples=50, deadline=None)
def test_an_event_that_is_not_shown_leaves_padding(log: list[Any], seed: int, trim: bool) -> None:
    """All others, and always the current one, are as without; and a payment's gaps do not depend on the batch."""
    events, key = arrays_of(log)
    index, rows = index_histories(key), np.arange(len(log))
    varied = HistoryAugmentation.draw(
        len(log), label_delay_augmentation=0.0, event_dropout=1.0, rng=np.random.default_rng(seed)
    )
    plain, thinned = (gather(events, index, rows, 4, trim=trim, variation=given) for given in (None, varied))
    gone = thinned.padding & ~plain.padding
    assert not (plain.padding & ~thinned.padding).any()
    assert not gone[:, -1].any()
    for name in ("categorical", "numerical", "age_seconds", "outcome"):
        before, after = getattr(plain, name), getattr(thinned, name)
        np.testing.assert_array_equal(after[~gone], before[~gone])
        assert not after[gone].any()
    some = rows[::2]
    alone = gather(events, index, some, 4, variation=varied.select(some))
    whole = gather(events, index, rows, 4, variation=varied)
    np.testing.assert_array_equal(alone.padding, whole.padding[some])


def test_thinning_leaves_out_a_share_of_the_earlier_events() -> None:
    events, key = arrays_of([(at, 0, 1, 0) for at in range(300)])
    half = HistoryAugmentation(np.ones(300, np.float32), np.full(300, 0.5, np.float32), np.arange(300))
    padding = gather(events, index_histories(key), np.arange(300), 100, variation=half).padding
    assert padding[100:, :-1].mean() == pytest.approx(0.5, abs=0.02)


def test_a_null_key_has_no_history() -> None:
    events, key = arrays_of([(0, -1, 0, 0), (1, -1, 0, 0), (2, 0, 0, 0), (3, 0, 0, 0)])
    index = index_histories(key)
    assert history_lengths(index, np.arange(4), 3).tolist() == [1, 1, 1, 2]
    assert gather(events, index, np.arange(4), 3).categorical[:, :-1, 0].tolist() == [[0, 0], [0, 0], [0, 0], [0, 5]]


def test_a_log_of_one_key_per_event_has_no_history() -> None:
    index = index_histories(np.array([5, 3, 9]))
    assert history_lengths(index, np.arange(3), 51).tolist() == [1, 1, 1]


@pytest.mark.parametrize("n", [0, 1])
def test_tiny_logs(n: int) -> None:
    events, key = arrays_of([(0, -1, 0, 0)] * n)
    for trim in (False, True):
        found = gather(events, index_histories(key), np.arange(n), 3, trim=trim)
        assert found.categorical.shape == (n, 1 if trim else 3, 2)


def test_events_without_categorical_features() -> None:
    events, key = arrays_of([(0, 0, 0, 0), (1, 0, 0, 0)], categorical=0)
    assert gather(events, index_histories(key), np.arange(2), 3).categorical.shape == (2, 3, 0)


def test_gathering_leaves_the_log_as_it_is() -> None:
    events, key = arrays_of([(at, at % 2, 1, at) for at in range(9)])
    before = events.categorical.copy(), events.numerical.copy()
    gather(events, index_histories(key), np.arange(9), 4)
    np.testing.assert_array_equal(events.categorical, before[0])
    np.testing.assert_array_equal(events.numerical, before[1])
