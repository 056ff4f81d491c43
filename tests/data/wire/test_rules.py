"""Each rule of "Turning a row into tensors": for many rows and for a single one, with the same outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from support.wire_rows import (
    ENGINEERED,
    FIELDS,
    NOW,
    NUMERICAL,
    PAST,
    TABLE,
    TWO,
    TWO_FIELDS,
    encoder,
    gathered,
    market,
    row,
    single,
    stored,
    write,
)
from tsa.config.market import Market
from tsa.data.history import UNKNOWN_OUTCOME, HistoryArrays
from tsa.data.log.quarantine import Quarantine
from tsa.data.store.prepare import prepare
from tsa.data.wire import WireReader
from tsa.errors import DataError


def both(of: Market, line: dict[str, Any], folder: Path, history: str = "cid") -> HistoryArrays:
    """The arrays of one row, which both ways must agree on."""
    store, alone = stored(of, [line], folder), single(of, line)
    many = gathered(store, history)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(many, name), getattr(alone.histories[history], name), err_msg=name)
    np.testing.assert_array_equal(store.engineered[:], alone.engineered)
    assert store.ids().to_list() == list(alone.ids)
    return many


def refused(of: Market, line: dict[str, Any], folder: Path) -> str:
    """Why a row is refused, alone and among others; what is told of it must name rule, field and value alike."""
    with pytest.raises(DataError) as alone:
        single(of, line)
    with pytest.raises(DataError) as among:
        stored(of, [row(id="good"), line], folder)
    assert "1 of 2 rows break a rule" in str(among.value)
    name = str(alone.value).split(": ")[1]
    assert f"{name}: " in str(among.value)
    return str(alone.value)


def rows_of(of: Market, **values: str) -> list[int]:
    """What the encoder makes of known values."""
    own = encoder(of)
    return [
        int(own.categorical_vocabularies[at].encode(pl.DataFrame({name: [value]}))[0])
        for at, (name, value) in enumerate(values.items())
    ]


def test_a_row_becomes_arrays(tmp_path: Path) -> None:
    of = market()
    found = both(of, row(), tmp_path)
    assert found.padding.tolist() == [[True, False, False, False, False]]
    assert found.age_seconds.tolist() == [[0, 300, 200, 100, 0]]
    assert found.categorical[0, 1].tolist() == rows_of(of, device="phone", hour="3")
    assert found.categorical[0, 4].tolist() == rows_of(of, device="phone", hour="3")
    assert found.categorical[0, 0].tolist() == [0, 0]
    assert found.numerical[0, 1, 0] == np.float32(0.015)
    assert found.outcome.tolist() == [[0, *[UNKNOWN_OUTCOME] * 4]]


@pytest.mark.parametrize(
    "field",
    ["device", "hour", "amount", "orders", "hist.device", "hist.items", "hist.cat.at", "hist.num.id", "at"],
)
def test_1_every_field_must_be_there(field: str, tmp_path: Path) -> None:
    message = refused(market(), row(**{field: None}), tmp_path / "none")
    assert f"missing_field:{field}: is required" in message
    assert f"missing_field:{field}" in refused(market(), {**row(), field: None}, tmp_path / "null")


@pytest.mark.parametrize("marker", ["", "My Text String"])
def test_2_missing_markers(marker: str, tmp_path: Path) -> None:
    """In the row and inside its history; missing is a value of its own unless the market gives a default."""
    past = (("a", 9, marker, marker, marker, marker), ("b", 8, "phone", "3", "1", "2"))
    line = row(past, device=marker, hour=marker, amount=marker, items=marker, orders=marker)
    of = market()
    found = both(of, line, tmp_path / "own")
    missing = [vocabulary.missing_row for vocabulary in encoder(of).categorical_vocabularies]
    assert found.categorical[0, 2].tolist() == found.categorical[0, 4].tolist() == missing
    marks = [
        list(encoder(of).numerical_names).index(name) for name in ("amount is missing", "another value is missing")
    ]
    assert found.numerical[0, 2, marks].tolist() == found.numerical[0, 4, marks].tolist() == [1, 1]
    defaults = {"device": "tablet", "hour": "12", "amount": 10, "items": 2.0, "orders": 7}
    given = market({"defaults": defaults})
    found = both(given, line, tmp_path / "default")
    spelled = row(
        (("a", 9, "tablet", "12", "10", "2"), past[1]), **{name: str(value) for name, value in defaults.items()}
    )
    expected = both(given, spelled, tmp_path / "spelled")
    np.testing.assert_array_equal(found.categorical, expected.categorical)
    np.testing.assert_array_equal(found.numerical, expected.numerical)


@pytest.mark.parametrize(
    ("spelled", "known"),
    [("3.0", "3"), ("12.00", "12"), ("3.7", "3"), ("3", "3"), ("1.2e1", "12"), (" 3 ", "3"), ("+3", "3"), ("03.", "3")],
)
def test_3_numeric_categoricals_go_through_an_integer(spelled: str, known: str, tmp_path: Path) -> None:
    of = market()
    found = both(of, row((("a", 9, "phone", spelled, "1", "2"),), hour=spelled), tmp_path)
    expected = rows_of(of, device="phone", hour=known)
    assert found.categorical[0, 3].tolist() == found.categorical[0, 4].tolist() == expected


def test_3_what_is_no_number_stays_as_it_is(tmp_path: Path) -> None:
    of = market()
    unknown = encoder(of).categorical_vocabularies[1].unknown_row
    for at, value in enumerate(("noon", "nan", "1e99", "3.0.0", "99")):
        found = both(of, row((("a", 9, "phone", value, "1", "2"),), hour=value), tmp_path / str(at))
        assert found.categorical[0, 3:, 1].tolist() == [unknown, unknown]


def test_4_an_unknown_value_has_the_row_of_unknown_ones(tmp_path: Path) -> None:
    of = market()
    found = both(of, row((("a", 9, "3.0", "3", "1", "2"),), device="never~seen"), tmp_path)
    unknown = encoder(of).categorical_vocabularies[0].unknown_row
    assert found.categorical[0, 3:, 0].tolist() == [unknown, unknown]


def test_5_numbers_are_scaled_as_fitted(tmp_path: Path) -> None:
    of = market()
    found = both(of, row((("a", 9, "phone", "3", "-2.5e1", "+4."),), amount=".5", orders="3"), tmp_path)
    assert found.numerical[0, 3, 0] == np.float32(-0.25)
    assert found.numerical[0, 4, 0] == np.float32(0.005)
    scaler = encoder(of).numerical_scaling.scalers[1]
    assert found.numerical[0, 3, 1] == np.float32(scaler.encode(np.array([4.0]))[0])


@pytest.mark.parametrize(
    "value", ["1,5", "abc", "nan", "NaN", "inf", "-inf", "1e400", " 5", "5 ", "0x1F", "1_000", "--1"]
)
@pytest.mark.parametrize("field", [*NUMERICAL, *ENGINEERED, "at"])
def test_5_what_is_no_finite_number_is_refused(field: str, value: str, tmp_path: Path) -> None:
    message = refused(market(), row(**{field: value}), tmp_path)
    assert f"not_a_number:{field}: must be a finite number (got {value!r}" in message


@pytest.mark.parametrize("value", ["1,5", "nan", "1e400", "x"])
def test_5_nor_inside_a_history(value: str, tmp_path: Path) -> None:
    past = (*PAST[:2], ("c", 100, "phone", "3", "1", value))
    message = refused(market(), row(past), tmp_path)
    assert f"not_a_number:hist.items: must be a finite number (got {value!r}" in message


def test_5_a_payment_met_before_is_refused_again(tmp_path: Path) -> None:
    """The bad number stands in a payment that two rows tell of: both are refused."""
    past = (("c", 100, "phone", "3", "bad", "1"),)
    lines = [row(past, id=str(number)) for number in range(40)]
    with pytest.raises(DataError, match=r"40 of 41 rows break a rule.*\n.*not_a_number:hist\.amount.*40 rows.*'bad'"):
        stored(market(), [*lines, row(id="good")], tmp_path)


@pytest.mark.parametrize("marker", ["", "My Text String"])
def test_6_a_history_without_ids_is_empty(marker: str, tmp_path: Path) -> None:
    """Whatever its other fields hold."""
    line = row(**{"hist.cat.id": marker, "hist.num.id": marker, "hist.amount": "x~y~z"})
    assert both(market(), line, tmp_path).padding.tolist() == [[True] * 4 + [False]]


OTHERS = (PAST[1], ("d", 150, "phone", "3", "4", "4"), PAST[2])
"""Tells of b, d and c, where PAST tells of a, b and c."""


def test_6_parts_that_differ_keep_what_both_know_in_time_order(tmp_path: Path) -> None:
    lines = {
        "ids": row(**_parts(PAST, OTHERS)),
        "lengths": row(**_parts(PAST, PAST[1:])),
        "order": row(**_parts(PAST, (PAST[2], PAST[1]))),
    }
    for name, line in lines.items():
        found = both(market(), line, tmp_path / name)
        assert found.age_seconds.tolist() == [[0, 0, 200, 100, 0]], name
        expected = both(market(), row(PAST[1:]), tmp_path / f"{name} expected")
        np.testing.assert_array_equal(found.categorical, expected.categorical, err_msg=name)
        np.testing.assert_array_equal(found.numerical, expected.numerical, err_msg=name)


def _parts(past: Any, numerical: Any) -> dict[str, str]:
    from support.wire_rows import told

    return told(past, numerical=numerical)


def test_6_or_drop_the_history_or_refuse_the_row(tmp_path: Path) -> None:
    line = row(**_parts(PAST, OTHERS))
    dropped = both(market({"mismatched": "drop"}), line, tmp_path / "drop")
    assert dropped.padding.tolist() == [[True] * 4 + [False]]
    message = refused(market({"mismatched": "refuse"}), line, tmp_path / "refuse")
    assert "mismatched_history:hist.num.id: must contain the same payments as the other part" in message
    sound = both(market({"mismatched": "refuse"}), row(), tmp_path / "sound")
    assert (~sound.padding).sum() == 4


def test_6_a_part_that_nothing_is_told_of_is_a_difference(tmp_path: Path) -> None:
    line = row(**{**_parts(PAST, PAST), "hist.num.id": ""})
    assert both(market(), line, tmp_path).padding.tolist() == [[True] * 4 + [False]]


def test_6_repeated_ids_are_matched_in_their_turn(tmp_path: Path) -> None:
    twice = (PAST[0], ("a", 250, "tablet", "3", "9", "9"), PAST[2])
    found = both(market(), row(**_parts(twice, twice[:2])), tmp_path)
    assert found.age_seconds.tolist() == [[0, 0, 300, 250, 0]]


def test_6_missing_ids_match_nothing(tmp_path: Path) -> None:
    nameless = (("", 300, "phone", "3", "1", "2"), PAST[1])
    found = both(market(), row(**_parts(nameless, (*nameless, PAST[2]))), tmp_path / "unlike")
    assert found.age_seconds.tolist() == [[0, 0, 0, 200, 0]]
    found = both(market(), row(nameless), tmp_path / "alike")
    assert found.age_seconds.tolist() == [[0, 0, 300, 200, 0]]


@pytest.mark.parametrize("field", ["hist.device", "hist.amount", "hist.cat.at"])
def test_6_a_field_must_have_as_many_values_as_its_ids(field: str, tmp_path: Path) -> None:
    message = refused(market(), row(**{field: "1~2"}), tmp_path)
    assert (
        f"history_length:{field}: must have as many values as its history has ids (got '2 values for 3 ids'" in message
    )


def test_6_times_of_both_parts_must_agree(tmp_path: Path) -> None:
    message = refused(market(), row(**{"hist.num.at": "~".join(str(NOW - at) for at in (300, 201, 100))}), tmp_path)
    assert "time_mismatch:hist.num.at" in message
    assert "1699999799 and 1699999800" in message


def test_7_ages_are_capped_one_by_one(tmp_path: Path) -> None:
    past = (("a", 30_000_000, "phone", "3", "1", "2"), ("b", 10_000_001, "phone", "3", "1", "2"), *PAST[1:])
    assert both(market(), row(past), tmp_path / "cap").age_seconds.tolist() == [[1e7, 1e7, 200, 100, 0]]
    assert both(market({"age_cap_seconds": 150}), row(), tmp_path / "low").age_seconds.tolist() == [
        [0, 150, 150, 100, 0]
    ]


def test_7_a_payment_after_the_current_one_refuses_the_row(tmp_path: Path) -> None:
    message = refused(market(), row((*PAST[:2], ("c", -1, "phone", "3", "1", "2"))), tmp_path / "later")
    assert f"negative_age:hist.cat.at: must not contain a payment after the current one (got '{NOW + 1} and" in message
    at_once = both(market(), row((("c", 0, "phone", "3", "1", "2"),)), tmp_path / "at once")
    assert at_once.age_seconds.tolist() == [[0, 0, 0, 0, 0]]


def test_7_times_must_be_numbers(tmp_path: Path) -> None:
    for value, rule in (
        ("soon", "bad_time"),
        ("inf", "bad_time"),
        ("", "missing_time"),
        ("My Text String", "missing_time"),
    ):
        times = f"{NOW - 300}~{value}~{NOW - 100}"
        message = refused(market(), row(**{"hist.cat.at": times, "hist.num.at": times}), tmp_path / (value or "none"))
        assert f"{rule}:hist.cat.at" in message
        assert repr(value) in message
    times = {"hist.cat.at": f"~{NOW - 200}~{NOW - 100}", "hist.num.at": f"~{NOW - 200}~{NOW - 100}"}
    found = both(market({"defaults": {"at": 0}}), row(**times), tmp_path / "default")
    assert found.age_seconds.tolist() == [[0, 1e7, 200, 100, 0]]


def test_7_the_payment_itself_has_a_time(tmp_path: Path) -> None:
    assert "null_time:at" in refused(market(), row(at=""), tmp_path / "time")
    assert "absurd_time:at" in refused(market(), row(at="17"), tmp_path / "absurd")


@pytest.mark.parametrize("id_", [None, "", "My Text String"])
def test_7_the_id_is_optional(id_: str | None, tmp_path: Path) -> None:
    """A request has none then; in a file, the number of the row stands in its place."""
    of = market()
    assert single(of, row(id=id_)).ids == ("" if id_ is None else id_,)
    lines = [row(id="p1"), row(id=id_), row(id="p2", **{"at": str(NOW + 1)}), row(id=id_)]
    store = stored(of, lines, tmp_path / "jsonl")
    assert store.ids().to_list() == ["p1", "row 2", "row 4", "p2"]
    columns = {name: [line.get(name, "") for line in lines] for name in row() if not (name == "id" and id_ is None)}
    pl.DataFrame(columns).write_csv(tmp_path / "rows.tsv", separator="\t")
    assert "row 2" in prepare(of, tmp_path / "rows.tsv", tmp_path / "tsv", encoder=encoder(of)).ids().to_list()


def test_8_longer_histories_keep_the_latest(tmp_path: Path) -> None:
    past = tuple((str(ago), ago, "phone", "3", "1", "2") for ago in (700, 600, 500, 400, 300, 200))
    assert both(market(), row(past), tmp_path / "told").age_seconds.tolist() == [[500, 400, 300, 200, 0]]
    assert both(market(), row(past[::-1]), tmp_path / "turned").age_seconds.tolist() == [[500, 400, 300, 200, 0]]


def test_two_histories_have_fields_and_lengths_of_their_own(tmp_path: Path) -> None:
    of = market(TWO_FIELDS, history=TWO)
    line = row()
    for history, past in (("cid", PAST), ("ccid", PAST[:1])):
        line |= {name.replace("hist", history): value for name, value in row(past).items() if name.startswith("hist")}
    cid, ccid = both(of, line, tmp_path / "cid"), both(of, line, tmp_path / "ccid", "ccid")
    assert cid.age_seconds.tolist() == [[0, 300, 200, 100, 0]]
    assert ccid.age_seconds.tolist() == [[0, 0, 300, 0]]
    np.testing.assert_array_equal(cid.categorical[0, 1], ccid.categorical[0, 2])


def test_a_market_without_numbers_needs_no_numerical_part(tmp_path: Path) -> None:
    of = market(features={"categorical": [{"name": "device", "min_count": 1}]}, wire={"numeric_categorical": []})
    line = {
        name: value for name, value in row().items() if name in {"id", "at", "device", "customer", "amount", "fraud"}
    }
    line |= {name: value for name, value in row().items() if name in {"hist.device", "hist.cat.at", "hist.cat.id"}}
    found = both(of, line, tmp_path)
    assert (~found.padding).sum() == 4
    assert found.numerical.shape == (1, 5, 0)


@pytest.mark.parametrize("payload", [b"[]", b"3", b"{", b'["a"]', b'"x"', b"", [], [3]])
def test_what_is_no_request_is_refused(payload: Any) -> None:
    with pytest.raises(DataError, match="request must"):
        single(market(), payload)


def test_a_field_must_be_a_text_or_a_number(tmp_path: Path) -> None:
    assert "not_a_text:device: must be a text" in refused(market(), row(device=["phone"]), tmp_path / "own")
    assert "not_a_text:hist.items" in refused(market(), row(**{"hist.items": [1, 2, 3]}), tmp_path / "told")
    found = both(market(), row(amount=5, items=1.0, orders=2, at=NOW, hour=3), tmp_path / "numbers")
    np.testing.assert_array_equal(found.numerical, both(market(), row(), tmp_path / "texts").numerical)


LOG_AMOUNT = {"features": {**TABLE["features"], "numerical": [{"name": "amount", "transform": "log1p"}, "items"]}}


@pytest.mark.parametrize("value", ["-1", "-2.5", "-1e38"])
def test_5_a_number_that_cannot_be_scaled_is_refused(value: str, tmp_path: Path) -> None:
    message = refused(market(), row(orders=value), tmp_path / "engineered")
    assert f"out_of_range:orders: must be a number that its feature can scale (got {value!r}" in message
    of = market(**LOG_AMOUNT)
    assert "out_of_range:amount" in refused(of, row(amount=value), tmp_path / "own")
    past = (*PAST[:2], ("c", 100, "phone", "3", value, "1"))
    assert f"out_of_range:hist.amount: must be a number that its feature can scale (got {value!r}" in refused(
        of, row(past), tmp_path / "told"
    )
    beside = both(of, row(amount="-0.5", items=value), tmp_path / "beside")
    assert np.isfinite(beside.numerical).all()


def test_5_and_set_aside_with_what_else_is_wrong(tmp_path: Path) -> None:
    """A payback among 40 payments: the others are scored. When a market is fitted, the same holds."""
    of = market(**LOG_AMOUNT, split={"fractions": [0.4, 0.2, 0.2, 0.2]})
    lines = [row((), id=f"p{at}", at=str(NOW + 86_400 * at)) for at in range(20)]
    path = write([*lines, row((), id="back", amount="-20")], tmp_path / "rows.jsonl")
    for given in (None, encoder(of)):
        bad = tmp_path / f"{given is None}.parquet"
        store = prepare(of, path, tmp_path / "store", encoder=given, quarantine=Quarantine(bad, limit=1))
        assert len(store) == 20
        assert pl.read_parquet(bad).select("id", "amount", "__reason").rows() == [
            ("back", "-20", "out_of_range:amount")
        ]


def test_what_only_reports_use_may_be_absent_when_scoring(tmp_path: Path) -> None:
    """The history comes with the row, so nobody needs to know whose it is."""
    found = both(market(), row(customer=None, fraud=None), tmp_path)
    np.testing.assert_array_equal(found.numerical, both(market(), row(), tmp_path / "whole").numerical)


def test_a_market_of_logs_has_no_requests(tmp_path: Path) -> None:
    from tsa.data.wire import read_request
    from tsa.errors import MarketError

    of = market()
    assert read_request(of, encoder(of), row()).ids == ("p1",)
    logs = Market.from_dict({key: value for key, value in of.to_dict().items() if key != "wire"})
    with pytest.raises(MarketError, match=r"must have a \[wire\] section"):
        read_request(logs, encoder(of), row())
    log = tmp_path / "log.jsonl"
    with pytest.raises(DataError, match="at least one row, but it is empty"):
        prepare(of, write([], log), tmp_path / "store", encoder=encoder(of))


@pytest.mark.parametrize("value", ["\ud800", 10**5000], ids=["surrogate", "digits"])
@pytest.mark.parametrize("field", ["device", "amount", "id", "hist.device"])
def test_a_text_that_is_none_is_a_rule_of_its_row(field: str, value: Any, tmp_path: Path) -> None:
    """Dicts of Python may hold what no file holds: lone surrogates, and numbers of more digits than Python spells."""
    of = market()
    with pytest.raises(DataError, match=rf"payment .*: not_a_text:{field}: must be a text"):
        WireReader(of, encoder(of)).read([row(), {**row(), field: value}])
