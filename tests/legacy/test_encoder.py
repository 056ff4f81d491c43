"""An encoder of the legacy system's artefacts keeps their meaning, to the golden values, and says what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.errors import ArtefactError, DataError, MarketError
from tsa.legacy.encoder import legacy_encoder

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "wire_single.json").read_text())
LAYOUT = GOLDEN["layout"]
FEATURES = {kind: LAYOUT[kind] for kind in ("categorical", "numerical", "engineered")}
ARTEFACTS = {
    "cat_to_index": GOLDEN["cat_to_index"],
    "defaults": GOLDEN["default_values"],
    "preprocessor": GOLDEN["preprocessor"],
}


def _market(**features: Any) -> Market:
    wire = {"separator": LAYOUT["separator"], "numeric_categorical": LAYOUT["numeric_categorical"]}
    table = {
        "name": "golden",
        "event": {"id": LAYOUT["id"], "time": LAYOUT["time"], "time_unit": "s"},
        "label": {"column": LAYOUT["label"], "delay_days": 0},
        "history": [{"name": "history", "key": "customer"}],
        "features": {**FEATURES, **features},
        "wire": wire
        if LAYOUT["numeric_categorical"][0] in features.get("categorical", FEATURES["categorical"])
        else None,
    }
    return Market.from_dict({key: value for key, value in table.items() if value is not None})


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows as a reader gives them: missing markers are null, numbers are numbers."""
    gone = LAYOUT["missing_markers"]
    columns: dict[str, pl.Series] = {}
    for kind, names in FEATURES.items():
        for name in names:
            values = [None if row[name] in gone else row[name] for row in rows]
            text = pl.Series(values, dtype=pl.String)
            columns[name] = text if kind == "categorical" else text.cast(pl.Float64)
    return pl.DataFrame(columns)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return legacy_encoder(_market(), **ARTEFACTS)


def test_current_values_of_the_golden_rows(encoder: Encoder) -> None:
    frame, expected = _frame(GOLDEN["records"]), GOLDEN["expected"]
    assert encoder.categorical(frame).tolist() == [one["categorical"][-1] for one in expected]
    np.testing.assert_array_equal(encoder.numerical(frame), np.float32([one["numerical"][-1] for one in expected]))
    np.testing.assert_array_equal(encoder.engineered(frame), np.float32([one["engineered"] for one in expected]))
    assert encoder.numerical(frame).dtype == np.float32


def test_earlier_values_of_the_golden_rows(encoder: Encoder) -> None:
    """The rule for a value is the same wherever it stands."""
    for record, expected in zip(GOLDEN["records"], GOLDEN["expected"], strict=True):
        events = int(sum(expected["keep"])) - 1
        if not events:
            continue
        split = {
            n: record[f"hist.{n}"].split(LAYOUT["separator"]) for k in ("categorical", "numerical") for n in FEATURES[k]
        }
        rows = [
            {n: v[at] for n, v in split.items()} | dict.fromkeys(FEATURES["engineered"], "0") for at in range(events)
        ]
        frame = _frame(rows)
        assert encoder.categorical(frame).tolist() == expected["categorical"][-1 - events : -1]
        np.testing.assert_array_equal(encoder.numerical(frame), np.float32(expected["numerical"][-1 - events : -1]))


def test_it_is_saved_to_the_bit(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "encoder.json")
    again = Encoder.load(tmp_path / "encoder.json")
    assert again == encoder
    frame = _frame(GOLDEN["records"])
    for kind in ("categorical", "numerical", "engineered"):
        assert getattr(again, kind)(frame).tobytes() == getattr(encoder, kind)(frame).tobytes()


def test_columns_have_no_marks_and_the_table_the_given_rows(encoder: Encoder) -> None:
    assert encoder.columns == FEATURES
    assert encoder.n_rows == 43
    encoder.check_market(_market())
    with pytest.raises(MarketError, match=r"features\.numerical must be as the encoder was fitted"):
        encoder.check_market(_market(numerical=["items", "amount", "account_age_days"]))


rows = st.dictionaries(st.sampled_from(["a", "b", "3", "4", "-1"]), st.integers(0, 9), max_size=5)
values = st.lists(st.sampled_from([None, "a", "b", "3", "3.0", "4.9", "-1", "nan", "inf", "1e400", "x"]), max_size=12)


@settings(max_examples=100, deadline=None)
@given(rows=rows, values=values, default=st.sampled_from(["a", "-1", "-1.0", "?"]), numeric=st.booleans())
def test_any_map_and_value(rows: dict[str, int], values: list[str | None], default: str, numeric: bool) -> None:
    """Against the rules written out for one value. A default is looked up as it stands, a value through an integer."""
    features = {"categorical": ["c"], "numerical": [], "engineered": []}
    wire = {"separator": "~", "numeric_categorical": ["c"]} if numeric else {"separator": "~"}
    market = Market.from_dict({**_market().to_dict(), "features": features, "wire": wire})
    empty = {name: [] for name in ARTEFACTS["preprocessor"]}
    fitted = legacy_encoder(market, cat_to_index={"c": rows}, defaults={"c": default}, preprocessor=empty)

    def integer(text: str) -> str:
        try:
            return str(int(float(text))) if numeric else text
        except (ValueError, OverflowError):
            return text

    expected = []
    for value in values:
        known = rows.get(default, 0) if value is None else rows.get(integer(value), 0)
        expected.append([known])
    frame = pl.DataFrame({"c": values}, schema={"c": pl.String})
    assert fitted.categorical(frame).tolist() == expected
    assert Encoder.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


def test_a_number_that_float32_has_no_room_for_is_refused(encoder: Encoder) -> None:
    frame = _frame(GOLDEN["records"][:2]).with_columns(items=pl.Series([1.0, 1e300]))
    with pytest.raises(DataError, match=r"'items' must fit float32 when scaled [(]got .* \(and 0 more\)"):
        encoder.numerical(frame)


def test_transforms_of_the_market_do_not_count(encoder: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    """They are for models that are trained here; that they are left out is said."""
    numerical = [{"name": "amount", "transform": "log1p"}, {"name": "account_age_days", "scale": "quantile"}, "items"]
    other = legacy_encoder(_market(numerical=numerical), **ARTEFACTS)
    assert "amount: transform='log1p' is ignored" in caplog.text
    frame = _frame(GOLDEN["records"])
    assert other.numerical(frame).tobytes() == encoder.numerical(frame).tobytes()
    other.check_market(_market(numerical=numerical))


def test_everything_that_does_not_fit_is_listed() -> None:
    market = _market(
        calendar=["month"], numerical=[{"name": "amount", "transform": "log1p"}, "account_age_days", "items"]
    )
    with pytest.raises(ArtefactError) as error:
        legacy_encoder(
            market,
            cat_to_index={**GOLDEN["cat_to_index"], "device": {"a": -1, "b": True, "c": 2.5}, "country": 3},  # type: ignore[dict-item]
            defaults={k: v for k, v in GOLDEN["default_values"].items() if k not in ("card_type", "items")}
            | {"amount": "x"},
            preprocessor={"seq_num_scale_": [1.0], "seq_num_min_": [1.0, "x", 2.0], "num_static_min_": "abc"},  # type: ignore[dict-item, list-item]
        )
    lines = str(error.value).splitlines()
    assert lines[0] == "artefacts for market golden: 10 findings"
    for text in (
        "features.calendar: an imported model has none (got ['month']",
        "rows of 'device' must be integers from 0 (got 'a': -1, 'b': True, 'c': 2.5",
        "cat_to_index: 'country' is required, with its values and rows (got 3",
        "'card_type' has no default",
        "'items' has no default",
        "'amount' must be a number (got 'x'",
        "seq_num_scale_ must have 3 numbers, one per numerical feature (got 1",
        "seq_num_min_ must hold finite numbers (got 'x' at 1",
        "num_static_scale_ must be a list of numbers (got nothing)",
        "num_static_min_ must be a list of numbers (got 'abc'",
    ):
        assert any(text in line for line in lines), text
