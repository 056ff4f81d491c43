"""Reading logs: each format, each rule, quarantine, exclusion, order, and the account of every row."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.data.log.quarantine import Quarantine
from tsa.data.log.reader import CleanLog, read_log
from tsa.errors import DataError

START = datetime(2024, 1, 1)
DAY = 86_400.0
START_SECONDS = START.replace(tzinfo=UTC).timestamp()


def market(**changes: Any) -> Market:
    """Two histories, one feature of each kind; `changes` are tables merged in, key by key."""
    table: dict[str, Any] = {
        "name": "test",
        "event": {"id": "id", "time": "at", "amount": "amount"},
        "label": {"column": "fraud", "delay_days": 7},
        "history": [{"name": "card", "key": "card"}, {"name": "shop", "key": "shop"}],
        "features": {"categorical": ["country"], "numerical": ["amount"], "engineered": ["risk"]},
        "split": {"fractions": [0.7, 0.1, 0.1, 0.1]},
    }
    for name, change in changes.items():
        table[name] = {**table.get(name, {}), **change} if isinstance(change, dict) else change
    return Market.from_dict(table)


def log(rows: int = 12, **columns: Any) -> pl.DataFrame:
    """A sound log, out of order in time; `columns` replace its columns, None drops one."""
    numbers = range(rows)
    table = {
        "id": [100 + i for i in numbers],
        "at": [START + timedelta(hours=(7 * i) % rows, microseconds=i) for i in numbers],
        "card": [i % 3 for i in numbers],
        "shop": [f"s{i % 2}" for i in numbers],
        "country": [("DE", "FR", None)[i % 3] for i in numbers],
        "amount": [i + 0.5 for i in numbers],
        "risk": [i / 8 for i in numbers],
        "fraud": [(0, 1, None, -1)[i % 4] for i in numbers],
        "unused": ["x"] * rows,
    }
    table.update(columns)
    return pl.DataFrame({name: column for name, column in table.items() if column is not None}, strict=False)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., CleanLog]:
    def reads(frame: pl.DataFrame, like: Market | None = None, **options: Any) -> CleanLog:
        path = tmp_path / "log.parquet"
        frame.write_parquet(path)
        return read_log(like or market(), [str(path)], tmp_path / "clean.parquet", **options)

    return reads


def clean(result: CleanLog) -> pl.DataFrame:
    return pl.read_parquet(result.path)


def refused(read: Callable[..., CleanLog], *arguments: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(*arguments, **options)
    return str(caught.value)


def test_the_clean_table(read: Callable[..., CleanLog], tmp_path: Path) -> None:
    result = read(log())
    table = clean(result)
    assert dict(table.schema) == {
        "id": pl.Int64,
        "card": pl.Int64,
        "shop": pl.String,
        "amount": pl.Float64,
        "country": pl.String,
        "risk": pl.Float64,
        "__time_seconds": pl.Float64,
        "__label": pl.Int8,
        "__known_at_seconds": pl.Float64,
    }
    assert table["__time_seconds"].is_sorted()
    first = table.row(0, named=True)
    assert first["id"] == 100
    assert first["__time_seconds"] == START_SECONDS
    assert first["__known_at_seconds"] == START_SECONDS + 7 * DAY
    unknown = table.filter(pl.col("__label") == -1)
    assert unknown["__known_at_seconds"].is_infinite().all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.parquet", "log.parquet"]


def test_the_report_accounts_for_every_row(read: Callable[..., CleanLog], tmp_path: Path) -> None:
    report = read(log()).report
    assert json.loads(json.dumps(report)) == report
    assert report["files"] == [str(tmp_path / "log.parquet")]
    assert (report["rows_read"], report["rows_kept"]) == (12, 12)
    assert (report["rows_excluded"], report["rows_quarantined"], report["by_rule"]) == (0, 0, {})
    assert report["labels"] == {"fraud": 3, "genuine": 3, "unknown": 6}
    assert report["first_time"] == "2024-01-01T00:00:00+00:00"
    assert report["last_time"] == "2024-01-01T11:00:00.000005+00:00"
    assert report["null_rates"]["country"] == pytest.approx(1 / 3)
    assert report["null_rates"]["amount"] == 0


def write_json(frame: pl.DataFrame, path: Path, keep_nulls: bool = True) -> None:
    rows = ({k: v for k, v in row.items() if keep_nulls or v is not None} for row in frame.iter_rows(named=True))
    text = "".join(json.dumps(row, default=lambda value: value.isoformat()) + "\n" for row in rows)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_text(frame: pl.DataFrame, path: Path) -> None:
    data = frame.write_csv(separator="\t" if ".tsv" in path.name else ",").encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.tsv.gz", "a.jsonl", "a.jsonl.gz", "a.ndjson"])
def test_every_format_gives_the_same_table(read: Callable[..., CleanLog], tmp_path: Path, name: str) -> None:
    frame = log(card=[f"c{i % 3}" for i in range(12)])
    expected = clean(read(frame))
    path = tmp_path / name
    (write_json if "json" in name else write_text)(frame, path)
    result = read_log(market(), [str(path)], tmp_path / "other.parquet")
    assert clean(result).equals(expected)


def test_json_may_leave_fields_out(read: Callable[..., CleanLog], tmp_path: Path) -> None:
    frame = log(2000, fraud=[None] * 1999 + [1])
    write_json(frame, tmp_path / "a.jsonl", keep_nulls=False)
    result = read_log(market(), [str(tmp_path / "a.jsonl")], tmp_path / "other.parquet")
    assert clean(result).drop("card").equals(clean(read(frame)).drop("card"))


def test_many_files_of_many_kinds(read: Callable[..., CleanLog], tmp_path: Path) -> None:
    frame = log(16, country=["DE"] * 16)
    expected = clean(read(frame)).with_columns(pl.col("card").cast(pl.String))
    folder = tmp_path / "parts"
    folder.mkdir()
    frame[:4].write_parquet(folder / "a1.parquet")
    frame[4:8].select(reversed(frame.columns)).write_parquet(folder / "a2.parquet")
    write_text(frame[8:12], folder / "b.csv")
    write_json(frame[12:], folder / "c.jsonl")
    for logs in (["parts/*"], ["parts"], ["parts/c.jsonl", "parts/a*.parquet", "parts/b.csv"]):
        result = read_log(market(), [str(tmp_path / log) for log in logs], tmp_path / "other.parquet")
        assert clean(result).equals(expected)
        assert len(result.report["files"]) == 4


def test_files_that_cannot_be_read(tmp_path: Path, read: Callable[..., CleanLog]) -> None:
    out = tmp_path / "clean.parquet"
    for name, text, message in [
        ("none/*.csv", None, "no such file or folder"),
        ("a.xls", "x", "must end in one of .parquet"),
        ("a.parquet", "no parquet", "a.parquet: is not a Parquet file"),
        ("a.parquet.gz", "x", "must end in one of"),
        ("empty.csv", "", "empty.csv: is empty"),
        ("empty.jsonl", "", "empty.jsonl: is empty"),
        ("torn.jsonl", '{"id": 1,\n', "torn.jsonl: line 1 is not JSON"),
    ]:
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(DataError) as caught:
            read_log(market(), [str(tmp_path / name)], out)
        assert message in str(caught.value)
    assert "at least one row" in refused(read, log(0))
    assert not out.exists()


def test_a_row_with_a_field_too_many_is_refused(tmp_path: Path) -> None:
    path, out = tmp_path / "a.csv", tmp_path / "clean.parquet"
    rows = log().write_csv().splitlines()
    rows[4] = rows[4].replace("103,", "103,2024-01-01,")  # all that follows is shifted by one
    path.write_text("\n".join(rows))
    like = market(features={"numerical": [], "engineered": []}, event={"amount": None})
    with pytest.raises(DataError, match="extra_field: a row must not have more fields than the header: 1 rows"):
        read_log(like, [str(path)], out)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    read_log(like, [str(path)], out, quarantine=Quarantine(tmp_path / "bad.parquet", limit=1))
    assert "extra_field" in pl.read_parquet(tmp_path / "bad.parquet")["__reason"][0]


def test_in_a_table_of_tabs_quotes_are_letters(tmp_path: Path) -> None:
    """None swallows what comes after it; around a whole field, a name as well, they are taken off."""
    spelled = ['"phone', 'x"', '15" screen', '"tab""let"', '""', '"a" b"', '"', "plain"]
    read_as = ['"phone', 'x"', '15" screen', 'tab"let', "", '"a" b"', '"', "plain"]
    table = log(8, country=spelled).rename({"country": '"country"'})
    path = tmp_path / "log.tsv"
    path.write_text(
        "\n".join("\t".join("" if v is None else str(v) for v in line) for line in [table.columns, *table.rows()])
    )
    clean = read_log(market(), [path], tmp_path / "clean.parquet")
    assert clean.report["rows_kept"] == 8
    found = pl.read_parquet(clean.path).sort("id")["country"].fill_null("")
    assert found.to_list() == read_as


@pytest.mark.parametrize("column", ["country", "unused"])
def test_a_quote_that_is_not_closed_is_told_of(tmp_path: Path, column: str) -> None:
    """In a table of commas it makes one field of all up to the next quote: another payment is in it, read or not."""
    path = tmp_path / "log.csv"
    lines = log(6, **{column: ["DE"] * 6}).write_csv().splitlines()
    lines[2], lines[4] = lines[2].replace("DE", '"DE'), lines[4].replace("DE", 'DE"')
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"log.csv: line 3: a quote is not closed before line 5"):
        read_log(market(), [path], tmp_path / "clean.parquet")


def test_texts_of_several_lines(tmp_path: Path) -> None:
    """Where they are read, a row rule; in columns that only lie in the log they are no matter."""
    path = tmp_path / "log.csv"
    log(6, country=["DE", "F\nR", *["DE"] * 4], unused=['said\n\n"hello", then left'] * 6).write_csv(path)
    with pytest.raises(DataError, match=r"line_break:country: must be on one line: is a quote not closed\?: 1 rows"):
        read_log(market(), [path], tmp_path / "clean.parquet")
    clean = read_log(
        market(), [path], tmp_path / "clean.parquet", quarantine=Quarantine(tmp_path / "bad.parquet", limit=1)
    )
    assert clean.report["rows_kept"] == 5
    assert "line_break:country" in pl.read_parquet(tmp_path / "bad.parquet")["__reason"].item()


def test_nor_does_one_in_a_column_that_only_excludes_rows(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    of = market(features={"exclude": [{"column": "unused", "values": ["test"]}]})
    log(6, unused=["x", "x\ny", *["x"] * 4]).write_csv(path)
    with pytest.raises(DataError, match="line_break:unused: must be on one line"):
        read_log(of, [path], tmp_path / "clean.parquet")


def test_missing_columns_are_listed_with_look_alikes(read: Callable[..., CleanLog]) -> None:
    message = refused(read, log().rename({"amount": "Amount_", "card": "zzzzzzzz"}))
    assert "amount: missing; did you mean `Amount_`?" in message
    assert "card: missing" in message
    assert "shop" not in message


def test_wrong_types_are_listed(read: Callable[..., CleanLog]) -> None:
    bad = log(at=[1.0] * 12, risk=[START] * 12, country=[[1]] * 12)
    message = refused(read, bad)
    assert "at: must be a time (numbers need event.time_unit) (got Float64" in message
    assert "risk: must be a number (got Datetime" in message
    assert "country: must be a text, a number or a time (got List" in message


def with_value(column: str, value: Any, position: int = 3) -> pl.DataFrame:
    values = log()[column].to_list()
    values[position] = value
    column_values: Any = values if value is None or isinstance(value, float) else [str(v) for v in values]
    return log(12, **{column: column_values})


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("id", None, "null_id:id"),
        ("at", None, "null_time:at"),
        ("at", "2024-13-01 00:00:00", "bad_time:at"),
        ("at", "yesterday", "bad_time:at"),
        ("at", "2024-01-01 00:00:3", "bad_time:at"),
        ("at", "1989-12-31T23:59:59Z", "absurd_time:at"),
        ("at", "2999-01-01", "absurd_time:at"),
        ("amount", "12,50", "not_a_number:amount"),
        ("amount", float("inf"), "infinite:amount"),
        ("risk", float("-inf"), "infinite:risk"),
        ("risk", "1e999", "infinite:risk"),
        ("fraud", "2", "bad_label:fraud"),
        ("fraud", 0.5, "bad_label:fraud"),
        ("fraud", "maybe", "bad_label:fraud"),
    ],
)
def test_rules(read: Callable[..., CleanLog], tmp_path: Path, column: str, value: Any, rule: str) -> None:
    frame = with_value(column, value)
    if column == "fraud":
        frame = frame.with_columns(pl.col("fraud").replace("None", None)) if isinstance(value, str) else frame
    message = refused(read, frame)
    assert "1 of 12 rows break a rule" in message
    assert rule in message
    assert ("row 4" if column == "id" else "id 103") in message
    assert not (tmp_path / "clean.parquet").exists()
    quarantine = tmp_path / "bad" / "rows.parquet"
    result = read(frame, quarantine=Quarantine(quarantine, limit=1))
    bad = pl.read_parquet(quarantine)
    assert bad["__reason"].to_list() == [rule]
    assert bad[column].to_list() == [frame[column][3]]
    assert result.report["by_rule"] == {rule: 1}
    assert (result.report["rows_kept"], result.report["rows_quarantined"]) == (11, 1)
    assert 103 not in clean(result)["id"].cast(pl.Int64)


def test_of_equal_ids_the_first_is_kept(read: Callable[..., CleanLog], tmp_path: Path) -> None:
    for ids in ([1, 2, 1, 3, 1, 3, 4, 5, 6, 7, 8, 9], list("abacacdefghi")):
        frame = log(id=ids)
        message = refused(read, frame)
        assert "duplicate_id:id: must be unique; 2 ids occur more than once" in message
        assert "other columns differ: 2, " in message
        assert ": 3 rows; the first" in message
        assert f"id {ids[2]} " in message
        result = read(frame, quarantine=Quarantine(tmp_path / "bad.parquet", limit=1))
        assert result.report["by_rule"] == {"duplicate_id:id": 3}
        assert sorted(clean(result)["amount"]) == [0.5, 1.5, 3.5, 6.5, 7.5, 8.5, 9.5, 10.5, 11.5]
        assert pl.read_parquet(tmp_path / "bad.parquet")["amount"].to_list() == [2.5, 4.5, 5.5]


def test_all_findings_at_once_and_five_ids_of_each(read: Callable[..., CleanLog], tmp_path: Path) -> None:
    amounts = [float("inf")] * 7 + [1.0] * 5
    frame = log(amount=amounts, fraud=[7] * 2 + [0] * 10)
    message = refused(read, frame)
    assert "7 of 12 rows" in message
    assert "infinite:amount: must be finite: 7 rows; the first: id 100 ('inf'), id 101" in message
    assert "id 104" in message
    assert "id 105" not in message
    assert "bad_label:fraud: must be 0, 1, -1, yes, no, true, false or null: 2 rows; the first: id 100 ('7')" in message
    result = read(frame, quarantine=Quarantine(tmp_path / "bad.parquet", limit=1))
    assert result.report["by_rule"] == {"infinite:amount": 7, "bad_label:fraud": 2}
    assert result.report["rows_quarantined"] == 7
    reasons = pl.read_parquet(tmp_path / "bad.parquet")["__reason"]
    assert reasons[0] == "infinite:amount; bad_label:fraud"
    assert reasons[6] == "infinite:amount"


def test_a_sound_log_leaves_an_empty_quarantine(read: Callable[..., CleanLog], tmp_path: Path) -> None:
    read(log(), quarantine=Quarantine(tmp_path / "bad.parquet", limit=1))
    assert pl.read_parquet(tmp_path / "bad.parquet").height == 0


def test_a_log_with_nothing_but_bad_rows_is_refused(read: Callable[..., CleanLog], tmp_path: Path) -> None:
    message = refused(read, log(fraud=[9] * 12), quarantine=Quarantine(tmp_path / "bad.parquet", limit=1))
    assert "at least one row to use" in message
    assert pl.read_parquet(tmp_path / "bad.parquet").height == 12


def test_bad_rows_of_mixed_sources_are_set_aside_as_they_stand(tmp_path: Path) -> None:
    log()[:6].write_parquet(tmp_path / "a.parquet")
    write_text(with_value("amount", "12,50", 8)[6:], tmp_path / "b.csv")
    logs, quarantine = [str(tmp_path / "a.parquet"), str(tmp_path / "b.csv")], tmp_path / "bad.parquet"
    result = read_log(market(), logs, tmp_path / "clean.parquet", quarantine=Quarantine(quarantine, limit=1))
    assert pl.read_parquet(quarantine).select("id", "amount", "__reason").row(0) == (
        "108",
        "12,50",
        "not_a_number:amount",
    )
    assert clean(result)["id"].dtype == pl.Int64


@pytest.mark.parametrize(
    ("column", "values", "left"),
    [
        ("country", ["DE"], 8),
        ("card", [1, "2"], 4),
        ("amount", [2.5, 3.5], 10),
        ("unused", ["y"], 12),
    ],
)
def test_excluded_rows_are_counted(
    read: Callable[..., CleanLog], tmp_path: Path, column: str, values: Sequence[Any], left: int
) -> None:
    excluding = market(features={"exclude": [{"column": column, "values": values}]})
    frame = log()
    write_text(frame, tmp_path / "a.csv")
    for result in (read(frame, excluding), read_log(excluding, [str(tmp_path / "a.csv")], tmp_path / "o.parquet")):
        report = result.report
        assert (report["rows_kept"], report["rows_excluded"], report["rows_read"]) == (left, 12 - left, 12)
        assert clean(result).height == left
        assert "unused" not in clean(result).columns


def test_excluded_rows_may_be_bad_and_do_not_count_as_duplicates(read: Callable[..., CleanLog]) -> None:
    frame = log(id=[1, 1, *range(2, 12)], amount=[float("inf"), *[1.0] * 11], unused=["test", *["x"] * 11])
    excluding = market(features={"exclude": [{"column": "unused", "values": ["test"]}]})
    report = read(frame, excluding).report
    assert (report["rows_kept"], report["rows_excluded"]) == (11, 1)


def test_missing_values_are_null_in_every_spelling(read: Callable[..., CleanLog], tmp_path: Path) -> None:
    frame = log(
        amount=[float("nan"), *[1.0] * 11],
        country=["", *["DE"] * 11],
        shop=["", *["s"] * 11],
        card=[None, *[float(i) for i in range(11)]],
    )
    row = clean(read(frame)).row(0, named=True)
    assert (row["amount"], row["country"], row["shop"], row["card"]) == (None, None, None, None)
    assert clean(read(frame))["card"][1] in [str(i) for i in range(11)]  # floats only because of the null
    write_text(frame, tmp_path / "a.csv")
    row = clean(read_log(market(), [str(tmp_path / "a.csv")], tmp_path / "o.parquet")).row(0, named=True)
    assert (row["amount"], row["country"], row["shop"], row["card"]) == (None, None, None, None)


@pytest.mark.parametrize(
    "values",
    [
        [START, START + timedelta(hours=1)],
        [datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), datetime(2024, 1, 1, 1, tzinfo=UTC)],
        ["2024-01-01", "2024-01-01T01:00:00"],
        ["2024-01-01 00:00", "2024-01-01 01:00:00.000000"],
        ["2024-01-01T00:00:00Z", "2023-12-31T19:30:00.0-05:30"],
        ["2024-01-01T03:00:00+0300", "2024-01-01 01:00:00 UTC"],
        [date(2024, 1, 1), date(2024, 1, 1)],
    ],
)
def test_times_in_every_spelling(read: Callable[..., CleanLog], values: list[Any]) -> None:
    frame = log(2, at=[str(v) if isinstance(v, datetime) and v.tzinfo else v for v in values])
    hours = [0.0, 0.0] if isinstance(values[0], date) and not isinstance(values[0], datetime) else [0.0, 3600.0]
    assert (clean(read(frame))["__time_seconds"] - START_SECONDS).to_list() == hours


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_timestamps_of_every_unit_and_zone(read: Callable[..., CleanLog], unit: Any, zone: str | None) -> None:
    frame = log().with_columns(pl.col("at").dt.replace_time_zone("UTC").dt.truncate("1s"))
    frame = frame.with_columns(pl.col("at").dt.convert_time_zone(zone or "UTC").dt.cast_time_unit(unit))
    frame = frame if zone else frame.with_columns(pl.col("at").dt.replace_time_zone(None))
    assert clean(read(frame))["__time_seconds"][0] == START_SECONDS


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 1000), ("us", 1_000_000)])
def test_numeric_times_have_a_unit(read: Callable[..., CleanLog], tmp_path: Path, unit: str, scale: int) -> None:
    expected = log().with_columns(pl.col("at").dt.truncate("1s"))
    ticks = (expected["at"].dt.epoch("s") * scale).alias("at")
    like = market(event={"time_unit": unit})
    for column in (ticks, ticks.cast(pl.Float64), ticks.cast(pl.String)):
        result = clean(read(expected.with_columns(column), like))
        assert result.equals(clean(read(expected)))


def test_known_at_says_when_an_outcome_is_known(read: Callable[..., CleanLog]) -> None:
    told = [START + timedelta(days=i) if i % 2 else None for i in range(12)]
    like = market(label={"delay_days": None, "known_at": "told"})
    table = clean(read(log(fraud=[1] * 11 + [None], told=told), like)).sort("id")
    expected = [START_SECONDS + i * DAY if i % 2 and i < 11 else float("inf") for i in range(12)]
    assert table["__known_at_seconds"].to_list() == expected
    message = refused(read, log(told=["never"] * 12), like)
    assert "bad_time:told" in message


def test_a_log_to_score_needs_no_outcome(read: Callable[..., CleanLog], caplog: pytest.LogCaptureFixture) -> None:
    like = market(evaluation={"segments": ["region"]})
    frame = log(fraud=None)
    assert "fraud: missing" in refused(read, frame, like)
    result = read(frame, like, need_label=False)
    assert "no outcomes" in caplog.text
    assert result.report["labels"] == {"fraud": 0, "genuine": 0, "unknown": 12}
    assert clean(result)["__known_at_seconds"].is_infinite().all()
    assert clean(result)["region"].null_count() == 12
    assert clean(read(log(region=["x"] * 12), like, need_label=False))["__label"].max() == 1


def test_ids_and_keys_of_other_types(read: Callable[..., CleanLog], tmp_path: Path) -> None:
    assert clean(read(log(id=pl.Series([*range(12)], dtype=pl.UInt64))))["id"].dtype == pl.Int64
    assert clean(read(log(id=pl.Series([2**63 + i for i in range(12)], dtype=pl.UInt64))))["id"].dtype == pl.String
    assert clean(read(log(id=[str(i) for i in range(12)])))["id"].dtype == pl.String  # a text in Parquet stays one
    for names, dtype in (([str(i) for i in range(12)], pl.Int64), ([f"{i:02d}" for i in range(12)], pl.String)):
        write_text(log(id=names), tmp_path / "a.csv")
        table = clean(read_log(market(), [str(tmp_path / "a.csv")], tmp_path / "o.parquet"))
        assert table["id"].dtype == dtype
    numbers = log(
        risk=[Decimal("1.5")] * 12, fraud=[True, False] * 6, country=pl.Series(["a"] * 12, dtype=pl.Categorical)
    )
    table = clean(read(numbers))
    assert (table["risk"][0], table["country"][0]) == (1.5, "a")
    assert table["__label"].value_counts(sort=True).height == 2


def test_equal_times_are_ordered_by_id(read: Callable[..., CleanLog]) -> None:
    ids = [9, 10, 2, 30, 4, 7, 1, 100, 5, 6, 3, 8]
    table = clean(read(log(12, id=ids, at=[START] * 12)))
    assert table["id"].is_sorted()
    table = clean(read(log(12, id=[str(i) for i in ids], at=[START] * 12)))
    assert table["id"].to_list() == [str(i) for i in sorted(ids)], "texts that spell numbers go as the numbers do"
    names = ["b", "aa", "B", "ab", "a", "abc", "é", "", "10", "9", "zz", "x"]
    table = clean(read(log(12, id=[n or "longer" for n in names], at=[START] * 12)))
    spelled = [n.encode() for n in table["id"]]
    assert spelled == sorted(spelled, key=lambda n: (len(n), n))


def test_stretches_of_time_join_up(read: Callable[..., CleanLog], monkeypatch: pytest.MonkeyPatch) -> None:
    frame = log(500, at=[START + timedelta(minutes=(i * 37) % 50) for i in range(500)])
    whole = clean(read(frame))
    monkeypatch.setattr("tsa.data.log.sorting.STRETCH_BYTES", 4000)
    assert clean(read(frame)).equals(whole)
    assert whole.equals(whole.sort("__time_seconds", "id"))


@st.composite
def shuffled_logs(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows = draw(st.integers(1, 25))
    order = draw(st.permutations(range(rows)))
    frame = log(
        rows,
        id=draw(st.lists(st.integers(-(2**40), 2**40), min_size=rows, max_size=rows, unique=True)),
        at=[START + timedelta(hours=h) for h in draw(st.lists(st.integers(0, 5), min_size=rows, max_size=rows))],
        amount=draw(st.lists(st.floats(-1e38, 1e38) | st.just(math.nan) | st.none(), min_size=rows, max_size=rows)),
        country=draw(st.lists(st.text(max_size=3) | st.none(), min_size=rows, max_size=rows)),
    ).cast({"amount": pl.Float64, "country": pl.String, "fraud": pl.Int64})
    return frame, frame[list(order)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shuffled_logs())
def test_shuffling_the_rows_changes_not_a_byte(
    read: Callable[..., CleanLog], frames: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    first, second = (read(frame).path.read_bytes() for frame in frames)
    assert first == second
