"""Bodies and what stands in them: read within bounds, whatever a client sends."""

from __future__ import annotations

import io
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.endpoint import PAYMENT, SHOP, WIRE, payment
from tsa.config.market import Market
from tsa.data.values import RuleViolation
from tsa.serving import formats
from tsa.serving.formats import CSV, JSON, JSON_LINES, PARQUET, RequestRows
from tsa.serving.problems import ProblemError
from tsa.serving.request_limits import PaymentRequest, RequestValidator, exceeds_depth
from tsa.serving.settings import ServeSettings

SETTINGS = ServeSettings(bundle=Path("bundle"))
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from([*PAYMENT, "payment", "histories"]), inner)
    ),
)


@pytest.fixture(scope="module")
def contract() -> RequestValidator:
    return RequestValidator(Market.from_dict(SHOP), SETTINGS)


def test_results_stand_where_their_rows_do(contract: RequestValidator) -> None:
    entries = contract.entries(RequestRows([payment("1"), 3, payment("2"), []], single=False))
    assert [isinstance(entry, PaymentRequest) for entry in entries] == [True, False, True, False]
    assert contract.in_place(entries, ["first", "second"]) == ["first", entries[1], "second", entries[3]]


def only(contract: RequestValidator, row: Any) -> PaymentRequest | RuleViolation:
    (found,) = contract.entries(RequestRows([row], single=True))
    return found


def rule(contract: RequestValidator, row: Any) -> str:
    found = only(contract, row)
    assert isinstance(found, RuleViolation)
    return found.rule


def test_a_payment_is_flat_or_stands_beside_its_histories(contract: RequestValidator) -> None:
    assert only(contract, PAYMENT) == PaymentRequest(PAYMENT)
    assert only(contract, {"payment": PAYMENT}) == PaymentRequest(PAYMENT)
    histories = {"customer": [payment("e")]}
    assert only(contract, {"payment": PAYMENT, "histories": histories}) == PaymentRequest(PAYMENT, histories)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"payment": PAYMENT, "extra": 1}, "unknown_field"),
        ({"payment": PAYMENT, "histories": []}, "not_an_object"),
        ({"payment": PAYMENT, "histories": {"account": []}}, "unknown_history"),
        ({"payment": PAYMENT, "histories": {"customer": {}}}, "not_a_list"),
        ({"payment": PAYMENT, "histories": {"customer": [1]}}, "not_an_object"),
        ({"payment": PAYMENT, "histories": {"customer": [{"device": "x" * 9999}]}}, "too_long"),
        ([PAYMENT], "not_an_object"),
        (None, "not_an_object"),
        ({**PAYMENT, "country": 2.0**60}, "inexact_number"),
    ],
)
def test_other_shapes_are_problems(contract: RequestValidator, row: Any, wanted: str) -> None:
    assert rule(contract, row) == wanted


def test_rows_that_carry_their_own_history_bring_no_other() -> None:
    contract = RequestValidator(Market.from_dict(WIRE), SETTINGS)
    assert rule(contract, {"payment": {}, "histories": {"customer": []}}) == "own_history"
    assert isinstance(only(contract, {"hist.device": "x" * 100_000}), PaymentRequest)


@settings(max_examples=60, deadline=None)
@given(row=ANYTHING)
def test_anything_is_an_entry_or_a_problem(contract: RequestValidator, row: Any) -> None:
    assert isinstance(only(contract, row), PaymentRequest | RuleViolation)


def test_depth_is_measured_without_recursion() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert exceeds_depth(deep, 6)
    assert not exceeds_depth([{"a": [1]}], 3)
    assert exceeds_depth([{"a": [1]}], 2)
    while isinstance(deep, list):
        deep = deep.pop()


def read(body: bytes, kind: str) -> RequestRows:
    return formats.read(body, kind, max_list=5, max_bytes=10_000)


def refused(body: bytes, kind: str) -> str:
    with pytest.raises(ProblemError) as error:
        read(body, kind)
    return error.value.rule


def is_read_or_refused(body: bytes, kind: str) -> bool:
    try:
        return len(read(body, kind).rows) > 0
    except ProblemError as error:
        return 400 <= error.status < 500


def test_csv_has_a_line_of_names() -> None:
    found = read(b'id,amount\r\na,1.5\r\n"b, c",\r\nd\r\n', CSV)
    assert found.rows[:2] == [{"id": "a", "amount": "1.5"}, {"id": "b, c", "amount": ""}]
    assert found.rows[2].rule == "wrong_number_of_fields"
    assert not found.single
    assert refused(b"id,id\na,b\n", CSV) == "bad_header"
    assert refused(b"", CSV) == "bad_header"
    assert refused(b"id\n\xff\n", CSV) == "not_csv"
    assert refused(b"id\n" + b"a\n" * 6, CSV) == "too_many"
    assert refused(b"id\n", CSV) == "empty"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'id,kind\na,"x\nb,y"\nc,z\n', "ends at line 3 a quote is not closed"),  # it would swallow b
        (b'id,kind\na,"x\nb,y\n', "ends at line 3 a quote is not closed"),
        (b'id,kind\na,x\nb,"5" tv\n', "ends at line 3 a quote is not closed"),
        (b"id,kind\na,\xe9\n", "in UTF-8 (byte 0xe9 is not)"),
    ],
)
def test_csv_that_cannot_be_read_says_where(body: bytes, detail: str) -> None:
    with pytest.raises(ProblemError) as error:
        read(body, CSV)
    assert error.value.rule == "not_csv"
    assert detail in error.value.detail
    assert read(b'id,kind\na,"two\nlines"\n', CSV).rows == [{"id": "a", "kind": "two\nlines"}]


def test_parquet_is_read_as_it_is_typed() -> None:
    frame = pl.DataFrame({"id": [1, 2], "at": [datetime(2025, 4, 20), None], "amount": [1.5, None]})
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    assert read(buffer.getvalue(), PARQUET).rows == [
        {"id": 1, "at": datetime(2025, 4, 20), "amount": 1.5},
        {"id": 2, "at": None, "amount": None},
    ]
    assert refused(buffer.getvalue()[:-20], PARQUET) == "not_parquet"
    pl.concat([frame] * 3).write_parquet(buffer := io.BytesIO())
    assert refused(buffer.getvalue(), PARQUET) == "too_many"
    pl.DataFrame({"id": ["x" * 200_000]}).write_parquet(buffer := io.BytesIO())
    assert refused(buffer.getvalue(), PARQUET) == "too_large"


@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=300), kind=st.sampled_from([JSON, JSON_LINES, CSV, PARQUET]))
def test_any_bytes_are_rows_or_refused(body: bytes, kind: str) -> None:
    assert is_read_or_refused(body, kind)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_parquet_file_is_rows_or_refused(data: st.DataObject) -> None:
    pl.DataFrame({"id": ["a", "b"], "amount": [1.5, None]}).write_parquet(buffer := io.BytesIO())
    body = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert is_read_or_refused(bytes(body), PARQUET)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("text/csv", CSV),
        ("application/json;q=0.1, text/csv", CSV),
        ("text/html, application/*;q=0.5", JSON),
        ("application/x-ndjson", JSON_LINES),
        ("text/*", CSV),
    ],
)
def test_the_best_accepted_format_is_taken(header: str | None, wanted: str) -> None:
    assert formats.negotiate(header, (JSON, JSON_LINES, CSV)) == wanted


@pytest.mark.parametrize("header", ["image/png", "application/json;q=0", "nonsense", ";;;,q"])
def test_no_accepted_format_is_406(header: str) -> None:
    with pytest.raises(ProblemError) as error:
        formats.negotiate(header, (JSON, JSON_LINES, CSV))
    assert error.value.status == 406


def test_a_problem_is_json_of_rfc_9457() -> None:
    found = ProblemError(422, "bad", "must be good", field="x", value="v" * 100).document("r1")
    assert json.loads(json.dumps(found)) == {
        "type": "urn:tsa:problem:bad",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "must be good",
        "field": "x",
        "value": "v" * 37 + "...",
        "rule": "bad",
        "request_id": "r1",
    }
