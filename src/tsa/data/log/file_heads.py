"""Check the start of a file: whether its format matches its name, and the column names in the first line of a table."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tsa.config.input import Input
from tsa.data.spelling import BLANKS
from tsa.errors import DataError
from tsa.text import brief

HEAD_BYTES = 65_536
BOM = "\ufeff"
SEPARATORS = {"csv": ",", "tsv": "\t"}
"""The usual separator of each kind of table. Only in tab-separated ones may quotes be ordinary characters."""
LINE = "line"
MAX_NAME = 100_000
"""The most characters of a column name, below the limit of Python's reader of tables."""
COMPRESSED = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
"""The first bytes of a file with each ending."""
MAX_DIGITS = 38
"""The most digits of a decimal or an integer that Polars can hold."""

COMMA_DECIMALS = (
    r"^[+-]?(?:[0-9]+|[0-9]{1,3}(?:\.[0-9]{3})+)?,(?:[0-9]{1,2}|[0-9]{4,})$|^[+-]?0?,[0-9]+$|\.[0-9]{3},[0-9]+$"
)
"""Numbers whose comma can only be before the decimals."""
POINT_DECIMALS = (
    r"^[+-]?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)?\.(?:[0-9]{1,2}|[0-9]{4,})$|^[+-]?0?\.[0-9]+$|,[0-9]{3}\.[0-9]+$"
)
"""Numbers whose point can only be before the decimals."""
GUESSES = {
    "encoding": "the text is in {}",
    "separator": "fields are separated by {}",
    "quote": "fields are quoted by {}",
    "decimal": "numbers have a decimal comma",
}
"""Sentences on options of `[input]` that were guessed."""

_OFFSET = re.compile(r"(?:[+-](?:0[0-9]|1[0-2])|\+1[34]):?00")  # full hours only: those are time zones too

MAGIC = {
    b"PK\x03\x04": "an Excel or zip file; export it as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel file; export it as CSV in UTF-8",
    b"PAR1": "a Parquet file; name it .parquet",
    b"ORC": "an ORC file; export it as Parquet",
    b"Obj\x01": "an Avro file; export it as Parquet",
    b"ARROW1": "an Arrow file; export it as Parquet",
    b"\x1f\x8b": "compressed by gzip; rename it to end in .gz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; rename it to end in .zst",
    b"BZh": "compressed by bzip2; compress it by gzip",
    b"\xff\xfe": "in UTF-16; save it as UTF-8",
    b"\xfe\xff": "in UTF-16; save it as UTF-8",
}


def refuse_other_kinds(path: str, kind: str) -> None:
    """Check that a local file has the format that its name says, and is not empty.

    Raises:
        DataError: If not.
        OSError: If the file cannot be read.
    """
    if "://" in path:
        return
    if kind == "parquet":
        _refuse_torn_parquet(path)
        return
    _refuse_not_compressed(path)
    with pa.input_stream(path) as stream:
        head = stream.read(HEAD_BYTES)
    if not head.strip():
        raise DataError(f"{path}: is empty")
    for magic, what in MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path}: is {what}")
    if head[:400].count(0) > len(head[:400]) // 4:
        raise DataError(f"{path}: is in UTF-16; save it as UTF-8")
    if kind == "json" and head.startswith(BOM.encode()):
        raise DataError(f"{path}: begins with a byte order mark; save it as UTF-8 without one")
    if b"\r" in head and b"\n" not in head:
        raise DataError(f"{path}: has lines that end in CR only; save it with LF or CRLF line ends")


def _refuse_not_compressed(path: str) -> None:
    for end, magic in COMPRESSED.items():
        if not path.lower().endswith(end):
            continue
        with Path(path).open("rb") as file:
            head = file.read(len(magic))
        if not head:
            raise DataError(f"{path}: is empty")
        if head != magic:
            raise DataError(f"{path}: is not compressed as its name says; let it end without {end}")


def _refuse_torn_parquet(path: str) -> None:
    with Path(path).open("rb") as file:
        head = file.read(4)
        size = file.seek(0, 2)
        file.seek(max(0, size - 4))
        tail = file.read(4)
    if not size:
        raise DataError(f"{path}: is empty")
    if head != b"PAR1":
        raise DataError(f"{path}: is not a Parquet file; export it as Parquet, or rename it to match its format")
    if tail != b"PAR1":
        raise DataError(f"{path}: is a Parquet file that is cut off; copy it again")
    _refuse_unknown_types(path)


def _refuse_unknown_types(path: str) -> None:
    """DataError for a column of a type that Polars cannot hold: Polars ends the process without a Python error."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return  # the reader reports it
    for column in schema:
        kind = column.type
        if pa.types.is_decimal(kind) and kind.precision > MAX_DIGITS:
            what = f"decimals must have at most {MAX_DIGITS} digits (got {kind}); export them as texts"
        elif pa.types.is_timestamp(kind) and kind.tz is not None and not _is_zone(kind.tz):
            what = (
                f"times must have a time zone such as UTC or Europe/Berlin (got {brief(kind.tz)!r}); export them in UTC"
            )
        else:
            continue
        raise DataError(f"{path}: {brief(column.name)}: {what}")


def _is_zone(name: str) -> bool:
    try:
        pl.Series([], dtype=pl.Int64).cast(pl.Datetime("us", name))
    except pl.exceptions.PolarsError:
        return _OFFSET.fullmatch(name) is not None
    return True


def first_line(path: str) -> str:
    """The first line of a text file, without line end and byte order mark."""
    first = pl.scan_lines(path, name=LINE, glob="://" in path).head(1).collect()
    return str(first[LINE].item() or "").rstrip("\r").removeprefix(BOM) if len(first) else ""


def separator_of_header(line: str, kind: str) -> str:
    """The separator of a table with this first line: some `.csv` files are tab-separated, some `.tsv` files are not.

    A tab outside quotes decides, since no column name has one. Otherwise the most frequent of commas, semicolons and
    bars decides. If there are none of these, it is the usual one of the kind.
    """
    bare = re.sub(r'"(?:[^"]|"")*"', "", line)
    if "\t" in bare:
        return "\t"
    mark, highest = Counter({mark: bare.count(mark) for mark in (",", "\t", ";", "|")}).most_common(1)[0]
    return mark if highest else SEPARATORS[kind]


def quote_of_header(line: str, separator: str) -> str:
    """The quote of a table with this first line: `'` if that encloses every name, else `"`."""
    names = line.split(separator)
    return "'" if all(re.fullmatch(r"'[^']+'", name.strip()) for name in names) else '"'


def guessed_of_header(kind: str, mark: str, quote: str, reading: Input) -> dict[str, str]:
    """Options of `[input]` that were guessed from the first line of a table, where they are not what its name says."""
    guessed = {}
    if reading.separator is None and mark != SEPARATORS[kind]:
        guessed["separator"] = mark
    if reading.quote is None and quote != '"':
        guessed["quote"] = quote
    return guessed


def decimal_of_rows(rows: pl.DataFrame) -> str | None:
    """How numbers are written in these columns of texts: "," or "." before the decimals; None if they do not show it.

    "1,234" and "1.234" do not: the mark may also group the thousands.
    """
    numbers = pl.concat([rows[name].str.strip_chars() for name in rows.columns]) if rows.width else pl.Series([""])
    if numbers.str.contains(POINT_DECIMALS).any():
        return "."
    return "," if numbers.str.contains(COMMA_DECIMALS).any() else None


def names_of(line: str, separator: str, quote: str, path: str) -> list[str]:
    """The column names. A column without a name gets one that no market can use.

    Args:
        quote: What may enclose a name, with separators in it. In tab-separated tables it encloses complete names only.

    Raises:
        DataError: If two names differ only in blanks or byte order marks, or a quote is not closed.
    """
    if not line.strip():
        raise DataError(f"{path}: line 1 is blank; it must hold the names of the columns")
    if separator in line and any(len(name) > MAX_NAME for name in line.split(separator)):
        raise DataError(f"{path}: line 1: a name is too long; the line must hold the names of the columns")
    if "\r" in line:
        raise DataError(f"{path}: line 1 holds a CR; save the file with line ends of LF or CRLF")
    if separator == "\t" or not quote or separator not in line:
        names = [_unquoted(name, quote) for name in line.split(separator)]
    else:
        try:
            names = next(csv.reader([line], delimiter=separator, quotechar=quote, strict=True), [])
        except csv.Error:
            raise DataError(
                f"{path}: line 1: a quote is not closed, or does not enclose a complete name; correct the line"
            ) from None
    plain = Counter(name.strip(BLANKS + BOM) for name in names)
    if twice := [name for name, count in plain.items() if name and count > 1]:
        raise DataError(f"{path}: line 1: two columns are called {brief(twice[0])!r}; rename one or leave it out")
    return [name if name.strip(BLANKS) else f"__unnamed_{at}" for at, name in enumerate(names)]


def _unquoted(name: str, quote: str) -> str:
    q = re.escape(quote)
    enclosed = quote and re.fullmatch(rf"{q}(?:[^{q}]|{q}{q})*{q}", name)
    return name[1:-1].replace(quote * 2, quote) if enclosed else name
