"""Lines of text tables: whether each has as many fields as the first. It knows separators and quotes, not columns."""

from __future__ import annotations

import csv
import re

import polars as pl

from tsa.errors import DataError

LINE = "line"
QUOTE = '"'


def refuse_short(path: str, separator: str, count: int, *, quoted: bool = True) -> None:
    """DataError where a row of the table has fewer than `count` fields: Polars would read its last ones as missing.

    quoted: whether a field may stand in quotes, separators and all. Empty lines are left to the rules for rows.
    """
    lines = pl.scan_lines(path, name=LINE, glob="://" in path)
    line = pl.col(LINE)
    # quotes cost time and are rare: what a field holds in quotes does not count, and others are letters like any
    fields, has_quote = rf'(^|{re.escape(separator)})"(?:[^"]|"")*"', line.str.contains(QUOTE, literal=True)
    bare = pl.when(has_quote).then(line.str.replace_all(fields, "$1")).otherwise(line) if quoted else line
    suspicious = (line != "") & (bare.str.count_matches(separator, literal=True) + 1 < count)
    if not lines.select(suspicious.any()).collect(engine="streaming").item():
        return
    # which of them are parts of rows that go over several lines, in quotes, only reading from the start tells
    if short := _short_rows(lines, separator, count, path, quoted):
        number, has = short[0]
        raise DataError(
            f"{path}: the first line has {count} fields, and so must all others, however: line {number} has {has} "
            f"(and {len(short) - 1} more lines have fewer): is the file whole?"
        )


def kind_of_header(path: str, kind: str) -> str:
    """ "csv" or "tsv", as the first line has it: files are called `.csv` and separated by tabs, or the other way round.

    A tab outside quotes settles it, since no column has one in its name; where there is none, a comma does.
    """
    first = pl.scan_lines(path, name=LINE, glob="://" in path).head(1).collect()
    bare = re.sub(r'"(?:[^"]|"")*"', "", first[LINE].item() or "") if len(first) else ""
    return "tsv" if "\t" in bare else "csv" if "," in bare else kind


def has_lone_quotes(path: str, separator: str) -> bool:
    """Whether a quote stands elsewhere than around a whole field, or doubled inside such a one, which holds no separator."""
    whole, mark = rf'(^|{re.escape(separator)})"(?:[^"{re.escape(separator)}]|"")*"', "\x01"
    line = pl.col(LINE)
    left = line.str.replace_all(whole, f"${{1}}{mark}")
    lone = left.str.contains(QUOTE, literal=True) | left.str.contains(f"{mark}[^{re.escape(separator)}]")
    lines = pl.scan_lines(path, name=LINE, glob="://" in path).filter(line.str.contains(QUOTE, literal=True))
    return bool(lines.select(lone.any()).collect(engine="streaming").item())


def _short_rows(lines: pl.LazyFrame, separator: str, count: int, path: str, quoted: bool) -> list[tuple[int, int]]:
    """Of each row with fewer fields, empty ones apart, the number of its last line and how many it has. DataError."""
    text = (f"{line}\n" for batch in lines.collect_batches(maintain_order=True) for line in batch[LINE])
    rows = csv.reader(text, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    try:
        return [(rows.line_num, len(row)) for row in rows if 0 < len(row) < count]
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num} cannot be read: {error}") from error
