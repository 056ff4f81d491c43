"""One value has one spelling: whatever type a column has, and in single payments as in logs."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.input import MISSING
from tsa.config.market import Market
from tsa.data.log import columns
from tsa.data.spelling import Spelling
from tsa.data.values import RuleViolationError, key_of, normalise_text, number_of, parse_epoch_seconds
from tsa.errors import MarketError

LOG = Spelling(frozenset(MISSING))
WIRE = Spelling(frozenset(), exact=True)


def of(read: pl.Expr | None, value: Any, dtype: Any) -> Any:
    assert read is not None
    return pl.DataFrame({"x": [value]}, schema={"x": dtype}).select(read.alias("x"))["x"][0]


def text(value: Any, dtype: Any, spelling: Spelling = LOG) -> Any:
    return of(columns.text("x", dtype, spelling), value, dtype)


@pytest.mark.parametrize(
    ("value", "dtype", "spelled"),
    [
        (27, pl.Int64(), "27"),
        (27, pl.UInt8(), "27"),
        (2**64 - 1, pl.UInt64(), "18446744073709551615"),
        (27.0, pl.Float64(), "27"),
        (27.0, pl.Float32(), "27"),
        (0.1, pl.Float32(), "0.1"),
        (-0.0, pl.Float64(), "0"),
        (math.nan, pl.Float64(), None),
        (Decimal("27"), pl.Decimal(38, 0), "27"),
        (Decimal("27.00"), pl.Decimal(10, 2), "27"),
        (Decimal("1.50"), pl.Decimal(10, 2), "1.5"),
        (Decimal("0.00"), pl.Decimal(10, 2), "0"),
        (Decimal("100"), pl.Decimal(10, 0), "100"),
        (Decimal("-0.5000"), pl.Decimal(12, 4), "-0.5"),
        (Decimal("9100000000000000001"), pl.Decimal(38, 0), "9100000000000000001"),
        (Decimal("12345678901234567890.1234567891"), pl.Decimal(38, 10), "12345678901234567890.1234567891"),
        (True, pl.Boolean(), "true"),
        (datetime(2025, 1, 1), pl.Datetime("ms"), "2025-01-01 00:00:00"),
        (datetime(2025, 1, 1), pl.Datetime("us"), "2025-01-01 00:00:00"),
        (date(2025, 1, 1), pl.Date(), "2025-01-01"),
        *((word, pl.String(), "true") for word in ("true", "True", "TRUE")),
        *((word, pl.String(), "false") for word in ("false", "False", "FALSE")),
        *((word, pl.String(), None) for word in (*MISSING, " ", "\t NULL ", "\xa0")),
        *((word, pl.String(), "27") for word in ("27", "27.0", "27.000")),
        *((word, pl.String(), "0") for word in ("0", "0.0", "-0.0", "-0")),
        ("-27.0", pl.String(), "-27"),
        *((word, pl.String(), word) for word in ("007", "007.0", "1e3", "1.50", "1.10", "27.", ".0", "+27.0", "t")),
        *((word, pl.String(), word) for word in ("yes", "NA", "N/A", "Null", "none", "x NULL", " DE", "1_0", "ü")),
    ],
)
def test_spellings(value: Any, dtype: Any, spelled: str | None) -> None:
    assert text(value, dtype) == spelled
    if dtype == pl.String:
        for kind in (pl.Categorical(), pl.Enum([value])):
            assert text(value, kind) == spelled
    if not isinstance(value, datetime | date) and dtype != pl.Float32:
        assert normalise_text(value, "x", LOG) == spelled, "a single payment"


ODD = st.sampled_from(
    [*MISSING, " ", "True", "27.0", "-0.0", "1e3", "0x1", "1_0", "inf", "٣", "\x1c1", "1d5", "1.", ".5"]
)
TEXTS = st.text(max_size=5) | ODD | st.text(alphabet="0123456789.-+eE tru", max_size=8)


@settings(max_examples=300, deadline=None)
@given(value=st.one_of(st.floats(), st.integers(-(2**70), 2**70), st.booleans(), TEXTS))
def test_single_payments_are_spelled_as_logs(value: Any) -> None:
    kind: Any = {float: pl.Float64(), int: pl.Int128(), bool: pl.Boolean(), str: pl.String()}[type(value)]
    for spelling in (LOG, WIRE):
        assert normalise_text(value, "x", spelling) == text(value, kind, spelling)
        missing = of(columns.missing("x", kind, LOG), value, kind)
        assert missing == (normalise_text(value, "x", LOG) is None)
    if isinstance(value, bool):
        return
    inexact = columns.inexact("x", kind)
    broken = inexact is not None and of(inexact, value, kind)
    try:
        key_of(value, "x", LOG)
    except RuleViolationError:
        assert broken
    else:
        assert not broken
    read = of(columns.number("x", kind, LOG), value, kind)
    try:
        single = number_of(value, "x", LOG)
    except RuleViolationError:
        assert (read is None and not missing) or math.isinf(read)
    else:
        assert single == read or (single is None and (read is None or math.isnan(read)))


@pytest.mark.parametrize(
    ("value", "dtype", "broken"),
    [
        (2.0**24 - 1, pl.Float32(), False),
        (2.0**24, pl.Float32(), True),
        (2.0**53 - 1, pl.Float64(), False),
        (-(2.0**53), pl.Float64(), True),
        (math.nan, pl.Float64(), False),
        ("4.55679E+15", pl.String(), True),
        ("9.1e18", pl.String(), True),
        ("4e+08", pl.String(), True),
        ("1e3", pl.String(), False),
        ("12e5", pl.String(), False),
        ("9100000000000000001", pl.String(), False),
        *(
            (digits, pl.String(), True)
            for digits in ("9007199254740992.0", "-9007199254740994.0", "9100000000000000.0")
        ),
        *((digits, pl.String(), False) for digits in ("9007199254740991.0", "8999999999999999.0", "9007199254740992")),
        ("91000000000000000001.0", pl.String(), True),
        ("91000000000000000001.00", pl.String(), False),  # a decimal of scale 2 holds all its digits
    ],
)
def test_numbers_without_all_their_digits_are_no_keys(value: Any, dtype: Any, broken: bool) -> None:
    assert of(columns.inexact("x", dtype), value, dtype) is broken


@pytest.mark.parametrize("dtype", [pl.Int64(), pl.UInt64(), pl.Decimal(38, 0), pl.Boolean()])
def test_exact_types_need_no_look(dtype: Any) -> None:
    assert columns.inexact("x", dtype) is None


AT = datetime(2025, 1, 1, 0, 16, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    ("spelled", "moment"),
    [
        ("2025-01-01 00:16:24.000 +0000", AT),
        ("2025-01-01 00:16:24.000 +00:00", AT),
        ("2025-01-01 00:16:24 Z", AT),
        ("2025-01-01 00:16:24.000000 UTC", AT),
        ("2025-01-01 00:16:24 GMT", AT),
        ("2025-01-01 00:16:24+00", AT),
        ("2025-01-01T05:46:24.000+05:30", AT),
        ("2024-12-31T16:16:24.000 -0800", AT),
        ("2025-01-01t00:16:24z", AT),
        ("2025-01-01T00:16Z", AT.replace(second=0)),
        ("2025-01-01T00:16+0000", AT.replace(second=0)),
        ("2025-01-01 00:16 UTC", AT.replace(second=0)),
        ("2025-01-01 02:16 +02:00", AT.replace(second=0)),
        ("2025-01-01 00:16:24.123456789", AT.replace(microsecond=123456)),
        ("2025-01-01", AT.replace(minute=0, second=0)),
        ("2024-12-31T23:59:60Z", AT.replace(minute=0, second=0)),
        ("2025-01-01 00:15:60.5", AT.replace(minute=16, second=0, microsecond=500_000)),
        *((text_, None) for text_ in ("2025-01-01 24:00:00", "2025-02-30", "2025-01-01 00:16:24 CET", "01/02/2025")),
        *(
            (text_, None)
            for text_ in ("2025-01-01 00:16:24+25:00", "2025-01-01Z", "20250101", "1735690584", "٢٠٢٥-01-01")
        ),
    ],
)
def test_times_as_warehouses_write_them(spelled: str, moment: datetime | None) -> None:
    read = of(columns.seconds("x", pl.String(), None, LOG), spelled, pl.String())
    assert read == (None if moment is None else moment.timestamp())
    if moment is None:
        with pytest.raises(RuleViolationError):
            parse_epoch_seconds(spelled, "x", None, LOG)
    else:
        assert parse_epoch_seconds(spelled, "x", None, LOG) == read


@given(
    micros=st.integers(1_000_000_000 * 10**6, 2_000_000_000 * 10**6),
    nanos=st.integers(0, 999),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
)
@settings(max_examples=50, deadline=None)
def test_numeric_times_of_every_unit_and_type(micros: int, nanos: int, unit: str) -> None:
    count = {"s": micros // 10**6, "ms": micros // 1000, "us": micros, "ns": micros * 1000 + nanos}[unit]
    exact = {"s": micros // 10**6, "ms": micros // 1000 / 1e3, "us": micros / 1e6, "ns": micros / 1e6}[unit]
    for value, kind in (
        (count, pl.Int64()),
        (count, pl.UInt64()),
        (Decimal(count), pl.Decimal(38, 0)),
        (str(count), pl.String()),
    ):
        assert of(columns.seconds("x", kind, unit, LOG), value, kind) == exact  # type: ignore[arg-type]
    assert parse_epoch_seconds(count, "x", unit, LOG) == parse_epoch_seconds(str(count), "x", unit, LOG) == exact
    read = of(columns.seconds("x", pl.Float64(), unit, LOG), float(count), pl.Float64())
    assert parse_epoch_seconds(float(count), "x", unit, LOG) == read == pytest.approx(exact, abs=2e-6)


@given(
    moment=st.datetimes(datetime(1990, 1, 2), datetime(2030, 1, 1)),
    shift=st.integers(-14 * 60, 14 * 60),
    mark=st.sampled_from(["T", " "]),
    spec=st.sampled_from(["minutes", "seconds", "milliseconds", "microseconds"]),
)
@settings(max_examples=100, deadline=None)
def test_times_with_any_offset(moment: datetime, shift: int, mark: str, spec: str) -> None:
    spelled = moment.replace(tzinfo=timezone(timedelta(minutes=shift))).isoformat(sep=mark, timespec=spec)
    exact = datetime.fromisoformat(spelled)
    for form in (spelled, spelled[:-6] + " " + spelled[-6:], spelled[:-3] + spelled[-2:]):
        read = of(columns.seconds("x", pl.String(), None, LOG), form, pl.String())
        assert read == parse_epoch_seconds(form, "x", None, LOG) == exact.timestamp()


@pytest.mark.parametrize(
    ("spelled", "unit", "seconds"),
    [
        ("1.73569E+12", "ms", None),
        ("1.73569e+09", "s", None),
        (" 1.7E9 ", "s", None),
        ("1.735689600123e+12", "ms", 1735689600.123),  # as Arrow writes large floats
        ("1.7356896e+18", "ns", 1735689600.0),
    ],
)
def test_times_without_all_their_digits(spelled: str, unit: str, seconds: float | None) -> None:
    assert of(columns.seconds("x", pl.String(), unit, LOG), spelled, pl.String()) == seconds
    if seconds is not None:
        assert parse_epoch_seconds(spelled, "x", unit, LOG) == seconds
        return
    with pytest.raises(RuleViolationError, match="with all its digits"):
        parse_epoch_seconds(spelled, "x", unit, LOG)


def test_short_floats_hold_no_times() -> None:
    assert not columns.is_time(pl.Float32(), "s")
    assert columns.is_time(pl.Float64(), "s")


BASE: dict[str, Any] = {
    "name": "m",
    "event": {"id": "id", "time": "at"},
    "label": {"column": "fraud", "delay_days": 1},
    "history": [{"name": "card", "key": "card"}],
}


def test_a_market_says_what_is_missing() -> None:
    usual = Market.from_dict(BASE)
    assert usual.fingerprint == Market.from_dict({**BASE, "input": {}}).fingerprint
    assert "input" not in usual.to_dict(), "fingerprints of markets made before stay"
    own = Market.from_dict({**BASE, "input": {"missing": ["-", "n/a"]}})
    assert own.fingerprint != usual.fingerprint
    spelling = Spelling.of(own)
    assert [normalise_text(value, "x", spelling) for value in ("-", " n/a ", "", " ", "NULL")] == [None] * 4 + ["NULL"]
    assert [text(value, pl.String(), spelling) for value in ("-", " n/a ", "", " ", "NULL")] == [None] * 4 + ["NULL"]


@pytest.mark.parametrize("marker", ["0", "-1", "9e9", "inf", "true", "False"])
def test_numbers_and_truth_are_never_missing(marker: str) -> None:
    with pytest.raises(MarketError, match="neither a number nor true or false"):
        Market.from_dict({**BASE, "input": {"missing": [marker]}})
