"""Lines of a table with fewer fields than its header are refused, and nothing else is; quotes where tabs separate."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsa.data.log.file_heads import SEPARATORS, first_line, separator_of_header
from tsa.data.log.sources import open_sources
from tsa.data.log.text_tables import MAX_FIELD_BYTES, check_lines
from tsa.errors import DataError

HEADER = "id,amount,label\n"


def table(folder: Path, rows: str, name: str = "a.csv") -> str:
    path = folder / name
    data = (HEADER + rows).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("rows", "line", "fields", "others"),
    [
        ("a,1,0\nb,2\nc,3,1\n", 3, 2, 0),
        ("a,1,0\nb\nc,3\nd,4,", 3, 1, 1),
        ('"a,a",1\nb,2,0\n', 2, 2, 0),
        ('"a\nb,b",1,0\nc,2\n', 4, 2, 0),
        ('"a\nb,b",1\nc,2,0\n', 3, 2, 0),
    ],
    ids=[
        "in the midst",
        "several",
        "quoted separator",
        "behind a row of two lines",
        "itself two lines",
    ],
)
def test_a_short_line_is_refused_by_its_number(
    name: str, rows: str, line: int, fields: int, others: int, tmp_path: Path
) -> None:
    more = rf" \(and {others} more lines have fewer\)" if others else ""
    with pytest.raises(DataError, match=rf"but line {line} has {fields}{more}: is the file complete"):
        check_lines(table(tmp_path, rows, name), ",", 3)


@pytest.mark.parametrize(
    "rows",
    [
        "",
        "a,1,0\n\nb,2,1\n",
        "a,1,0\r\n\r\nb,,\r\n",
        '"a",1,"x ""y"" z"\n',
        '"a\nb\nc",1,0\n',
        "a,1,0,more\n",
        'a,5" x,6" y\n',
        '"x""\n,y",1,0\n',
    ],
    ids=[
        "no rows",
        "an empty line",
        "carriage returns",
        "quotes in quotes",
        "one row of three lines",
        "too many",
        "marks that are no quotes",
        "a separator in quotes on the second line",
    ],
)
def test_whole_lines_pass(rows: str, tmp_path: Path) -> None:
    check_lines(table(tmp_path, rows), ",", 3)


ROWS = "".join(f"{row},{row}.5,0\n" for row in range(9))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('a,5" x,0\n' + ROWS, "line 2: a quote does not enclose a complete field"),
        (ROWS + '"a,1,0\n' + ROWS + '"b,1,0\n', "line 11: a quote is not closed before line 21"),
        (ROWS + '"a,1,0\n' + ROWS + 'b",1,0\n', "line 11: a quote is not closed before line 21"),
        (ROWS + 'a,",0\n' + ROWS + 'b,",0\n', "line 11: a quote is not closed before line 21"),
        (ROWS + 'a,1,"0\n' + ROWS, "line 11: a quote is not closed before line 20"),
        ('"a"x,1,0\n' + ROWS, "line 2: a quote does not enclose a complete field"),
        ('"a\n5" x",1,0\n', "line 2: a quote is not closed before line 3"),
        ("a, b,1,\n", "line 2: has 4 fields and the first line 3: put quotes around a field that holds ','"),
        (ROWS + "a,1,0,\r\n", "line 11: has 4 fields"),
        ("a,1\x00,0\n", "line 2: holds a NUL byte"),
    ],
    ids=[
        *("a lone quote", "two that open", "one that opens, one that closes", "two that are whole fields"),
        *("to the end", "behind a field", "a lone quote on two lines", "a hidden comma", "one at the end", "NUL"),
    ],
)
@pytest.mark.parametrize("used", [True, False])
def test_what_is_no_table_is_refused_by_its_line(rows: str, message: str, used: bool, tmp_path: Path) -> None:
    """Whether the market reads the column or not: fields behind it are shifted, or rows are swallowed, all the same."""
    path = table(tmp_path, rows)
    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
        open_sources([path], ["amount" if used else "label"])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("blank", ["", "  ", "\t"])
def test_blank_lines_are_no_rows(end: str, blank: str, tmp_path: Path) -> None:
    rows = end.join(["a,1,0", blank, 'b,2,"x\n\ny"', ",,", "c,3,", blank, blank, ""])
    (source,) = open_sources([table(tmp_path, rows)], [])
    assert source.scan(["id", "amount"]).collect()["id"].to_list() == ["a", "b", "c"]


def test_a_row_of_nothing_is_a_row_where_no_line_is_blank(tmp_path: Path) -> None:
    (source,) = open_sources([table(tmp_path, "a,1,0\n,,\n")], [])
    assert source.scan(["id"]).collect()["id"].to_list() == ["a", None]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,amount,id", "two columns are called 'id'"),
        ("\ufeffid,amount, id", "two columns are called 'id'"),
        ("\ufeffid,amount,\ufeffid\xa0", "two columns are called 'id'"),
        ('id,"amount,label', "a quote is not closed"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_headers_that_are_refused(header: str, message: str, name: str, tmp_path: Path) -> None:
    if name == "a.tsv":
        if '"' in header:
            return
        header = header.replace(",", "\t")
    (tmp_path / name).write_text(f"{header}\n")
    with pytest.raises(DataError, match=f"{name}: line 1: {message}"):
        open_sources([str(tmp_path / name)], [])


def test_columns_without_a_name_are_not_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeffid,,label,\na,1,0,\n")
    (source,) = open_sources([str(path)], [])
    assert source.scan(["id", "label"]).collect().rows() == [("a", "0", None)]


def test_what_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    """A row over two lines makes it read field by field, and then a field has its limit."""
    with pytest.raises(DataError, match=r"line 4: cannot be read: field larger than"):
        check_lines(table(tmp_path, '"a\nb",1,0\n' + "x" * (MAX_FIELD_BYTES + 1) + ",1,0\n"), ",", 3)


def test_long_fields_are_read(tmp_path: Path) -> None:
    """A note of 200,000 letters is no quote that was left open."""
    assert not check_lines(table(tmp_path, '"' + "x\n" * 100_000 + '",1,0\n' + "y" * 200_000 + ",1,0\n"), ",", 3)


@pytest.mark.parametrize("rows", ["a,1,0\r\r\nb,1,0\r\r\n", "a,1,0\nb,1,0\r\r\n"])
def test_lines_that_end_in_two_carriage_returns(rows: str, tmp_path: Path) -> None:
    """The last column was read as empty, or with a CR in each value."""
    with pytest.raises(DataError, match=r"line [23] ends in CR CR LF"):
        check_lines(table(tmp_path, rows), ",", 3)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(*[st.text(alphabet='a" \x01', max_size=5) | st.sampled_from(['"x ""y"""', '""', '"a"'])] * 3),
        min_size=1,
        max_size=5,
    )
)
def test_a_table_of_tabs_holds_what_stands_between_them(rows: list[tuple[str, ...]], tmp_path: Path) -> None:
    """Whatever quotes there are, and however the file is read for their sake: those around a whole field are taken off."""
    path = tmp_path / "log.tsv"
    path.write_text("\n".join("\t".join(row) for row in [("id", '"at"', "x"), *rows]) + "\n")
    (source,) = open_sources([str(path)], [])
    found = source.scan(["id", "at", "x"]).select(pl.all().fill_null("")).collect()
    whole = re.compile(r'"(?:[^"]|"")*"')
    expected = [tuple(v[1:-1].replace('""', '"') if whole.fullmatch(v) else v for v in row) for row in rows]
    assert found.select("id", "at", "x").rows() == expected


@pytest.mark.parametrize(
    ("header", "mark"),
    [
        ("id\tat\tamount", "\t"),
        ("id,at,amount", ","),
        ("id\tamount, net\tat", "\t"),
        ('id,"amount\tnet",at', ","),
        ("id", "as called"),
        ("", "as called"),
        ("id;at;amount, net", ";"),
        ("id|at|amount", "|"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_the_header_says_what_separates_fields(header: str, mark: str, name: str, tmp_path: Path) -> None:
    path, data = tmp_path / name, (header + "\n").encode() if header else b""
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    called = "tsv" if ".tsv" in name else "csv"
    expected = SEPARATORS[called] if mark == "as called" else mark
    assert separator_of_header(first_line(str(path)), called) == expected


def test_a_log_of_tabs_that_is_called_csv_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"id\tamount\tlabel\na,a\t1\t0\n"))
    source = open_sources([str(path)], [])[0]
    assert source.kind == "tsv"
    assert source.scan(["id", "amount"]).collect().rows() == [("a,a", "1", None)]
