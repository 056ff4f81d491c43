from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.market import Categorical
from tsa.config.tables import Calendar
from tsa.data.encoding.training_rows import TrainingRows
from tsa.data.encoding.vocabulary import CALENDAR, Vocabulary, calendar_vocabulary, encode_calendar, fit_vocabularies
from tsa.errors import DataError

texts = st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "c", "d"]), st.text(max_size=3)), max_size=40)


def _frame(values: list[str | None]) -> pl.DataFrame:
    return pl.DataFrame({"x": values}, schema={"x": pl.String})


def test_missing_unknown_and_known_have_rows_of_their_own() -> None:
    vocabulary = Vocabulary(name="x", first_row=5, values=("b", "a"))
    assert vocabulary.encode(_frame([None, "zz", "b", "a", ""])).tolist() == [5, 6, 7, 8, 6]
    assert vocabulary.next_row == 9


def _fit(feature: Categorical, rows: pl.LazyFrame) -> Vocabulary:
    (fitted,) = fit_vocabularies([feature], TrainingRows(rows), 1)
    return fitted


def test_fit_keeps_frequent_values_by_count_then_value() -> None:
    rows = _frame(["c"] * 3 + ["b"] * 2 + ["a"] * 2 + ["rare"] + [None] * 9).lazy()
    fitted = _fit(Categorical(name="x", min_count=2), rows)
    assert fitted.values == ("c", "a", "b")
    assert _fit(Categorical(name="x", min_count=2, max_values=2), rows).values == ("c", "a")


def test_a_feature_without_any_known_value_is_missing_or_unknown() -> None:
    fitted = _fit(Categorical(name="x"), _frame([None, None]).lazy())
    assert fitted.values == ()
    assert fitted.encode(_frame([None, "a"])).tolist() == [1, 2]


@settings(max_examples=60, deadline=None)
@given(train=texts, rows=texts, seed=st.integers(0, 99))
def test_a_row_is_encoded_alone_and_fit_ignores_row_order(
    train: list[str | None], rows: list[str | None], seed: int
) -> None:
    shuffled = list(np.random.default_rng(seed).permutation(np.array(train, object)))
    fitted = _fit(Categorical(name="x", min_count=2), _frame(train).lazy())
    assert fitted == _fit(Categorical(name="x", min_count=2), _frame(shuffled).lazy())
    together = fitted.encode(_frame(rows)).tolist()
    assert together == [fitted.encode(_frame([value]))[0] for value in rows]
    for value, row in zip(rows, together, strict=True):
        expected = 1 if value is None else 3 + fitted.values.index(value) if value in fitted.values else 2
        assert row == expected


def test_a_column_that_is_absent_or_no_text_is_refused() -> None:
    vocabulary = Vocabulary(name="x", first_row=1, values=("1",))
    with pytest.raises(DataError, match="'x' must be a column"):
        vocabulary.encode(pl.DataFrame({"y": ["a"]}))
    with pytest.raises(DataError, match=r"must be of type String [(]got Int64"):
        vocabulary.encode(pl.DataFrame({"x": [0]}))


def test_dict_round_trip() -> None:
    vocabulary = Vocabulary(name="x", first_row=3, values=("é", ""))
    assert Vocabulary.from_dict(vocabulary.to_dict()) == vocabulary


def test_every_calendar_feature_of_the_schema_is_encoded() -> None:
    assert set(CALENDAR) == set(get_args(Calendar))


@settings(max_examples=60, deadline=None)
@given(times=st.lists(st.floats(-5e9, 2e10), min_size=1, max_size=20))
def test_calendar_agrees_with_datetime(times: list[float]) -> None:
    seconds = np.array(times)
    moments = [datetime.fromtimestamp(int(np.floor(time)), UTC) for time in times]
    expected = {
        "hour_of_day": [moment.hour for moment in moments],
        "day_of_week": [moment.weekday() for moment in moments],
        "day_of_month": [moment.day for moment in moments],
        "month": [moment.month for moment in moments],
    }
    for name in get_args(Calendar):
        vocabulary = calendar_vocabulary(name, 4)
        rows = encode_calendar(vocabulary, seconds)
        assert [int(vocabulary.values[row - vocabulary.known_row]) for row in rows] == expected[name]
