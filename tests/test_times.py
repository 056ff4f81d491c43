"""One grammar of dates and times: in settings, single payments and whole columns of logs."""

from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from pydantic import TypeAdapter

from tsa.config.tables import Instant
from tsa.data.log.columns import seconds
from tsa.data.spelling import Spelling
from tsa.data.time_range import epoch_seconds
from tsa.data.values import RuleViolationError, parse_epoch_seconds
from tsa.errors import ConfigError
from tsa.times import as_moment, as_utc, parse_time, to_seconds

NOON = 1_525_694_400.0  # 2018-05-07T12:00:00Z
SPELLED = {
    "2018-05-07T12:00:00Z": NOON,
    "2018-05-07T12:00:00": NOON,
    "2018-05-07 12:00": NOON,
    "2018-05-07t12:00z": NOON,
    "2018-05-07 12:00:00 UTC": NOON,
    "2018-05-07T14:00:00+02:00": NOON,
    "2018-05-07T14:00:00+02": NOON,
    "2018-05-07T06:30:00-0530": NOON,
    "2018-05-07": NOON - 43_200,
    "2018-05-07T12:00:00.25": NOON + 0.25,
    "2018-05-07T12:00:00,123456789Z": NOON + 0.123456,
}
NONE = [
    "",
    "soon",
    "20180507",
    "2018-W19-1",
    "2018-05-07T12",
    "2018-05-07_12:00",
    "2018-02-30",
    "2018-05-07T25:00",
    "1525694400",
]


@pytest.mark.parametrize("text", SPELLED)
def test_all_readers_agree_on_a_time(text: str) -> None:
    moment = parse_time(text)
    assert moment is not None
    assert to_seconds(moment) == SPELLED[text]
    assert to_seconds(as_utc(text)) == SPELLED[text]
    assert epoch_seconds("start", text, 0.0) == SPELLED[text]
    assert parse_epoch_seconds(text, "time", None, Spelling(frozenset())) == SPELLED[text]
    assert (
        pl.select(pl.lit(text).alias("t")).select(seconds("t", pl.String(), None, Spelling(frozenset()))).item()
        == SPELLED[text]
    )
    assert to_seconds(TypeAdapter(Instant).validate_python(text)) == SPELLED[text]


@pytest.mark.parametrize("text", NONE)
def test_and_on_what_is_none(text: str) -> None:
    assert parse_time(text) is None
    with pytest.raises(ValueError, match="must be a date or a time like"):
        as_utc(text)
    with pytest.raises(ConfigError, match="start must be a time like"):
        epoch_seconds("start", text, 0.0)
    if text:
        with pytest.raises(RuleViolationError):
            parse_epoch_seconds(text, "time", None, Spelling(frozenset()))
    assert (
        pl.select(pl.lit(text).alias("t")).select(seconds("t", pl.String(), None, Spelling(frozenset()))).item() is None
    )


def test_dates_and_datetimes() -> None:
    two = timezone(timedelta(hours=2))
    assert as_moment(date(2018, 5, 7)) == datetime(2018, 5, 7, tzinfo=UTC)
    assert as_moment(datetime(2018, 5, 7, 12)) == datetime(2018, 5, 7, 12, tzinfo=UTC)
    assert as_utc(datetime(2018, 5, 7, 14, tzinfo=two)).tzinfo is UTC
    assert as_moment(7) is None
    assert as_moment(True) is None


def test_microseconds_are_exact() -> None:
    moment = datetime(2018, 5, 7, 12, 0, 0, 123_457, tzinfo=UTC)
    assert to_seconds(moment) == NOON + 0.123457
    assert to_seconds(moment - timedelta(days=20_000)) < 0


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
def test_out_of_the_calendar(text: str) -> None:
    with pytest.raises(ValueError, match="must be a date or a time"):
        as_utc(text)
