"""How logs may be written: separators, quotes, encodings, decimal commas, time zones, joined columns, rows without ids."""

from __future__ import annotations

import contextlib
import gzip
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.data.check.log_check import check_log
from tsa.data.log import columns
from tsa.data.log.reader import read_log
from tsa.data.online.payments import PaymentReader
from tsa.data.online.rows import with_joined
from tsa.data.spelling import Spelling
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.data.values import RuleViolationError, number_of, parse_epoch_seconds
from tsa.errors import DataError, MarketError

TABLE: dict[str, Any] = {
    "name": "written",
    "event": {"id": "id", "time": "time", "amount": "amount"},
    "label": {"column": "fraud", "delay_days": 0},
    "history": [{"name": "customer", "key": "customer", "length": 3}],
    "features": {"categorical": [{"name": "town", "min_count": 1}], "numerical": ["amount"]},
    "split": {"fractions": [0.4, 0.2, 0.2, 0.2]},
}
N = 60
TOWNS = ("Köln", "Paris; 6e", 'the "Hague"', "Bruges, old", "l'Isle")


def log() -> pl.DataFrame:
    start = datetime(2024, 3, 30, 12)
    return pl.DataFrame(
        {
            "id": [f"e{at:03d}" for at in range(N)],
            "time": [start + timedelta(minutes=30 * at) for at in range(N)],
            "customer": [f"c{at % 7}" for at in range(N)],
            "town": [TOWNS[at % 5] for at in range(N)],
            "amount": [round(at * 37.25 - 500, 2) for at in range(N)],
            "fraud": [int(at % 4 == 0) for at in range(N)],
        }
    )


def market(**changes: Any) -> Market:
    return Market.from_dict({**TABLE, **changes})


def stored(path: Path | list[Path], out: Path, **changes: Any) -> EventStore:
    return prepare(market(**changes), path, out)


def same(left: EventStore, right: EventStore) -> None:
    for name in ("time_seconds", "categorical", "numerical", "label"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
    assert left.columns(["town", "customer"]).equals(right.columns(["town", "customer"]))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    folder = tmp_path_factory.mktemp("plain")
    log().write_parquet(folder / "log.parquet")
    return stored(folder / "log.parquet", folder / "store")


def written(table: pl.DataFrame, separator: str, quote: str, *, comma: bool = False) -> str:
    def field(value: object) -> str:
        text = str(value).replace(".", ",") if comma and isinstance(value, float) else str(value)
        needs = quote and any(mark in text for mark in (separator, quote))
        return f"{quote}{text.replace(quote, 2 * quote)}{quote}" if needs else text

    lines = [separator.join(table.columns), *(separator.join(map(field, row)) for row in table.iter_rows())]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("separator", [";", "|", "\t", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
def test_separators_and_encodings_are_found(plain: EventStore, tmp_path: Path, separator: str, encoding: str) -> None:
    text = written(log(), separator, '"')
    (tmp_path / "log.csv").write_bytes(text.encode(encoding))
    found = stored(tmp_path / "log.csv", tmp_path / "store")
    same(found, plain)
    said = "".join(found.data_report.get("guessed", ()))
    assert (f"the text is in {encoding!r}" in said) == (encoding != "utf-8")
    assert (f"fields are separated by {separator!r}" in said) == (separator != ",")
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(text.encode(encoding)))
    store = stored(tmp_path / "log.csv.gz", tmp_path / "again", input={"encoding": encoding})
    same(store, plain)
    assert store.data_report["files"] == [str(tmp_path / "log.csv.gz")]


@pytest.mark.parametrize(("separator", "quote"), [("^", "'"), (":", "'"), ("~", '"'), (";", "'")])
def test_settings_say_what_cannot_be_found(plain: EventStore, tmp_path: Path, separator: str, quote: str) -> None:
    table = log().with_columns(time=pl.col("time").dt.strftime("%Y-%m-%d %H:%M"))
    (tmp_path / "log.csv").write_text(written(table.with_columns(time="time"), separator, quote))
    same(stored(tmp_path / "log.csv", tmp_path / "s", input={"separator": separator, "quote": quote}), plain)


def test_a_broken_quote_is_found_for_every_quote(tmp_path: Path) -> None:
    lines = written(log(), ";", "'").splitlines()
    lines[7] = lines[7].replace("c6", "'c6")
    (tmp_path / "log.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"log\.csv: line 8: a quote"):
        stored(tmp_path / "log.csv", tmp_path / "s", input={"separator": ";", "quote": "'"})


def test_a_wrong_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(written(log(), ",", '"').encode("cp1252"))
    with pytest.raises(DataError, match=r"log\.csv: is not in utf-16"):
        stored(tmp_path / "log.csv", tmp_path / "s", input={"encoding": "utf-16"})
    with pytest.raises(DataError, match="UTF-8"):
        stored(tmp_path / "log.csv", tmp_path / "s", input={"encoding": "UTF8"})


def test_decimal_commas(plain: EventStore, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(written(log(), ";", '"', comma=True))
    store = stored(tmp_path / "log.csv", tmp_path / "s", input={"decimal": ","})
    same(store, plain)
    with pytest.raises(DataError, match="not_a_number:amount"):
        stored(tmp_path / "log.csv", tmp_path / "t", input={"decimal": "."})
    guessed = stored(tmp_path / "log.csv", tmp_path / "g")
    same(guessed, plain)
    assert "and numbers have a decimal comma; if that is wrong, set it in [input]" in guessed.data_report["guessed"][0]
    reader = PaymentReader(store.market, store.encoder)
    rows = log().with_columns(amount=pl.col("amount").cast(pl.String).str.replace(".", ",", literal=True)).to_dicts()
    np.testing.assert_array_equal(reader.read_all(rows).numerical, store.numerical)


@pytest.mark.parametrize(
    ("files", "amounts"),
    [
        ([["1,50", "1.234,5", "7"]], [1.5, 1234.5, 7.0]),
        ([["1,50", "2"], ["3", "1.234"]], [1.5, 2.0, 3.0, 1234.0]),  # the second file is written as the first
        ([["1,50", "2"], ["3.5", "1.234"]], [1.5, 2.0, 3.5, 1.234]),  # and here it is not
        ([["1.5", "0.25"]], [1.5, 0.25]),
        ([["1,234", "2"]], None),  # thousands or decimals: nobody knows
        ([["1,5", "2.5"]], None),
        ([["1,234.50", "2"]], None),
    ],
)
def test_decimal_commas_are_guessed_where_they_are_sure(
    tmp_path: Path, files: list[list[str]], amounts: list[float] | None
) -> None:
    made = [
        log()[:30].with_columns(id=pl.format("{}-{}", pl.lit(at), "id"), amount=pl.Series([*texts, *["3"] * 30][:30]))
        for at, texts in enumerate(files)
    ]
    for at, table in enumerate(made):
        table.write_csv(tmp_path / f"{at}.csv", separator=";")
    paths = [tmp_path / f"{at}.csv" for at in range(len(files))]
    rows = tmp_path / "rows.parquet"
    if amounts is None:
        with pytest.raises(DataError, match="not_a_number:amount"):
            read_log(market(), [str(path) for path in paths], rows)
        return
    read_log(market(), [str(path) for path in paths], rows)
    found = pl.read_parquet(rows).sort("id")["amount"].to_list()
    assert [found[at * 30 + number] for at, each in enumerate(files) for number in range(len(each))] == amounts


NUMBERS = [
    "1",
    "1,5",
    "1.5",
    "1.234,50",
    "1.234",
    "12.34",
    "-,5",
    ",",
    "",
    "1,",
    "1e3",
    "2,5e-2",
    "inf",
    "nan",
    "true",
    "x",
    "1,2,3",
]


@settings(max_examples=60, deadline=None)
@given(text=st.one_of(st.sampled_from(NUMBERS), st.text("0123456789.,-+eE", max_size=8)), comma=st.booleans())
def test_numbers_are_read_alike(text: str, comma: bool) -> None:
    spelling = Spelling(frozenset(), decimal_comma=comma)
    frame = pl.DataFrame({"x": [text]})
    value, blank = frame.select(
        columns.number("x", pl.String(), spelling).alias("v"), columns.missing("x", pl.String(), spelling).alias("m")
    ).row(0)
    expected: float | None = None
    with contextlib.suppress(RuleViolationError):
        expected = number_of(text, "x", spelling)
    found = None if blank or value is None or not np.isfinite(value) else value
    assert found == expected, text
    if comma and text in ("1,5", "1.234,50", "1.234", "1.5"):
        assert found == {"1,5": 1.5, "1.234,50": 1234.5, "1.234": 1234.0, "1.5": None}[text]


MOMENTS = (
    st.datetimes(datetime(1990, 1, 1), datetime(2035, 1, 1))
    | st.datetimes(datetime(2024, 3, 31, 1), datetime(2024, 3, 31, 4))
    | st.datetimes(datetime(2024, 10, 27, 1), datetime(2024, 10, 27, 4))
)


@settings(max_examples=80, deadline=None)
@given(
    moment=MOMENTS,
    offset=st.sampled_from(["", "", "Z", " UTC", "+02:00", "-0530"]),
    zone=st.sampled_from([None, "Europe/Berlin", "America/New_York", "Asia/Kolkata"]),
    form=st.sampled_from(["text", "short", "day", "datetime", "date"]),
)
def test_times_of_a_zone_are_read_alike(moment: datetime, offset: str, zone: str | None, form: str) -> None:
    spelling = Spelling(frozenset(), zone=zone)
    value: Any = {
        "text": moment.isoformat(sep=" ") + offset,
        "short": f"{moment:%Y-%m-%dT%H:%M}" + offset.strip(),
        "day": f"{moment:%Y-%m-%d}",
        "datetime": moment,
        "date": moment.date(),
    }[form]
    frame = pl.DataFrame({"x": [value]})
    found = frame.select(columns.seconds("x", frame.schema["x"], None, spelling)).item()
    expected: float | None = None
    with contextlib.suppress(RuleViolationError):
        expected = parse_epoch_seconds(value, "x", None, spelling)
    assert found == expected
    if zone == "Asia/Kolkata" and form == "datetime":
        assert found == pytest.approx((moment - datetime(1970, 1, 1)).total_seconds() - 5.5 * 3600, abs=1e-6)


def test_a_log_in_local_time(tmp_path: Path) -> None:
    log().write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="bad_time:time"):  # the clocks skipped 2:00 to 3:00 on that night
        stored(tmp_path / "log.parquet", tmp_path / "s", input={"time_zone": "Europe/Berlin"})
    good = log().filter((pl.col("time") < datetime(2024, 3, 31, 2)) | (pl.col("time") >= datetime(2024, 3, 31, 3)))
    good.write_parquet(tmp_path / "log.parquet")
    store = stored(tmp_path / "log.parquet", tmp_path / "s", input={"time_zone": "Europe/Berlin"})
    assert store.time_seconds[0] == datetime(2024, 3, 30, 11).timestamp() - datetime(1970, 1, 1).timestamp()
    reader = PaymentReader(store.market, store.encoder)
    np.testing.assert_array_equal(reader.read_all(good.to_dicts()).time_seconds, store.time_seconds)


JOINED = {
    "joined": [
        {"name": "time", "columns": ["day", "clock"]},
        {"name": "id", "columns": ["town", "number"], "separator": "/"},
    ]
}


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_joined_columns(plain: EventStore, tmp_path: Path, kind: str) -> None:
    table = log().with_columns(day=pl.col("time").dt.date(), clock=pl.col("time").dt.time(), number=pl.int_range(N))
    table = table.drop("id", "time")
    path = tmp_path / f"log.{kind}"
    texts = table.with_columns(pl.col("day", "clock").cast(pl.String))
    if kind == "parquet":
        table.write_parquet(path)
    elif kind == "csv":
        path.write_text(written(texts, ";", '"'))
    else:
        texts.write_ndjson(path)
    store = stored(path, tmp_path / "store", input=JOINED)
    same(store, plain)
    assert store.ids()[1] == "Paris; 6e/1"
    reader = PaymentReader(store.market, store.encoder, refuse_unknown_fields=True)
    payments = reader.read_all(texts.to_dicts(), outcomes=True)
    assert list(payments.ids) == store.ids().to_list()
    np.testing.assert_array_equal(payments.time_seconds, store.time_seconds)
    own = reader.read_all([{**texts.to_dicts()[0], "id": "mine", "time": "2024-04-01"}])
    assert own.ids == ("mine",)
    missing = reader.read([{**texts.to_dicts()[0], "clock": None}]).problems[0]
    assert (missing.rule, missing.field) == ("null_time", "time")
    assert with_joined(store.market, {"day": date(2024, 1, 2), "clock": time(3, 4)})["time"] == "2024-01-02 03:04:00"


def test_a_part_without_a_value_breaks_the_rule_of_the_joined_column(tmp_path: Path) -> None:
    table = log().with_columns(day=pl.col("time").dt.date(), clock=pl.col("time").dt.time(), number=pl.int_range(N))
    table.drop("id", "time").with_columns(clock=pl.when(pl.col("number") != 5).then("clock")).write_parquet(
        tmp_path / "log.parquet"
    )
    with pytest.raises(DataError, match="null_time:time"):
        stored(tmp_path / "log.parquet", tmp_path / "store", input=JOINED)


def test_rows_without_ids(plain: EventStore, tmp_path: Path) -> None:
    table = log().drop("id")
    for at, name in enumerate(("a.csv", "b.csv")):
        (tmp_path / name).write_text(written(table[at * 30 : at * 30 + 30], ",", '"'))
    event = {**TABLE["event"], "id": "row"}
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    store = stored(files, tmp_path / "store", event=event)
    same(store, plain)
    assert store.ids()[0] == "a.csv:1"
    assert store.ids()[59] == "b.csv:30"
    again = stored(files[::-1], tmp_path / "again", event=event)
    assert again.ids().to_list() == store.ids().to_list(), "whatever the order of files"
    assert len(set(store.ids())) == N
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.parquet").write_bytes(b"")
        table[:30].write_parquet(tmp_path / folder / "a.parquet")
    twice = stored([tmp_path / "x", tmp_path / "y"], tmp_path / "two", event=event)
    assert twice.ids()[:2].to_list() == ["x/a.parquet:1", "y/a.parquet:1"]
    reader = PaymentReader(store.market, store.encoder)
    assert reader.read_all([{**table.to_dicts()[0], "row": "r1"}]).ids == ("r1",)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"separator": "ab"}, "at most 1 character"),
        ({"separator": "x"}, "must be one ASCII character"),
        ({"separator": '"'}, "must not be the quote"),
        ({"encoding": "klingon"}, "must be an encoding that Python knows"),
        ({"time_zone": "Mars"}, "must be the name of a time zone"),
        ({"joined": [{"name": "z", "columns": ["a", "b"]}]}, r"input\.joined\.z: must be used"),
        ({"joined": [{"name": "time", "columns": ["a", "fraud"]}]}, "must not be made of the outcome"),
        ({"joined": [{"name": "amount", "columns": ["a", "b"]}]}, "is a text: do not use it as a number"),
        ({"joined": [{"name": "time", "columns": ["a", "id"]}, {"name": "id", "columns": ["a", "b"]}]}, "got 'id'"),
    ],
)
def test_options_that_are_refused(given: dict[str, Any], match: str) -> None:
    with pytest.raises(MarketError, match=match):
        market(input=given)


def test_defaults_do_not_change_the_market() -> None:
    assert market(input={"decimal": ".", "joined": []}).fingerprint == market().fingerprint


def test_guesses_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In a warning, the report of the store and `tsa check`; not where the market sets them, or nothing is unusual."""
    for name in ("a.csv", "b.csv"):
        log().with_columns(id=pl.lit(name) + pl.col("id")).write_csv(tmp_path / name, separator=";")
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    report = stored(paths, tmp_path / "store").data_report
    sentence = (
        "a.csv and 1 more files: by the first rows, fields are separated by ';'; if that is wrong, set it in [input]"
    )
    assert [text.removeprefix(f"{tmp_path}/") for text in report["guessed"]] == [sentence]
    assert any(record.getMessage().endswith(sentence) for record in caplog.records if record.levelname == "WARNING")
    assert any(note.text.endswith(sentence) for note in check_log(market(), [str(path) for path in paths]).notes)
    assert "guessed" not in stored(paths, tmp_path / "set", input={"separator": ";"}).data_report
    log().write_csv(tmp_path / "c.csv")
    assert "guessed" not in stored(tmp_path / "c.csv", tmp_path / "usual").data_report
